"""Parameter groups by pattern: first match, rates by hand, mistakes; and the groups of every DEIMv2 model."""

import functools
import logging
from collections.abc import Callable

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmext.engine.pattern_groups import split_by_pattern
from mmext.models.deim.groups import default_groups, published_groups
from mmext.models.deim.variants import VARIANTS
from mmext.registry import MODELS
from tests.engine.test_optim import Toy
from tests.models.deim_models import build_backbone, build_encoder, decoder_config

BASE, BACKBONE = 0.1, 0.02
FAST = ('n', 's')


def build(model: nn.Module, paramwise_cfg: dict | None, **optimizer: object) -> list[dict]:
    """The parameter groups of the optimizer."""
    optimizer = dict(type='SGD', lr=BASE, weight_decay=0.5) | optimizer
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer={key: value for key, value in optimizer.items() if value is not None},
            constructor='mmext.PatternOptimWrapperConstructor',
            paramwise_cfg=paramwise_cfg,
        ),
    )
    return wrapper.optimizer.param_groups


def rates_and_decays(
    model: nn.Module, patterns: list[dict], **optimizer: object
) -> dict[str, tuple]:
    """(rate, weight decay) of every parameter, which must be in one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build(model, dict(patterns=patterns), **optimizer)
    found = [
        (names[id(parameter)], (group['lr'], group['weight_decay']))
        for group in groups
        for parameter in group['params']
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_split_by_pattern__the_first_that_is_found_counts() -> None:
    names = ['a.norm', 'b.norm', 'a.x', 'c']
    assert split_by_pattern(names, ['^a', 'norm$']) == [['a.norm', 'a.x'], ['b.norm'], ['c']]


def test_constructor__rates_and_decays_by_hand() -> None:
    patterns = [
        dict(pattern='norm', lr_mult=0.5, decay_mult=0.0),
        dict(pattern=r'^conv\.(?!bias)', lr=0.3, decay_mult=0.2),
        dict(pattern='bias|embedding', weight_decay=0.7),
        dict(pattern='linear'),
    ]
    assert rates_and_decays(Toy(), patterns) == {
        'norm.weight': (0.05, 0.0),
        'norm.bias': (0.05, 0.0),
        'conv.weight': (0.3, 0.1),
        'conv.bias': (0.1, 0.7),
        'embedding.weight': (0.1, 0.7),
        'linear.weight': (0.1, 0.5),
        'scale': (0.1, 0.5),
    }


def test_constructor__without_a_rest() -> None:
    (group,) = build(Toy(), dict(patterns=[dict(pattern='', lr=1.0)]))
    assert len(group['params']) == 7 and group['lr'] == 1.0


def test_constructor__the_optimizers_own_decay_where_the_config_has_none() -> None:
    model = Toy()
    groups = build(
        model, dict(patterns=[dict(pattern='norm', weight_decay=0.0)]), weight_decay=None
    )
    assert [group['weight_decay'] for group in groups] == [0.0, 0.0]
    groups = build(
        model, dict(patterns=[dict(pattern='norm', lr=1.0)]), type='AdamW', weight_decay=None
    )
    assert [group['weight_decay'] for group in groups] == [0.01, 0.01]  # torch's default


def test_constructor__groups_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    logger = MMLogger.get_instance('test_pattern_groups', log_level='INFO')
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        build(Toy(), dict(patterns=[dict(pattern='conv', lr=0.25)]))
    logger.removeHandler(caplog.handler)
    # 4 x 3 x 3 x 3 weights and 4 biases; scale 4, norm 8, embedding 30, linear 30.
    assert [record.getMessage() for record in caplog.records] == [
        'parameter group conv: 2 tensors with 112 numbers, lr 0.25, weight decay 0.5',
        'parameter group of the rest: 5 tensors with 72 numbers, lr 0.1, weight decay 0.5',
    ]


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (dict(lr=0.1), r'patterns\[0\]: got the keys .*expected pattern'),
        (dict(pattern='conv', momentum=0.1), 'expected pattern and any of .*decay_mult'),
        (dict(pattern='conv', lr=0.1, lr_mult=0.1), 'expected one of them'),
        (dict(pattern='conv', decay_mult=-1.0), 'of at least 0'),
        (dict(pattern='conv('), 'no regular expression: missing'),
        (dict(pattern='decoder'), "left for 'decoder': no name fits"),
        (dict(pattern='frozen'), 'all 2 that fit are frozen'),
    ],
    ids=['no-pattern', 'unknown-key', 'twice', 'negative', 'no-regex', 'misspelt', 'frozen'],
)
def test_constructor__a_wrong_entry_is_named(entry: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(Toy(), dict(patterns=[entry]))


@pytest.mark.parametrize(
    ('paramwise_cfg', 'optimizer', 'message'),
    [
        (None, {}, r'patterns=\[dict\(pattern'),
        (dict(patterns=[]), {}, 'at least one entry'),
        (dict(patterns=[dict(pattern='a')], bias_decay_mult=0.0), {}, 'and nothing else'),
        (
            dict(patterns=[dict(pattern='conv'), dict(pattern='conv.bias')]),
            {},
            r'conv\.bias, \.\.\.\) belong to earlier patterns',
        ),
        (
            dict(patterns=[dict(pattern='conv', decay_mult=0.1)]),
            dict(weight_decay=None),
            'has no weight_decay',
        ),
    ],
    ids=['none', 'empty', 'another-option', 'taken', 'no-base'],
)
def test_constructor__wrong_settings_are_named(
    paramwise_cfg: dict | None, optimizer: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(Toy(), paramwise_cfg, **optimizer)


def every_size(test: Callable) -> Callable:
    """Two sizes at once, the others among the slow tests."""
    names = [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in VARIANTS
    ]
    return pytest.mark.parametrize('name', names)(test)


@functools.cache
def network(name: str) -> nn.Module:
    """A size without memory: names, shapes and what is frozen."""
    with torch.device('meta'):
        return nn.ModuleDict(
            dict(
                backbone=build_backbone(name),
                neck=build_encoder(name),
                decoder=MODELS.build(decoder_config(VARIANTS[name])),
            )
        )


@every_size
def test_default_groups__matrices_decay_and_nothing_else(name: str) -> None:
    model = network(name)
    found = rates_and_decays(model, default_groups(name, BACKBONE))
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert found.keys() == trained.keys()
    trunk = 'backbone.dinov3.' if VARIANTS[name].backbone == 'dinov3_sta' else 'backbone.'
    for key, parameter in trained.items():
        rate = BACKBONE if key.startswith(trunk) else BASE
        assert found[key] == (rate, 0.5 if parameter.ndim > 1 else 0.0), key


def published_by_hand(name: str, key: str, owner: nn.Module) -> tuple[float, float]:
    """(rate, weight decay) as section 7 of the design says it in words."""
    part, _, inner = key.partition('.')
    is_norm = type(owner).__name__ in ('BatchNorm2d', 'LayerNorm', 'RMSNorm')
    is_bias = key.endswith('bias')
    # Batch norms in an nn.Sequential have no name of their own.
    is_named_norm = is_norm and ('sta.' not in key and 'down_sample' not in key)
    if VARIANTS[name].backbone == 'dinov3_sta' and part == 'backbone':
        if inner.startswith('dinov3.'):
            return BACKBONE, 0.0 if is_norm or is_bias else 0.5
        return BASE, 0.0 if inner.startswith('sta.') and is_bias else 0.5
    if part == 'backbone':
        if name in ('hgs', 'hgm') and is_norm:
            return BASE, 0.0
        return BACKBONE, 0.5
    bias_decays = name in ('atto', 'hgs', 'hgm', 'hgl', 'hgx')
    return BASE, 0.0 if is_named_norm or (is_bias and not bias_decays) else 0.5


@every_size
def test_published_groups__as_the_design_notes_say(name: str) -> None:
    model = network(name)
    found = rates_and_decays(model, published_groups(name, BACKBONE))
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner = model.get_submodule(key.rpartition('.')[0])
            assert found.pop(key) == published_by_hand(name, key, owner), key
    assert not found


@pytest.mark.parametrize(
    ('name', 'key', 'published', 'ours'),
    [
        ('s', 'backbone.sta.stem.1.weight', (BASE, 0.5), (BASE, 0.0)),
        ('s', 'backbone.norms.0.weight', (BASE, 0.5), (BASE, 0.0)),
        ('s', 'backbone.dinov3._model.cls_token', (BACKBONE, 0.5), (BACKBONE, 0.5)),
        ('n', 'backbone.stem.stem1.bn.weight', (BACKBONE, 0.5), (BACKBONE, 0.0)),
        pytest.param(
            'hgs',
            'backbone.stem.stem1.bn.weight',
            (BASE, 0.0),
            (BACKBONE, 0.0),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            'atto', 'decoder.enc_score_head.bias', (BASE, 0.5), (BASE, 0.0), marks=pytest.mark.slow
        ),
    ],
    ids=['sta-norms', 'fusion-norms', 'tokens', 'slip', 'hgs', 'atto'],
)
def test_groups__the_accidents_of_the_published_ones_are_not_ours(
    name: str, key: str, published: tuple, ours: tuple
) -> None:
    model = network(name)
    assert rates_and_decays(model, published_groups(name, BACKBONE))[key] == published
    assert rates_and_decays(model, default_groups(name, BACKBONE))[key] == ours
