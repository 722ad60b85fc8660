"""From scores and boxes of every prior to the detections of an image, and to their masks.

Shape letters: A priors over all levels, C classes, K prototypes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from mmcv.ops import batched_nms
from mmengine.logging import MMLogger
from torch import Tensor

from mmext.models.yolo.assembly import (
    MaskCorrection,
    OutputFrame,
    assemble_bitmaps,
    assemble_rles,
)

ASSEMBLERS: dict[str, Callable[..., Any]] = {'bitmap': assemble_bitmaps, 'rle': assemble_rles}
MASK_FORMATS = tuple(ASSEMBLERS)


@dataclass
class TestSettings:
    """`test_cfg` of the head.

    Attributes:
        score_thr: lowest class probability of a detection.
        nms_pre: candidates that enter the suppression, the highest scores first.
        nms: config of `mmcv.ops.batched_nms`, class by class. None for no suppression: the `max_per_img` highest
            scores are the detections, for a head that finds each object once.
        max_per_img: detections per image.
        multi_label: True lets a prior stand for each class above `score_thr` (what the published AP is measured
            with); False for its highest alone.
        mask_thr_binary: probability above which a pixel belongs to the object.
        mask_box_expand: part of its sides by which a box is longer, about its centre, where it crops its mask: 0.1
            keeps what a box a little too tight would cut off. Boxes come out as they are.
        mask_format: 'bitmap' for one boolean array, 'rle' for a list of COCO run lengths, which saves memory
            where many objects meet large images and is what `CocoMetric` stores anyway.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    score_thr: float = 0.001
    nms_pre: int = 30000
    nms: dict | None = field(default_factory=lambda: dict(type='nms', iou_threshold=0.7))
    max_per_img: int = 300
    multi_label: bool = True
    mask_thr_binary: float = 0.5
    mask_box_expand: float = 0.0
    mask_format: str = 'bitmap'

    @classmethod
    def from_config(cls, config: dict | None) -> 'TestSettings':
        """Read a config; a key that is not known is an error, not a silence.

        Raises:
            ValueError: unknown key, unknown mask format, boxes that shrink.
        """
        config = dict(config or {})
        known = [entry.name for entry in fields(cls)]
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise ValueError(
                f'test_cfg: got unknown keys {unknown}, expected some of {known}. Remove or correct them.'
            )
        settings = cls(**config)
        if settings.mask_format not in MASK_FORMATS:
            raise ValueError(
                f'test_cfg: got mask_format={settings.mask_format!r}, expected one of {MASK_FORMATS}.'
            )
        if settings.mask_box_expand < 0:
            raise ValueError(
                f'test_cfg: got mask_box_expand={settings.mask_box_expand}, expected 0 or more.'
            )
        return settings


def read_settings(test_cfg: dict | None, *, nms_free: bool) -> TestSettings:
    """The settings of `Segment`; a warning of those without effect.

    Args:
        test_cfg: see `TestSettings.from_config`.
        nms_free: whether nothing is suppressed, whatever `nms` says.
    """
    config = dict(test_cfg or {})
    settings = TestSettings.from_config(config)
    idle = {}
    if nms_free:
        settings = replace(settings, nms=None)
        if config.get('nms') is not None:
            idle['nms'] = (
                'with nms_free=True, detections are the highest scores as they are; set nms=None'
            )
    if settings.nms is None and 'nms_pre' in config:
        idle['nms_pre'] = 'without suppression, max_per_img alone counts'
    warn_of_idle('Segment', idle)
    return settings


def warn_of_idle(head: str, idle: Mapping[str, str]) -> None:
    """One warning of the settings of a head that do nothing: key -> why."""
    if idle:
        reasons = '; '.join(f'{key} ({why})' for key, why in idle.items())
        MMLogger.get_current_instance().warning(
            f'{head}: test_cfg has settings without effect: {reasons}. Remove or change them.'
        )


class Detections(NamedTuple):
    """Detections of one image, the highest score first.

    Attributes:
        bboxes: (n, 4) xyxy in pixels of the network input, not clipped.
        scores: (n,) in [0, 1].
        labels: (n,) int64.
        prior: (n,) int64, the prior of each; one prior repeats where it stands for several classes.
    """

    bboxes: Tensor
    scores: Tensor
    labels: Tensor
    prior: Tensor


class ImageDetections(NamedTuple):
    """Detections of one image and what their masks are made of.

    Attributes:
        found: n detections.
        coeffs: (n, K) their mask coefficients.
        prototypes: (K, h, w).
    """

    found: Detections
    coeffs: Tensor
    prototypes: Tensor


def select_detections(scores: Tensor, bboxes: Tensor, settings: TestSettings) -> Detections:
    """Threshold, keep the best `nms_pre`, suppress class by class unless `nms` is None, keep the best `max_per_img`.

    Args:
        scores: (C, A) probabilities of one image.
        bboxes: (A, 4) xyxy in pixels of the network input.
        settings: see `TestSettings`.
    """
    if settings.multi_label:
        labels, prior = (scores > settings.score_thr).nonzero(as_tuple=True)
        confidence = scores[labels, prior]
    else:
        best, best_label = scores.max(dim=0)
        prior = (best > settings.score_thr).nonzero()[:, 0]
        labels, confidence = best_label[prior], best[prior]
    limit = settings.max_per_img if settings.nms is None else settings.nms_pre
    if settings.nms is None or len(confidence) > limit:
        confidence, kept = confidence.topk(min(limit, len(confidence)))
        labels, prior = labels[kept], prior[kept]

    if settings.nms is not None and len(confidence) > 0:
        candidates = bboxes[prior]
        # batched_nms moves the classes apart by the largest coordinate, which holds for none below zero.
        dets, kept = batched_nms(candidates - candidates.min(), confidence, labels, settings.nms)
        kept = kept[: settings.max_per_img]
        # Soft suppression lowers scores: they come from the suppression, not from the head.
        labels, prior, confidence = labels[kept], prior[kept], dets[: len(kept), -1]
    return Detections(bboxes[prior], confidence, labels, prior)


def assemble_masks(
    detected: ImageDetections,
    frame: OutputFrame,
    settings: TestSettings,
    correction: MaskCorrection | None = None,
) -> Any:
    """Masks of the detections of one image.

    Args:
        detected: the detections.
        frame: where the output lies in the network input.
        settings: see `TestSettings`; format, threshold and expansion of the boxes count.
        correction: what refines the masks.

    Returns:
        (n, height, width) bool or, by `mask_format`, n COCO run lengths.
    """
    return ASSEMBLERS[settings.mask_format](
        detected.coeffs,
        detected.prototypes,
        frame.from_input(detected.found.bboxes, settings.mask_box_expand),
        frame=frame,
        threshold=settings.mask_thr_binary,
        correction=correction,
    )
