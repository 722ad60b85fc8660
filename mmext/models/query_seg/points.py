"""Random points of a training step, the same that mmdet's Mask2Former draws, and masks looked up there.

The generator of the device is used in mmdet's order: for each output of the decoder first the points at which each image
is matched, then those from which each matched mask chooses its own. Matching all outputs at once wants the first kind of
all of them before the second kind of any, so the state of the generator is kept instead of the second kind, which is drawn
twice: 40000 points of each of 50 masks take 15 MB an output.

Places are (x, y) in [-1, 1], the grid of `grid_sample` with `align_corners=False`.

Sources: PointRend (https://arxiv.org/abs/1912.08193), Mask2Former (https://arxiv.org/abs/2112.01527).

Shape letters: M masks, G objects of an image, P points of a mask, S candidates to choose from.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

# Pixels of ground truth that are floats at a time: 16 MB.
MAX_CHUNK_PIXELS = 2**22


class PointRule:
    """How many points there are, and how each mask chooses its own: most of them where it is the least sure.

    Args:
        num_points: P.
        oversample_ratio: candidates drawn per point, at least 1.
        importance_sample_ratio: part of the points that are the least sure candidates; the others are random.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self, num_points: int, *, oversample_ratio: float, importance_sample_ratio: float
    ) -> None:
        if num_points < 1 or oversample_ratio < 1 or not 0 <= importance_sample_ratio <= 1:
            raise ValueError(
                f'FastMask2FormerHead: got train_cfg with num_points={num_points}, '
                f'oversample_ratio={oversample_ratio}, importance_sample_ratio={importance_sample_ratio}; expected at '
                'least 1, at least 1, and 0 to 1.'
            )
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_unsure = int(importance_sample_ratio * num_points)

    def draw_shared(self, device: torch.device) -> Tensor:
        """Points at which an image is matched, (P, 2) in [0, 1]."""
        return torch.rand(1, self.num_points, 2, device=device)[0]

    def skip_own(self, num_masks: int, device: torch.device) -> torch.Generator:
        """Draw the points of an output's masks for nothing; a generator that draws them again."""
        generator = torch.Generator(device)
        generator.set_state(_random_state(device))
        if num_masks:
            self._draw(num_masks, device, None)
        return generator

    @torch.no_grad()
    def choose_own(self, masks: Tensor, generator: torch.Generator) -> Tensor:
        """Points of each mask.

        Args:
            masks: (M, h, w) logits, M above 0.
            generator: from `skip_own`.

        Returns:
            (M, P, 2) in [-1, 1], the least sure ones first.
        """
        candidates, others = self._draw(len(masks), masks.device, generator)
        for own in (candidates, others):
            own.mul_(2).sub_(1)
        doubt = sample_own(masks, candidates).abs_()
        unsure = doubt.topk(self.num_unsure, dim=1, largest=False, sorted=False).indices
        # A pair of floats moves as one complex number, in half the time.
        chosen = torch.view_as_complex(candidates).gather(1, unsure)
        return torch.cat([torch.view_as_real(chosen), others], dim=1)

    def _draw(
        self, num_masks: int, device: torch.device, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Candidates (M, S, 2) and random points (M, R, 2) in [0, 1]."""
        counts = (self.num_candidates, self.num_points - self.num_unsure)
        candidates, others = (
            torch.rand(num_masks, count, 2, device=device, generator=generator) for count in counts
        )
        return candidates, others


def sample_own(masks: Tensor, grid: Tensor) -> Tensor:
    """Masks (M, h, w), floats, each at points of its own (M, P, 2): (M, P)."""
    return functional.grid_sample(masks[:, None], grid[:, None], align_corners=False)[:, 0, 0]


def sample_own_truth(masks: Tensor, chosen: Tensor, grid: Tensor) -> Tensor:
    """Objects (G, H, W) bool, of which `chosen` (M,) are read, each at points of its own (M, P, 2): (M, P)."""
    values = grid.new_empty(grid.shape[:2])
    for part in _chunks(len(chosen), masks):
        values[part] = sample_own(masks[chosen[part]].float(), grid[part])
    return values


def sample_shared_truth(masks: Tensor, grid: Tensor) -> Tensor:
    """Objects (G, H, W) bool, all at the same points (P, 2): (G, P)."""
    values = grid.new_empty(len(masks), len(grid))
    for part in _chunks(len(masks), masks):
        values[part] = functional.grid_sample(
            masks[part].float()[None], grid[None, None], align_corners=False
        )[0, :, 0]
    return values


def _chunks(count: int, masks: Tensor) -> Iterator[slice]:
    """Slices of `count` masks of the size of `masks` (G, H, W), few enough to be floats."""
    size = max(1, MAX_CHUNK_PIXELS // (masks.shape[1] * masks.shape[2]))
    return (slice(start, start + size) for start in range(0, count, size))


def _random_state(device: torch.device) -> Tensor:
    """State of the generator from which `torch.rand` draws on a device."""
    if device.type == 'cpu':
        return torch.get_rng_state()
    if device.type == 'mps':  # Of which there is one, so that it is not asked which.
        return torch.mps.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)
