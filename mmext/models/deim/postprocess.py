"""From the decoder's last layer to detections: no threshold, no suppression of overlaps, no clipping.

Source: DEIMv2 (https://arxiv.org/abs/2509.20787); queries are matched one to one, so each object has one already.

Shape letters: B images, Q queries, C classes, k detections of an image.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mmext.structures.boxes import cxcywh_to_xyxy


class Detections(NamedTuple):
    """Detections of every image, highest score first.

    Attributes:
        boxes: (B, k, 4) xyxy float32, 1 being the width and the height of the network input. They may reach beyond
            [0, 1] and be inverted, as the decoder's do.
        scores: (B, k) float32 in [0, 1].
        labels: (B, k) int64 in [0, C).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def select_detections(logits: Tensor, boxes: Tensor, *, max_per_img: int) -> Detections:
    """The pairs of query and class with the highest scores; a query may be found with several classes.

    Args:
        logits: (B, Q, C).
        boxes: (B, Q, 4) cxcywh, normalised to the network input.
        max_per_img: k, less where Q C is.
    """
    num_classes = logits.shape[2]
    flat = logits.float().flatten(1)  # B x QC
    # Sigmoid behind topk: of large logits it is 1 for all, and their order would be lost.
    best, index = flat.topk(min(max_per_img, flat.shape[1]), dim=1)
    query = (index // num_classes)[..., None].expand(-1, -1, 4)
    corners = cxcywh_to_xyxy(boxes.float()).gather(1, query)
    return Detections(corners, best.sigmoid(), index % num_classes)


def place_in_original(
    boxes: Tensor,
    *,
    input_size: tuple[int, int],
    scale_factor: Sequence[float],
    offset: tuple[float, float],
) -> Tensor:
    """Boxes in pixels of the image before it was resized and padded.

    Args:
        boxes: (k, 4) xyxy, normalised to the network input.
        input_size: height and width of the network input, paddings included.
        scale_factor: pixels of the network input per pixel of the original, along x and along y.
        offset: columns at the left and rows at the top of the network input that are padding.

    Returns:
        (k, 4) xyxy.
    """
    height, width = input_size
    (scale_x, scale_y), (left, top) = scale_factor, offset
    # The product first: 640 px at a factor of 640 / 500 are 500 px, and not nearly.
    pixels = boxes * boxes.new_tensor([width, height, width, height])
    pixels = pixels - boxes.new_tensor([left, top, left, top])
    return pixels / boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
