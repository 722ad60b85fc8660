"""Names in registries: what they resolve to in each scope, and what the error says."""

import mmengine.registry as root
import pytest
from mmengine.registry import DefaultScope

from mmext.registry import (
    HOOKS,
    MODELS,
    UnknownNameError,
    explain_missing,
    readable_registry_errors,
    register_all_modules,
)


@pytest.fixture(autouse=True)
def thing():
    """A class of ours, registered for the time of one test under a name that nobody else has."""

    class MangoSplitter:
        pass

    MODELS.register_module(module=MangoSplitter)
    yield MangoSplitter
    MODELS.module_dict.pop('MangoSplitter')


@pytest.fixture
def scope(request):
    with DefaultScope.overwrite_default_scope(request.param):
        yield request.param


in_mmdet = pytest.mark.parametrize('scope', ['mmdet'], indirect=True)


def _message(registry, name, **cfg):
    with pytest.raises(UnknownNameError) as caught, readable_registry_errors():
        registry.build(dict(type=name, **cfg))
    return str(caught.value)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmengine'], indirect=True)
def test_build__prefixed_name_resolves_in_every_scope(scope, thing):
    assert isinstance(root.MODELS.build(dict(type='mmext.MangoSplitter')), thing)


@in_mmdet
@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        pytest.param(
            'mmext.MangoSpliter',
            '`mmext.MangoSpliter` is not in the mmext::model registry; '
            'did you mean `mmext.MangoSplitter`?',
            id='mistyped',
        ),
        pytest.param(
            'MangoSplitter',
            '`MangoSplitter` is not in the mmdet::model registry; '
            'did you mean `mmext.MangoSplitter`?',
            id='unscoped',
        ),
        pytest.param(
            'mmdet.MangoSplitter',
            '`mmdet.MangoSplitter` is not in the mmdet::model registry; '
            'did you mean `mmext.MangoSplitter`?',
            id='other-scope',
        ),
        pytest.param(
            'RetinaHed',
            '`RetinaHed` is not in the mmdet::model registry; did you mean `mmdet.RetinaHead`?',
            id='mistyped-stock',
        ),
        pytest.param(
            'mmext.RetinaHead',
            '`mmext.RetinaHead` is not in the mmext::model registry; '
            'did you mean `mmdet.RetinaHead`?',
            id='stock-under-our-scope',
        ),
    ],
)
def test_build__unknown_name_suggests_the_nearest(scope, name, hint):
    assert _message(root.MODELS, name) == hint


@in_mmdet
def test_build__name_of_another_kind_says_where_it_belongs(scope):
    assert _message(root.HOOKS, 'mmext.MangoSplitter') == (
        '`mmext.MangoSplitter` is not in the mmext::hook registry; `mmext.MangoSplitter` is in '
        'the mmext::model registry: use it there'
    )


@in_mmdet
def test_build__nothing_near_lists_our_names(scope):
    assert 'mmext has: ' in _message(root.MODELS, 'mmext.Qqqq')
    assert 'mmext.MangoSplitter' in _message(root.MODELS, 'mmext.Qqqq')


@in_mmdet
def test_build__kind_that_mmdet_names_otherwise_is_understood(scope):
    message = _message(root.OPTIM_WRAPPER_CONSTRUCTORS, 'DefaultOptimWrapperConstructr')
    assert message.endswith('did you mean `DefaultOptimWrapperConstructor`?')


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'], indirect=True)
def test_build__our_scope_is_transparent_to_the_enclosing_one(scope):
    # Both mmdet and mmseg have a CrossEntropyLoss; `_base_='mmext::...'` writes _scope_='mmext'.
    loss = root.MODELS.build(dict(type='CrossEntropyLoss', _scope_='mmext'))
    assert type(loss).__module__.startswith(f'{scope}.')


@in_mmdet
def test_build__transparent_scope_prefers_the_enclosing_over_the_root(scope):
    # mmcv registers a LoadAnnotations at the root, mmdet one of its own: a config for mmdet means mmdet's.
    transform = root.TRANSFORMS.build(dict(type='LoadAnnotations', _scope_='mmext'))
    assert type(transform).__module__.startswith('mmdet.')


@in_mmdet
def test_build__transparent_scope_finds_ours_without_a_prefix(scope, thing):
    assert isinstance(root.MODELS.build(dict(type='MangoSplitter', _scope_='mmext')), thing)


@in_mmdet
def test_get__prefix_never_reaches_into_the_enclosing_scope(scope):
    with pytest.raises(UnknownNameError, match='did you mean `mmdet.RetinaNet`'):
        root.MODELS.get('mmext.RetinaNet')


@in_mmdet
def test_get__import_paths_resolve(scope):
    # The form that mmengine writes when it dumps a config with classes in it.
    assert root.HOOKS.get('mmext.registry.ScopedRegistry').__name__ == 'ScopedRegistry'
    assert MODELS.get('torch.nn.ReLU').__name__ == 'ReLU'


def test_contains__says_no_instead_of_raising():
    assert 'mmext.MangoSplitter' in MODELS
    assert 'mmext.MangoSpliter' not in MODELS
    assert 'MangoSplitter' not in HOOKS


def test_every_kind__has_a_place_to_import_from():
    # A registry without one makes mmengine call `mmext.utils` with a warning on each look-up.
    for kind in ('MODELS', 'HOOKS', 'LOOPS', 'OPTIMIZERS', 'VISBACKENDS', 'RUNNERS', 'EVALUATOR'):
        child = getattr(root, kind).children['mmext']
        child.import_from_location()
        assert child._locations and child.name == getattr(root, kind).name


def test_explain_missing__other_key_errors_are_left_alone():
    assert explain_missing(KeyError('lr')) is None
    assert explain_missing(KeyError()) is None
    with pytest.raises(KeyError, match='lr') as caught, readable_registry_errors():
        raise KeyError('lr')
    assert type(caught.value) is KeyError


def test_readable_registry_errors__keeps_the_cause():
    with (
        pytest.raises(UnknownNameError) as caught,
        DefaultScope.overwrite_default_scope('mmdet'),
        readable_registry_errors(),
    ):
        root.MODELS.build(dict(type='MangoSplitter'))
    assert isinstance(caught.value.__cause__, KeyError)


def test_register_all_modules__fills_the_registries_and_sets_the_scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        register_all_modules(init_default_scope=False)
        assert DefaultScope.get_current_instance().scope_name == 'mmdet'
        register_all_modules()
        assert DefaultScope.get_current_instance().scope_name == 'mmext'
        assert type(root.MODELS.build(dict(type='SmoothL1Loss'))).__module__.startswith('mmdet.')
