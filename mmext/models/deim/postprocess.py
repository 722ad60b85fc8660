"""From the decoder's last layer to detections: no threshold, no suppression of overlaps, no clipping.

Source: DEIMv2 (https://arxiv.org/abs/2509.20787); queries are matched one to one, so each object has one already.

Shape letters: B images, Q queries, C classes, k detections of an image.
"""

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
