"""From queries, and detections where the mode wants them, to the objects of an image: one class per mode.

Source: Mask2Former (https://arxiv.org/abs/2112.01527) for the score of a query, class probability times mean
foreground probability of its mask.

Shape letters: Q queries, C classes, d embedding channels, h w the size of the mask features, n objects.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mmext.models.common.matching import match_hungarian
from mmext.models.yolo.assembly import OutputFrame
from mmext.models.yolo.postprocess import Detections, ImageDetections, TestSettings
from mmext.models.yolo.query_masks import (
    MASK_FORMATS,
    MaskSummary,
    bound_masks,
    mean_foreground,
    summarise_masks,
)
from mmext.models.yolo.refiner import expand_boxes
from mmext.structures.boxes import box_iou

UNMATCHED = ('prototype', 'drop')
# Boxes that crop masks of queries reach an eighth of their sides further, at either end.
QUERY_BOX_EXPAND = 0.25


class ImageOutputs(NamedTuple):
    """What is known of one image, in float32.

    Attributes:
        class_logits: (Q, C + 1), the last is "no object".
        embeddings: (Q, d).
        mask_features: (d, h, w).
        detected: detections after suppression; None where the mode uses none.
        seeds: the detection that each query started from; None where they are learned.
    """

    class_logits: Tensor
    embeddings: Tensor
    mask_features: Tensor
    detected: ImageDetections | None = None
    seeds: Detections | None = None


class Instances(NamedTuple):
    """Objects of an image, the highest score first.

    Attributes:
        bboxes: (n, 4) xyxy in output pixels.
        scores: (n,) in [0, 1].
        labels: (n,) int64.
        masks: (n, H, W) bool, or n COCO run lengths, by `mask_format`.
    """

    bboxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Any


@dataclass
class QueriesMode:
    """Objects are queries: no detections, no suppression, boxes around the masks.

    A query stands for each of its classes, or for its best alone, by `multi_label`. Boxes are tight around the masks
    at the output's resolution; a query whose mask has no pixel there is no object.
    """

    uses_detections: ClassVar[bool] = False

    def __call__(
        self, image: ImageOutputs, frame: OutputFrame, settings: TestSettings
    ) -> Instances:
        summary = _summarise(image, frame, settings)
        ranked = class_probabilities(image) * summary.foreground[:, None]
        if not settings.multi_label:
            best = ranked.argmax(dim=1, keepdim=True)
            ranked = torch.zeros_like(ranked).scatter(1, best, ranked.gather(1, best))
        scores, flat = ranked.flatten().topk(min(settings.max_per_img, ranked.numel()))
        kept = scores > settings.score_thr
        scores, query = scores[kept], flat[kept].div(ranked.shape[1], rounding_mode='floor')
        labels = flat[kept] % ranked.shape[1]

        # A mask is made once, whatever the number of classes that its query stands for.
        different = torch.tensor(list(dict.fromkeys(query.tolist())), device=query.device).long()
        _, which = (query[:, None] == different).nonzero(as_tuple=True)
        bounds = bound_masks(summary.bboxes[different], image.mask_features, frame)
        form = MASK_FORMATS[settings.mask_format]
        masks = _assemble(image, different, bounds, frame, settings)
        bboxes = form.boxes(masks, bounds).to(scores)
        has_pixels = (bboxes[:, 2] > bboxes[:, 0])[which]
        which = which[has_pixels]
        return Instances(
            bboxes[which],
            scores[has_pixels],
            labels[has_pixels],
            form.take(masks, masks[:0], which),
        )


@dataclass
class MatchedMode:
    """Objects are detections; those that a query agrees with take its mask.

    They agree if their classes are the same and the box around the query's mask overlaps the detection's; where
    several do, overlaps decide, one to one (Hungarian). A pair's score is the geometric mean of both.

    Of the query's mask counts what lies near the detection: the rest of the image is none of its business, and
    looking at it would cost more than everything else.

    Args:
        min_iou: least overlap of a pair, in (0, 1].
        unmatched: what becomes of other detections: 'prototype' keeps them with their own score and the mask of
            their prototypes, 'drop' leaves them out.
        query_box_expand: part of its sides by which a box is longer, about its centre, where it crops the mask of its
            query.
    """

    min_iou: float = 0.5
    unmatched: str = 'prototype'
    query_box_expand: float = QUERY_BOX_EXPAND
    uses_detections: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.min_iou <= 1:
            raise ValueError(f'test_cfg: got min_iou={self.min_iou}, expected a number in (0, 1].')
        _check_expand(self.query_box_expand)
        if self.unmatched not in UNMATCHED:
            raise ValueError(
                f'test_cfg: got unmatched={self.unmatched!r}, expected one of {UNMATCHED}.'
            )

    def __call__(
        self, image: ImageOutputs, frame: OutputFrame, settings: TestSettings
    ) -> Instances:
        assert image.detected is not None
        found, coeffs, prototypes = image.detected
        summary = _summarise(image, frame, settings)
        confidence, labels = (class_probabilities(image) * summary.foreground[:, None]).max(dim=1)
        overlap = box_iou(found.bboxes[:, None], summary.bboxes[None])
        agrees = (found.labels[:, None] == labels) & (overlap >= self.min_iou)
        matched, query = match_pairs(overlap * agrees)
        joint = (found.scores[matched] * confidence[query]).sqrt()
        scores = found.scores.index_put((matched,), joint)
        source = matched
        if self.unmatched == 'prototype':
            is_alone = torch.ones_like(scores, dtype=torch.bool).index_fill(0, matched, False)
            source = torch.cat([matched, is_alone.nonzero()[:, 0]])
        bboxes = frame.from_input(found.bboxes)
        rest = source[len(matched) :]
        form = MASK_FORMATS[settings.mask_format]
        crops = frame.from_input(found.bboxes[matched], self.query_box_expand)
        masks = _assemble(image, query, crops, frame, settings)
        own = form.assemble(
            coeffs[rest],
            prototypes,
            frame.from_input(found.bboxes[rest], settings.mask_box_expand),
            frame=frame,
            threshold=settings.mask_thr_binary,
        )
        order = scores[source].argsort(descending=True, stable=True)
        order = order[scores[source[order]] > settings.score_thr]
        source = source[order]
        return Instances(
            bboxes[source], scores[source], found.labels[source], form.take(masks, own, order)
        )


@dataclass
class SeededMode:
    """Objects are detections with the masks of the queries that started from them.

    The score is the geometric mean of the detection's and its query's for the same class. Of the query's mask counts
    what lies near the detection, see `MatchedMode`: for the score, in the mask pixels that the longer box touches.

    Args:
        query_box_expand: as in `MatchedMode`.
    """

    query_box_expand: float = QUERY_BOX_EXPAND
    uses_detections: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_expand(self.query_box_expand)

    def __call__(
        self, image: ImageOutputs, frame: OutputFrame, settings: TestSettings
    ) -> Instances:
        found = image.seeds
        assert found is not None
        foreground = mean_foreground(
            image.embeddings,
            image.mask_features,
            expand_boxes(found.bboxes, self.query_box_expand),
            input_size=frame.input_size,
            threshold=settings.mask_thr_binary,
        )
        probability = class_probabilities(image).gather(1, found.labels[:, None])[:, 0]
        joint = (found.scores * probability * foreground).sqrt()
        scores, query = joint.topk(min(settings.max_per_img, len(joint)))
        kept = scores > settings.score_thr
        scores, query = scores[kept], query[kept]
        crops = frame.from_input(found.bboxes[query], self.query_box_expand)
        masks = _assemble(image, query, crops, frame, settings)
        return Instances(frame.from_input(found.bboxes[query]), scores, found.labels[query], masks)


Mode = QueriesMode | MatchedMode | SeededMode
MODES: dict[str, Callable[..., Mode]] = {
    'queries': QueriesMode,
    'matched': MatchedMode,
    'seeded': SeededMode,
}


def split_test_config(config: dict | None, *, is_seeded: bool) -> tuple[Mode, dict]:
    """The mode with its own settings, and the settings that it shares with the detections.

    Args:
        config: `test_cfg`. `mode` is 'seeded' if queries start from detections and 'queries' if not, unless it says
            otherwise.
        is_seeded: whether queries start from detections.

    Raises:
        ValueError: unknown mode, a mode that the queries do not suit, or a setting of another mode.
    """
    config = dict(config or {})
    name = config.pop('mode', 'seeded' if is_seeded else 'queries')
    if name not in MODES:
        raise ValueError(f'test_cfg: got mode={name!r}, expected one of {list(MODES)}.')
    if name == 'seeded' and not is_seeded:
        raise ValueError(
            "test_cfg: got mode='seeded' for learned queries, expected 'queries' or 'matched'. Train with "
            'num_seeds=100 for queries that start from detections.'
        )
    known = [entry.name for entry in fields(MODES[name])]  # type: ignore[arg-type]
    mode = MODES[name](**{key: config.pop(key) for key in known if key in config})
    shared = {entry.name for entry in fields(TestSettings)}
    unknown = sorted(set(config) - shared)
    if unknown:
        raise ValueError(
            f'test_cfg: got {unknown}, which mode={name!r} does not know; expected some of '
            f'{["mode", *known, *sorted(shared)]}. Remove or correct them.'
        )
    return mode, config


def class_probabilities(image: ImageOutputs) -> Tensor:
    """(Q, C), without "no object"."""
    return image.class_logits.softmax(dim=1)[:, :-1]


def match_pairs(gain: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns, (m,) int64 each, of the pairs of the highest total gain (n, Q); pairs without gain are none."""
    match = match_hungarian([-gain[None]])[0]
    is_pair = gain[match.query, match.gt] > 0
    return match.query[is_pair], match.gt[is_pair]


def _check_expand(query_box_expand: float) -> None:
    if query_box_expand < 0:
        raise ValueError(f'test_cfg: got query_box_expand={query_box_expand}, expected 0 or more.')


def _summarise(image: ImageOutputs, frame: OutputFrame, settings: TestSettings) -> MaskSummary:
    return summarise_masks(
        image.embeddings,
        image.mask_features,
        input_size=frame.input_size,
        threshold=settings.mask_thr_binary,
    )


def _assemble(
    image: ImageOutputs,
    query: Tensor,
    bounds: Tensor,
    frame: OutputFrame,
    settings: TestSettings,
) -> Any:
    """Masks of some queries (n,) in the output image, as far as they lie within their bounds (n, 4)."""
    return MASK_FORMATS[settings.mask_format].assemble(
        image.embeddings[query],
        image.mask_features,
        bounds,
        frame=frame,
        threshold=settings.mask_thr_binary,
    )
