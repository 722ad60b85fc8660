"""From queries to classes of pixels: what mmdet lacks, and what mmseg does with all masks at full size at once.

The score of a class at a pixel is the sum over queries of the probability that the query is of the class times the
probability that the pixel is of the query. It is no logit: scores of one pixel need not sum to 1, and more than one query
may claim a pixel. To average several views, average the scores themselves.

Source: MaskFormer (https://arxiv.org/abs/2107.06278), section 3.4.

Shape letters: B images, Q queries, C classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Values of masks that are held at full size at a time: 32 MB.
MAX_CHUNK_VALUES = 2**23


def score_classes(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores of classes at every pixel. Masks are resized a few at a time.

    Args:
        class_logits: (B, Q, C + 1), the last one is "no object".
        mask_logits: (B, Q, h, w).
        size: (H, W) to which masks are resized, bilinearly, before they become probabilities.

    Returns:
        (B, C, H, W) of the type of the masks, at least 0; the sum over classes is at most Q.
    """
    weights = class_logits.softmax(dim=-1)[..., :-1].transpose(1, 2).to(mask_logits.dtype)
    batch, num_classes, _ = weights.shape
    height, width = size
    scores = mask_logits.new_zeros(batch, num_classes, height * width)
    count = max(1, MAX_CHUNK_VALUES // (batch * height * width))
    for own_weights, own_masks in zip(
        weights.split(count, dim=2), mask_logits.split(count, dim=1), strict=True
    ):
        resized = functional.interpolate(own_masks, size, mode='bilinear', align_corners=False)
        scores = torch.baddbmm(scores, own_weights, resized.sigmoid().flatten(2))
    return scores.unflatten(2, size)


def predict_class_map(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Class of every pixel of an image, a few rows at a time: the scores of all classes are never there at once.

    Args:
        class_logits: (Q, C + 1), the last one is "no object".
        mask_logits: (Q, H, W) at the size that is wanted.

    Returns:
        (H, W) int64 in [0, C). Every pixel gets its best class, however low its score.
    """
    weights = class_logits.softmax(dim=-1)[:, :-1].T.to(mask_logits.dtype)  # C x Q
    values_per_row = max(weights.shape) * mask_logits.shape[2]
    count = max(1, MAX_CHUNK_VALUES // values_per_row)
    return torch.cat(
        [
            torch.einsum('cq,qhw->chw', weights, rows.sigmoid()).argmax(dim=0)
            for rows in mask_logits.split(count, dim=1)
        ]
    )
