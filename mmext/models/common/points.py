"""Masks at points instead of pixels: looking bitmaps up, and choosing points where a prediction is unsure.

Points are (x, y) in [0, 1] of the image, whatever the resolution of the map that is sampled, pixel centres at
half-integers; outside a map there is 0. This is what `mmcv.ops.point_sample` does, at a fraction of the cost.

Sources: PointRend (https://arxiv.org/abs/1912.08193) for uncertain points, Mask2Former
(https://arxiv.org/abs/2112.01527) for losses on them.

Shape letters: d channels, N masks, P points, S points drawn to choose from.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Numbers that are sampled at a time where every mask has its own points: 64 MB.
MAX_CHUNK_VALUES = 2**24


def sample_features(features: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of a feature map at points.

    Equal to `grid_sample`. That reads each channel's neighbours from far apart; here the channels of a position lie
    side by side, which is four times faster on a CPU with 256 channels, and has a deterministic backward pass on a
    GPU.

    Args:
        features: (d, H, W) float32.
        points: (P, 2) x, y in [0, 1].

    Returns:
        (d, P).
    """
    neighbours = _neighbours(points, *features.shape[1:])
    index, weight = (torch.stack(part, dim=1) for part in zip(*neighbours, strict=True))  # P x 4
    places = features.flatten(1).T.contiguous()  # HW x d
    return functional.embedding_bag(index, places, per_sample_weights=weight, mode='sum').T


def sample_bitmaps(masks: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of binary masks at points, the same for all of them.

    Equal to `grid_sample` of the masks as floats, which are never made: only the four neighbours of each point
    are read.

    Args:
        masks: (N, H, W) uint8 or bool in {0, 1}.
        points: (P, 2) x, y in [0, 1].

    Returns:
        (N, P) float32 in [0, 1].
    """
    flat = masks.flatten(1)
    values = torch.zeros(len(masks), len(points), device=masks.device)
    for index, weight in _neighbours(points.float(), masks.shape[1], masks.shape[2]):
        values.addcmul_(flat[:, index], weight)
    return values


def sample_chosen_bitmaps(masks: Tensor, chosen: Tensor, points: Tensor) -> Tensor:
    """`sample_bitmaps` of some masks, each at points of its own, without a copy of any.

    Args:
        masks: (N, H, W) uint8 or bool in {0, 1}.
        chosen: (M,) int64 in [0, N).
        points: (M, P, 2) x, y in [0, 1].

    Returns:
        (M, P) float32 in [0, 1].
    """
    flat = masks.flatten(1)
    values = torch.zeros(points.shape[:2], device=masks.device)
    neighbours = _neighbours(points.flatten(0, 1).float(), masks.shape[1], masks.shape[2])
    for index, weight in neighbours:
        values.addcmul_(flat[chosen[:, None], index.view_as(values)], weight.view_as(values))
    return values


def sample_logits(embeddings: Tensor, features: Tensor, points: Tensor) -> Tensor:
    """Logits of masks at points of their own, where mask m has embedding (n, m) in each of N versions.

    What is sampled is d numbers for every point of every mask, so it is done for a few masks at a time, and again in
    the backward pass: only the logits are kept.

    Args:
        embeddings: (N, M, d).
        features: (d, H, W) float32.
        points: (M, P, 2) x, y in [0, 1].

    Returns:
        (N, M, P).
    """
    size = max(1, MAX_CHUNK_VALUES // (len(features) * points.shape[1]))
    chunks = zip(embeddings.split(size, dim=1), points.split(size), strict=True)
    logits = [
        checkpoint(
            _sample_chunk, own, features, places, use_reentrant=False, preserve_rng_state=False
        )
        for own, places in chunks
    ]
    return torch.cat(logits, dim=1)


def _sample_chunk(embeddings: Tensor, features: Tensor, points: Tensor) -> Tensor:
    samples = sample_features(features, points.flatten(0, 1)).T  # MP x d
    return torch.einsum('nmd,mpd->nmp', embeddings, samples.unflatten(0, points.shape[:2]))


def draw_in_boxes(bboxes: Tensor, num_points: int, *, expansion: float = 0.0) -> Tensor:
    """Uniform random points of the part inside the image of boxes that are made longer.

    Args:
        bboxes: (N, 4) xyxy in [0, 1].
        num_points: P.
        expansion: part of its sides by which a box is longer, about its centre.

    Returns:
        (N, P, 2) in [0, 1].
    """
    margin = (bboxes[:, 2:] - bboxes[:, :2]) * expansion / 2
    first = (bboxes[:, :2] - margin).clamp(0, 1)
    last = (bboxes[:, 2:] + margin).clamp(0, 1)
    share = torch.rand(len(bboxes), num_points, 2, device=bboxes.device)
    return torch.lerp(first[:, None], last[:, None], share)


def _neighbours(points: Tensor, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The four pixels around each point of (P, 2): their flat index (P,) and bilinear weight (P,), 0 outside."""
    size = points.new_tensor([width, height])
    position = points * size - 0.5
    first = position.floor()
    share = position - first  # of the second pixel along each axis
    for dy in (0, 1):
        for dx in (0, 1):
            offset = points.new_tensor([dx, dy])
            pixel = first + offset
            weight = (1 - offset - share).abs().prod(dim=1)
            inside = ((pixel >= 0) & (pixel < size)).all(dim=1)
            column, row = pixel.clamp(min=0).minimum(size - 1).long().unbind(dim=1)
            yield row * width + column, weight * inside


class PointSampler:
    """Random points of which most lie where a prediction is unsure, that is, where its logit is near 0.

    All masks of an image share their candidates, so that features are sampled once for all of them; each then
    takes those where it is the least sure itself, and the same few random ones.

    Args:
        num_points: P, points that each mask takes.
        oversample_ratio: candidates drawn per point, at least 1.
        importance_ratio: part of the points that are the least sure candidates; the others are random.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        num_points: int = 12544,
        *,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
    ) -> None:
        if num_points < 1 or oversample_ratio < 1 or not 0 <= importance_ratio <= 1:
            raise ValueError(
                f'PointSampler: got num_points={num_points}, oversample_ratio={oversample_ratio}, '
                f'importance_ratio={importance_ratio}; expected at least 1, at least 1, and 0 to 1.'
            )
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_unsure = int(num_points * importance_ratio)

    def draw(self, device: torch.device) -> Tensor:
        """Points of an image, the candidates before those that are taken anyway: (S, 2) in [0, 1]."""
        candidates = torch.rand(self.num_candidates, 2, device=device)
        return torch.cat(
            [candidates, torch.rand(self.num_points - self.num_unsure, 2, device=device)]
        )

    @torch.no_grad()
    def choose(self, logits: Tensor) -> Tensor:
        """Which of the S drawn points each mask takes, by its logits (N, S) there: indices (N, P)."""
        doubt = logits[:, : self.num_candidates].abs()
        unsure = doubt.topk(self.num_unsure, dim=1, largest=False, sorted=False).indices
        others = torch.arange(self.num_candidates, logits.shape[1], device=logits.device)
        return torch.cat([unsure, others.expand(len(logits), -1)], dim=1)
