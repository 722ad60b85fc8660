"""Every setting of `test_cfg` in every mode: one that does nothing is named, one that does something is not."""

import pytest
from mmengine.logging import MMLogger

from mmext.models.yolo.idle_settings import warn_of_idle_settings
from mmext.models.yolo.postprocess import TestSettings, read_settings
from mmext.models.yolo.query_postprocess import split_test_config
from mmext.registry import MODELS
from tests.models.yolo_models import head_config

NMS = dict(type='nms', iou_threshold=0.6)
# As in the shipped configs: every setting, at a value that asks for something.
SETTINGS = dict(
    score_thr=0.1,
    nms_pre=30000,
    nms=NMS,
    max_per_img=100,
    multi_label=True,
    mask_thr_binary=0.4,
    mask_box_expand=0.1,
    mask_format='rle',
)
CASES = {
    # mode with its settings, seeds, classes: settings without effect
    'queries-learned': (dict(mode='queries'), 0, 5, {'nms', 'nms_pre', 'mask_box_expand'}),
    'queries-few': (
        dict(mode='queries'),
        0,
        1,
        {'nms', 'nms_pre', 'mask_box_expand', 'max_per_img'},
    ),
    'queries-of-seeds': (dict(mode='queries'), 50, 5, {'nms_pre', 'mask_box_expand'}),
    'seeded': (
        dict(mode='seeded'),
        50,
        5,
        {'nms_pre', 'mask_box_expand', 'max_per_img', 'multi_label'},
    ),
    'matched': (dict(mode='matched'), 0, 5, set()),
    'matched-of-seeds': (dict(mode='matched'), 50, 5, set()),
    'matched-drop': (dict(mode='matched', unmatched='drop'), 0, 5, {'mask_box_expand'}),
}


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Warnings from now on."""
    found: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', found.append)
    return found


def named(message: str) -> set[str]:
    """The settings that a warning names, each before its reason in brackets."""
    return {key for key in SETTINGS if f' {key} (' in message}


def warn(test_cfg: dict, num_seeds: int, num_classes: int) -> None:
    mode, rest = split_test_config(test_cfg, is_seeded=num_seeds > 0)
    warn_of_idle_settings(
        rest, mode, num_seeds=num_seeds, num_queries=num_seeds or 60, num_classes=num_classes
    )


def test_settings__are_all_there_are() -> None:
    assert set(SETTINGS) == set(vars(TestSettings()))


@pytest.mark.parametrize(('mode', 'num_seeds', 'num_classes', 'idle'), CASES.values(), ids=CASES)
def test_warning__names_what_the_mode_does_not_use(
    mode: dict, num_seeds: int, num_classes: int, idle: set[str], messages: list[str]
) -> None:
    warn(SETTINGS | mode, num_seeds, num_classes)
    assert len(messages) == bool(idle)
    assert set().union(*map(named, messages)) == idle
    for message in messages:
        assert f"mode='{mode['mode']}'" in message


@pytest.mark.parametrize(
    ('mode', 'num_seeds', 'num_classes'), [c[:3] for c in CASES.values()], ids=CASES
)
def test_warning__none_of_settings_that_nobody_set(
    mode: dict, num_seeds: int, num_classes: int, messages: list[str]
) -> None:
    warn(mode, num_seeds, num_classes)
    assert messages == []


def test_warning__none_of_values_that_ask_for_what_happens_anyway(messages: list[str]) -> None:
    as_it_is = dict(mask_box_expand=0.0, multi_label=False, max_per_img=50, nms_pre=500, nms=NMS)
    warn(dict(mode='seeded') | as_it_is, 50, 5)
    warn(dict(mode='queries', nms=None, mask_box_expand=0.0, max_per_img=300), 0, 5)
    assert messages == []


@pytest.mark.parametrize(
    ('test_cfg', 'nms_free', 'idle'),
    [
        (SETTINGS, False, set()),
        (SETTINGS, True, {'nms', 'nms_pre'}),
        (SETTINGS | dict(nms=None), False, {'nms_pre'}),
        (dict(nms=None), True, set()),
        (None, True, set()),
    ],
    ids=['nms', 'nms_free', 'no-nms', 'nms_free-no-nms', 'nothing-set'],
)
def test_segment__warning_names_what_does_nothing(
    test_cfg: dict | None, nms_free: bool, idle: set[str], messages: list[str]
) -> None:
    settings = read_settings(test_cfg, nms_free=nms_free)
    assert (settings.nms is None) == (nms_free or test_cfg == SETTINGS | dict(nms=None))
    assert len(messages) == bool(idle)
    assert set().union(*map(named, messages)) == idle


def test_head__warns_once_when_it_is_built(messages: list[str]) -> None:
    det = head_config(loss_scale='mean')
    train_cfg, _ = det.pop('train_cfg'), det.pop('test_cfg')
    MODELS.build(
        dict(
            type='mmext.SegmentAttention',
            det=det,
            decoder=dict(
                type='mmext.QueryMaskDecoder',
                embed_dims=16,
                num_heads=2,
                num_layers=1,
                feedforward_channels=16,
            ),
            criterion=dict(type='mmext.QueryCriterion', num_points=32),
            num_seeds=5,
            train_cfg=train_cfg,
            test_cfg=SETTINGS | dict(mode='seeded'),
        )
    )
    (message,) = messages
    assert named(message) == {'nms_pre', 'mask_box_expand', 'max_per_img', 'multi_label'}
    assert '5 queries make at most 5 objects' in message
