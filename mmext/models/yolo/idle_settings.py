"""Test settings of `SegmentAttention` that its mode makes no use of: named, instead of passed over in silence."""

from collections.abc import Mapping

from mmext.models.yolo.postprocess import TestSettings, warn_of_idle
from mmext.models.yolo.query_postprocess import MODES, MatchedMode, Mode, QueriesMode, SeededMode
from mmext.models.yolo.query_seeds import CANDIDATES_PER_SEED


def warn_of_idle_settings(
    test_cfg: Mapping,
    mode: Mode,
    *,
    num_seeds: int,
    num_queries: int,
    num_classes: int,
) -> None:
    """One warning of all settings without effect. Settings of other modes are errors already, see `split_test_config`.

    Args:
        test_cfg: what was asked for, without the settings of the mode's own.
        mode: the mode.
        num_seeds: queries that start from detections; 0 where they are learned.
        num_queries: all queries.
        num_classes: C.
    """
    idle = {}
    if test_cfg.get('mask_box_expand') and not _makes_prototype_masks(mode):
        idle['mask_box_expand'] = _why_not_expanded(mode)
    if not mode.uses_detections:
        idle |= _idle_of_queries(test_cfg, num_seeds)
        most = num_queries
        if isinstance(mode, QueriesMode) and test_cfg.get('multi_label', TestSettings.multi_label):
            most *= num_classes
        if test_cfg.get('max_per_img', 0) > most:
            idle['max_per_img'] = f'{num_queries} queries make at most {most} objects'
    if isinstance(mode, SeededMode) and test_cfg.get('multi_label'):
        idle['multi_label'] = 'a seed stands for its best class alone'
    (name,) = (name for name, kind in MODES.items() if kind is type(mode))
    warn_of_idle(f'SegmentAttention, mode={name!r}', idle)


def _idle_of_queries(test_cfg: Mapping, num_seeds: int) -> dict[str, str]:
    """Settings of detections that a mode does not use, key -> why: they only choose seeds, if there are any."""
    if num_seeds == 0:
        suppression = [key for key in ('nms', 'nms_pre') if test_cfg.get(key) is not None]
        return dict.fromkeys(suppression, 'no detections are made')
    candidates = CANDIDATES_PER_SEED * num_seeds
    if test_cfg.get('nms_pre', 0) > candidates:
        return dict(nms_pre=f'seeds are chosen among the {candidates} best priors')
    return {}


def _makes_prototype_masks(mode: Mode) -> bool:
    return isinstance(mode, MatchedMode) and mode.unmatched == 'prototype'


def _why_not_expanded(mode: Mode) -> str:
    if isinstance(mode, QueriesMode):
        return 'boxes lie around the masks and crop nothing'
    return 'no mask is made of prototypes; query_box_expand is for masks of queries'
