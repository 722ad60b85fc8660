"""From coefficients and prototypes to masks in the original image, without a full-size float map per object.

Per object, prototypes are combined at their own size, sampled bilinearly at the output pixels inside its box alone,
and thresholded there: upsample, threshold, crop, in that order, at the output's resolution and in one resize. Cropping
before the upsampling would leak outside the box; a threshold before it makes jagged outlines.

The output's pixels lie on a grid along the axes, so bilinear sampling is two matrix products, with weights along y and
along x that all objects share. That is several times faster than `grid_sample`, and needs no grid.

Shape letters: N objects, K prototypes, h w their size, H W the output's size, R cells of a correction's side.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmext.models.yolo.interpolation import AxisWeights, cell_weights
from mmext.structures.rle import encode_columns, encode_roi

# Rows and columns of objects whose interpolation between cells of corrections is prepared at a time.
MAX_GROUP_LINES = 2**14


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

    def from_input(self, bboxes: Tensor, expand: float = 0.0) -> Tensor:
        """Boxes (N, 4) xyxy from the network input to the output image, clipped to it.

        Args:
            bboxes: the boxes.
            expand: part of their sides by which they become longer, about their centres.
        """
        growth = (bboxes[:, 2:] - bboxes[:, :2]) * (expand / 2)
        bboxes = torch.cat([bboxes[:, :2] - growth, bboxes[:, 2:] + growth], dim=1)
        x = ((bboxes[:, 0::2] - self.left) / self.scale_x).clamp(0, self.size[1])
        y = ((bboxes[:, 1::2] - self.top) / self.scale_y).clamp(0, self.size[0])
        return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)


class MaskCorrection(NamedTuple):
    """What a refiner adds to the logits of the masks inside its own boxes; outside of them it adds nothing.

    Attributes:
        deltas: (N, R, R) logits at the centres of R x R equal cells of a box.
        bboxes: (N, 4) xyxy in pixels of the network input, the boxes that the cells divide.
    """

    deltas: Tensor
    bboxes: Tensor


class _Roi(NamedTuple):
    """Output pixels of one object: rows y1 .. y2 - 1, columns x1 .. x2 - 1."""

    instance: int
    x1: int
    y1: int
    x2: int
    y2: int


def assemble_bitmaps(
    coeffs: Tensor,
    prototypes: Tensor,
    bboxes: Tensor,
    *,
    frame: OutputFrame,
    threshold: float = 0.5,
    correction: MaskCorrection | None = None,
    max_chunk_pixels: int = 2**18,
) -> Tensor:
    """Masks as one boolean array.

    Args:
        coeffs: (N, K).
        prototypes: (K, h, w), spanning the whole network input.
        bboxes: (N, 4) xyxy in output pixels; a mask is empty outside its box.
        frame: where the output lies in the network input.
        threshold: probability in (0, 1) above which a pixel belongs to the object.
        correction: added to the logits before the threshold.
        max_chunk_pixels: output pixels whose float values are held at a time, at least one column of an object.

    Returns:
        (N, H, W) bool on the device of the prototypes.
    """
    canvas = torch.zeros((len(coeffs), *frame.size), dtype=torch.bool, device=prototypes.device)
    sampler = _MaskSampler(coeffs, prototypes, frame, threshold, correction, max_chunk_pixels)
    for roi, columns in sampler.masks(bboxes):
        canvas[roi.instance, roi.y1 : roi.y2, roi.x1 : roi.x2] = columns[:, 1:-1].T
    return canvas


def assemble_rles(
    coeffs: Tensor,
    prototypes: Tensor,
    bboxes: Tensor,
    *,
    frame: OutputFrame,
    threshold: float = 0.5,
    correction: MaskCorrection | None = None,
    max_chunk_pixels: int = 2**18,
) -> list[dict]:
    """Masks as compressed COCO run lengths, encoded from the boxes: N x H x W never exists.

    Arguments as in `assemble_bitmaps`.

    Returns:
        N dicts: `size` [H, W], `counts` bytes.
    """
    empty = encode_roi(np.zeros((0, 0), dtype=bool), 0, 0, frame.size)
    rles = [dict(empty) for _ in range(len(coeffs))]
    sampler = _MaskSampler(coeffs, prototypes, frame, threshold, correction, max_chunk_pixels)
    for roi, columns in sampler.masks(bboxes):
        rles[roi.instance] = encode_columns(columns.cpu().numpy(), roi.x1, roi.y1, frame.size)
    return rles


class _DeltaWeights(NamedTuple):
    """Linear interpolation between the cells of corrections, at the output pixels of some objects.

    Attributes:
        x: of each object (columns, R).
        y: of each object (rows, R).
    """

    x: Sequence[Tensor]
    y: Sequence[Tensor]


class _MaskSampler:
    """Samples thresholded masks inside boxes, object by object; arguments as in `assemble_bitmaps`."""

    def __init__(
        self,
        coeffs: Tensor,
        prototypes: Tensor,
        frame: OutputFrame,
        threshold: float,
        correction: MaskCorrection | None,
        max_chunk_pixels: int,
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f'mask threshold: got {threshold}, expected a number in (0, 1).')
        # Nothing is learned through a threshold, and products that are written into a buffer allow no gradient.
        self.coeffs = coeffs.detach().float()
        self.prototypes = prototypes.detach().float()
        self.frame = frame
        # Comparing logits with logit(threshold) saves the sigmoid.
        self.min_logit = math.log(threshold / (1 - threshold))
        self.max_chunk_pixels = max_chunk_pixels
        (height, width), (input_height, input_width) = prototypes.shape[1:], frame.input_size
        self.y = AxisWeights(frame.size[0], frame.scale_y, frame.top, input_height, height)
        self.x = AxisWeights(frame.size[1], frame.scale_x, frame.left, input_width, width)
        for axis in (self.y, self.x):
            axis.move_to(prototypes.device)
        self.correction = correction
        if correction is not None:
            self.deltas = correction.deltas.detach().float()

    def masks(self, bboxes: Tensor) -> Iterator[tuple[_Roi, Tensor]]:
        """Each object with a non-empty box, and the mask of that box: (columns, rows + 2) bool, see `encode_columns`."""
        rois = self._rois(bboxes)
        # Always the same memory: new pages for every object would cost as much as its logits.
        buffer = self.prototypes.new_empty(max(map(self._chunk_pixels, rois), default=0))
        for group in _split_rois(rois, MAX_GROUP_LINES):
            weights = None if self.correction is None else self._delta_weights(group)
            for i, roi in enumerate(group):
                delta = None
                if weights is not None:
                    delta = weights.x[i], (weights.y[i] @ self.deltas[roi.instance]).T
                yield roi, self._mask(roi, delta, buffer)

    def _mask(self, roi: _Roi, delta: tuple[Tensor, Tensor] | None, buffer: Tensor) -> Tensor:
        """The mask of one object; `delta` is the product (columns, R) x (R, rows) that is added to its logits."""
        num_rows, num_columns = roi.y2 - roi.y1, roi.x2 - roi.x1
        mask = buffer.new_zeros((num_columns, num_rows + 2), dtype=torch.bool)
        step = self._chunk_pixels(roi) // num_rows
        for start in range(0, num_columns, step):
            stop = min(start + step, num_columns)
            logits = buffer[: (stop - start) * num_rows].view(stop - start, num_rows)
            self._write_logits(roi._replace(x1=roi.x1 + start, x2=roi.x1 + stop), logits)
            if delta is not None:
                logits.addmm_(delta[0][start:stop], delta[1])
            torch.gt(logits, self.min_logit, out=mask[start:stop, 1:-1])
        return mask

    def _chunk_pixels(self, roi: _Roi) -> int:
        """Pixels of an object that are looked at together: whole columns."""
        num_rows = roi.y2 - roi.y1
        return num_rows * min(max(1, self.max_chunk_pixels // num_rows), roi.x2 - roi.x1)

    def _rois(self, bboxes: Tensor) -> list[_Roi]:
        """Pixels whose index lies in [x1, x2) x [y1, y2), inside the frame."""
        edges = bboxes.detach().float().cpu().nan_to_num().ceil()
        edges[:, 0::2].clamp_(0, self.frame.size[1])
        edges[:, 1::2].clamp_(0, self.frame.size[0])
        rois = [_Roi(index, *edge) for index, edge in enumerate(edges.long().tolist())]
        return [roi for roi in rois if roi.x2 > roi.x1 and roi.y2 > roi.y1]

    def _write_logits(self, roi: _Roi, logits: Tensor) -> None:
        """Uncorrected logits of an object at its output pixels: (columns, rows)."""
        rows, columns = slice(roi.y1, roi.y2), slice(roi.x1, roi.x2)
        near_y, near_x = self.y.cells(rows), self.x.cells(columns)
        near = self.prototypes[:, near_y, near_x]
        coarse = (self.coeffs[roi.instance] @ near.flatten(1)).view(near.shape[1:])
        values = (self.y.weights[rows, near_y] @ coarse).T
        torch.mm(self.x.weights[columns, near_x], values, out=logits)

    def _delta_weights(self, rois: Sequence[_Roi]) -> _DeltaWeights:
        """Of objects at their output pixels: together, as a dozen operations on each of them would cost more."""
        assert self.correction is not None
        instances = [roi.instance for roi in rois]
        bboxes = self.correction.bboxes.detach()[instances].float()
        x = cell_weights(
            self.x.centres, [roi[1::2] for roi in rois], bboxes[:, 0::2], self.deltas.shape[2]
        )
        y = cell_weights(
            self.y.centres, [roi[2::2] for roi in rois], bboxes[:, 1::2], self.deltas.shape[1]
        )
        return _DeltaWeights(x, y)


def _split_rois(rois: Sequence[_Roi], max_lines: int) -> Iterator[list[_Roi]]:
    """Groups of objects, in order, with at most so many rows and columns together, or of one object."""
    group: list[_Roi] = []
    lines = 0
    for roi in rois:
        own = roi.x2 - roi.x1 + roi.y2 - roi.y1
        if group and lines + own > max_lines:
            yield group
            group, lines = [], 0
        group.append(roi)
        lines += own
    if group:
        yield group
