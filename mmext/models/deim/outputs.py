"""What goes into and comes out of the DEIM transformer, in training and at inference.

Shape letters: B images, Q matching queries, D denoising queries, N either of the two, C classes, R + 1 bins of an
edge's distribution (33), n objects of an image, d channels. Boxes are cxcywh, normalised to the network input;
predicted boxes are not clipped and may have a negative width or height.
"""

from typing import NamedTuple

from torch import Tensor


class ImageTargets(NamedTuple):
    """Objects of one image.

    Attributes:
        labels: (n,) int64 in [0, C).
        boxes: (n, 4) cxcywh in [0, 1].
    """

    labels: Tensor
    boxes: Tensor


class BoxOutputs(NamedTuple):
    """A prediction without distributions: of the selected memory, of the first layer before refinement, of a detector.

    Attributes:
        logits: (B, N, C).
        boxes: (B, N, 4) cxcywh, with gradient.
    """

    logits: Tensor
    boxes: Tensor


class LayerOutputs(NamedTuple):
    """The prediction of one decoder layer.

    Attributes:
        logits: (B, N, C), quality estimate included.
        boxes: (B, N, 4) cxcywh, decoded from `corners` around `refs`.
        corners: (B, N, 4 (R + 1)) logits of the distances of the edges left, top, right, bottom.
        refs: (B, N, 4) cxcywh without gradient, the boxes that the distances are measured from; the same for all
            layers.
        queries: (B, N, d), what the layer made of the queries, and its heads predict from.
    """

    logits: Tensor
    boxes: Tensor
    corners: Tensor
    refs: Tensor
    queries: Tensor


class DenoisingMatches(NamedTuple):
    """Which denoising query reconstructs which object: the positives of every group. Negatives match nothing.

    Attributes:
        query_indices: for each image (g n,) int64, positions among the D denoising queries, group after group.
        object_indices: for each image (g n,) int64, the objects of those queries: 0..n-1, g times.
        num_groups: g, the same for all images.
    """

    query_indices: tuple[Tensor, ...]
    object_indices: tuple[Tensor, ...]
    num_groups: int


class DenoisingOutputs(NamedTuple):
    """Predictions of the denoising queries.

    Attributes:
        layers: of every decoder layer; the last one is the teacher of the others.
        pre: of the first layer before refinement.
        matches: what the queries have to predict.
    """

    layers: tuple[LayerOutputs, ...]
    pre: BoxOutputs
    matches: DenoisingMatches


class DecoderOutputs(NamedTuple):
    """Predictions of the matching queries, and of the denoising queries in training.

    Attributes:
        layers: of every decoder layer in training (the last one is the main output and the teacher of the others),
            of the last layer alone at inference.
        encoder: of the selected memory in training, else None.
        pre: of the first layer before refinement in training, else None.
        denoising: None at inference, without targets, and where denoising is switched off; of D = 0 queries where the
            targets of all images are empty.
        bin_values: (R + 1,) float32, W(s): what each bin stands for, in units of box size / s (see `decode_boxes`).
        reg_scale: s.
    """

    layers: tuple[LayerOutputs, ...]
    encoder: BoxOutputs | None
    pre: BoxOutputs | None
    denoising: DenoisingOutputs | None
    bin_values: Tensor
    reg_scale: float
