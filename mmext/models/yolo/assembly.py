"""From coefficients and prototypes to masks in the original image, without a full-size float map per object.

Per object, prototypes are combined at their own size, sampled bilinearly at the output pixels inside its box alone,
and thresholded there: upsample, threshold, crop, in that order, at the output's resolution and in one resize. Cropping
before the upsampling would leak outside the box; a threshold before it makes jagged outlines.

Shape letters: N objects, K prototypes, h w their size, H W the output's size.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional


class OutputFrame(NamedTuple):
    """How the output image lies in the network input: x_input = x_output * scale_x + left.

    Attributes:
        size: (height, width) of the output image.
        input_size: (height, width) of the network input, paddings included.
        scale_x: network-input pixels per output pixel, along x.
        scale_y: the same along y.
        left: columns of padding at the left of the network input.
        top: rows of padding at its top.
    """

    size: tuple[int, int]
    input_size: tuple[int, int]
    scale_x: float = 1.0
    scale_y: float = 1.0
    left: float = 0.0
    top: float = 0.0

    @classmethod
    def from_meta(cls, meta: dict, input_size: tuple[int, int], *, rescale: bool) -> 'OutputFrame':
        """Read the frame from an image's meta information.

        Args:
            meta: `img_shape` (h, w); with `rescale` instead `ori_shape` (h, w), `scale_factor` (w_scale, h_scale)
                and, where the image was padded at its left or top, `pad_param` (top, bottom, left, right) in
                pixels of the network input.
            input_size: (height, width) of the network input, paddings included.
            rescale: True for the original image, False for the network input as far as `img_shape` reaches.
        """
        if not rescale:
            return cls(meta['img_shape'][:2], input_size)
        scale_x, scale_y = meta['scale_factor'][:2]
        top, _, left, _ = meta.get('pad_param', (0, 0, 0, 0))
        return cls(meta['ori_shape'][:2], input_size, scale_x, scale_y, left, top)

    def from_input(self, bboxes: Tensor) -> Tensor:
        """Boxes (N, 4) xyxy from the network input to the output image, clipped to it."""
        x = ((bboxes[:, 0::2] - self.left) / self.scale_x).clamp(0, self.size[1])
        y = ((bboxes[:, 1::2] - self.top) / self.scale_y).clamp(0, self.size[0])
        return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)


class _Roi(NamedTuple):
    """Output pixels of one object: rows y1 .. y2 - 1, columns x1 .. x2 - 1."""

    instance: int
    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def pixels(self) -> int:
        return (self.x2 - self.x1) * (self.y2 - self.y1)


def assemble_bitmaps(
    coeffs: Tensor,
    prototypes: Tensor,
    bboxes: Tensor,
    *,
    frame: OutputFrame,
    threshold: float = 0.5,
    max_chunk_pixels: int = 2**22,
) -> Tensor:
    """Masks as one boolean array.

    Args:
        coeffs: (N, K).
        prototypes: (K, h, w), spanning the whole network input.
        bboxes: (N, 4) xyxy in output pixels; a mask is empty outside its box.
        frame: where the output lies in the network input.
        threshold: probability in (0, 1) above which a pixel belongs to the object.
        max_chunk_pixels: output pixels whose float values are held at a time.

    Returns:
        (N, H, W) bool on the device of the prototypes.
    """
    canvas = torch.zeros((len(coeffs), *frame.size), dtype=torch.bool, device=prototypes.device)
    sampler = _RoiSampler(coeffs, prototypes, frame, threshold, max_chunk_pixels)
    for roi, mask in sampler.masks(bboxes):
        canvas[roi.instance, roi.y1 : roi.y2, roi.x1 : roi.x2] = mask
    return canvas


def assemble_rles(
    coeffs: Tensor,
    prototypes: Tensor,
    bboxes: Tensor,
    *,
    frame: OutputFrame,
    threshold: float = 0.5,
    max_chunk_pixels: int = 2**22,
) -> list[dict]:
    """Masks as compressed COCO run lengths, encoded from the boxes: N x H x W never exists.

    Arguments as in `assemble_bitmaps`.

    Returns:
        N dicts: `size` [H, W], `counts` bytes.
    """
    empty = encode_roi(np.zeros((0, 0), dtype=bool), 0, 0, frame.size)
    rles = [dict(empty) for _ in range(len(coeffs))]
    sampler = _RoiSampler(coeffs, prototypes, frame, threshold, max_chunk_pixels)
    for roi, mask in sampler.masks(bboxes):
        rles[roi.instance] = encode_roi(mask.cpu().numpy(), roi.x1, roi.y1, frame.size)
    return rles


def encode_roi(mask: np.ndarray, x1: int, y1: int, size: tuple[int, int]) -> dict:
    """Compressed COCO RLE of a mask that is empty outside one rectangle.

    Args:
        mask: (rows, columns) bool, the rectangle's content.
        x1: column of the rectangle's left edge in the image.
        y1: row of its top edge.
        size: (height, width) of the image.

    Returns:
        `size` [height, width], `counts` bytes.
    """
    height, width = size
    # Runs go down the columns. An empty row above and below separates the columns' runs.
    column_runs = np.zeros((mask.shape[1], mask.shape[0] + 2), dtype=np.int8)
    column_runs[:, 1:-1] = mask.T
    column, row = np.nonzero(np.diff(column_runs, axis=1))
    edges = (x1 + column) * height + y1 + row  # start, end, start, end, ...
    # A run that reaches the last row and one that begins the next column are one.
    inner = edges[1:-1].reshape(-1, 2)
    separate = np.repeat(inner[:, 0] != inner[:, 1], 2)
    bounds = [[0], edges[:1], inner.reshape(-1)[separate], edges[1:][-1:], [height * width]]
    counts = np.diff(np.concatenate(bounds).astype(np.int64)).tolist()
    if counts[-1] == 0:
        counts.pop()  # the image ends with a set pixel
    return coco_mask.frPyObjects({'size': [height, width], 'counts': counts}, height, width)


class _RoiSampler:
    """Samples thresholded masks inside boxes, several objects of similar size at a time."""

    def __init__(
        self,
        coeffs: Tensor,
        prototypes: Tensor,
        frame: OutputFrame,
        threshold: float,
        max_chunk_pixels: int,
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f'mask threshold: got {threshold}, expected a number in (0, 1).')
        self.coeffs = coeffs.float()
        self.prototypes = prototypes.float()
        self.frame = frame
        # Comparing logits with logit(threshold) saves the sigmoid.
        self.min_logit = math.log(threshold / (1 - threshold))
        self.max_chunk_pixels = max_chunk_pixels

    def masks(self, bboxes: Tensor) -> Iterator[tuple[_Roi, Tensor]]:
        """Each object with a non-empty box, and the mask of that box: (rows, columns) bool."""
        for group in self._group(self._rois(bboxes)):
            rows = max(roi.y2 - roi.y1 for roi in group)
            columns = max(roi.x2 - roi.x1 for roi in group)
            sampled = self._sample(group, rows, columns)
            for roi, mask in zip(group, sampled, strict=True):
                yield roi, mask[: roi.y2 - roi.y1, : roi.x2 - roi.x1]

    def _rois(self, bboxes: Tensor) -> list[_Roi]:
        """Pixels whose index lies in [x1, x2) x [y1, y2), inside the frame; the smallest first."""
        edges = bboxes.detach().float().cpu().nan_to_num().ceil()
        edges[:, 0::2].clamp_(0, self.frame.size[1])
        edges[:, 1::2].clamp_(0, self.frame.size[0])
        rois = [_Roi(index, *edge) for index, edge in enumerate(edges.long().tolist())]
        kept = [roi for roi in rois if roi.x2 > roi.x1 and roi.y2 > roi.y1]
        return sorted(kept, key=lambda roi: roi.pixels)

    def _group(self, rois: list[_Roi]) -> Iterator[list[_Roi]]:
        """Consecutive objects whose common grid stays within the chunk and wastes less than half."""
        group: list[_Roi] = []
        used = 0
        for roi in rois:
            candidate = [*group, roi]
            rows = max(own.y2 - own.y1 for own in candidate)
            columns = max(own.x2 - own.x1 for own in candidate)
            grid = len(candidate) * rows * columns
            if group and (grid > self.max_chunk_pixels or grid > 2 * (used + roi.pixels)):
                yield group
                candidate, used = [roi], 0
            group, used = candidate, used + roi.pixels
        if group:
            yield group

    def _sample(self, group: list[_Roi], rows: int, columns: int) -> Tensor:
        """Masks of a group on grids of one size, (n, rows, columns) bool, in bands of rows."""
        device = self.prototypes.device
        index = torch.tensor([roi.instance for roi in group], device=device)
        logits = torch.einsum('nk,khw->nhw', self.coeffs[index], self.prototypes)[:, None]
        frame = self.frame
        x = self._positions([roi.x1 for roi in group], columns)
        y = self._positions([roi.y1 for roi in group], rows)
        # Output pixel centre -> network input -> [-1, 1] over the prototypes.
        x = 2 * ((x + 0.5) * frame.scale_x + frame.left) / frame.input_size[1] - 1
        y = 2 * ((y + 0.5) * frame.scale_y + frame.top) / frame.input_size[0] - 1
        masks = torch.empty((len(group), rows, columns), dtype=torch.bool, device=device)
        band = max(1, self.max_chunk_pixels // (len(group) * columns))
        for start in range(0, rows, band):
            own = y[:, start : start + band]
            size = (len(group), own.shape[1], columns)
            grid = torch.stack([x[:, None].expand(size), own[..., None].expand(size)], dim=-1)
            # 'border' makes the outermost half pixel equal to F.interpolate; zeros would not.
            values = functional.grid_sample(
                logits, grid, padding_mode='border', align_corners=False
            )
            masks[:, start : start + band] = values[:, 0] > self.min_logit
        return masks

    def _positions(self, starts: list[int], length: int) -> Tensor:
        """starts[i] .. starts[i] + length - 1 for each object: (n, length) float32."""
        first = torch.tensor(starts, dtype=torch.float32, device=self.prototypes.device)
        return first[:, None] + torch.arange(length, device=first.device)
