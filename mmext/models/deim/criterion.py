"""The training objective of DEIM on plain tensors: match the queries, then score every output.

Sources: DEIM (https://arxiv.org/abs/2412.04234) and DEIMv2 (https://arxiv.org/abs/2509.20787); D-FINE
(https://arxiv.org/abs/2410.13842) for the losses on distributions.

Shape letters: L decoder layers, N = L + 2 outputs (the layers, the first layer before refinement, the encoder), B
images, Q queries, D denoising queries, C classes, T objects of the batch, m pairs of an output. Boxes are cxcywh in
[0, 1].
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from mmdet.utils import reduce_mean
from torch import Tensor, nn

from mmext.models.deim.losses import (
    box_distance,
    decoupled_mean,
    distillation_divergence,
    fine_grained_loss,
    giou_loss,
    locate_edges,
    matchability_aware_loss,
    overlaps,
)
from mmext.models.deim.matcher import DEIMMatcher, Pairs
from mmext.models.deim.outputs import (
    BoxOutputs,
    DecoderOutputs,
    DenoisingOutputs,
    ImageTargets,
    LayerOutputs,
)
from mmext.registry import MODELS, TASK_UTILS

_REQUIRED_TERMS = {'mal', 'bbox', 'giou'}
_DISTRIBUTION_TERMS = {'fgl', 'ddf'}


class QueryGroup(NamedTuple):
    """Outputs of one kind of queries, matching or denoising, in float32, and what they are to predict.

    Attributes:
        layers: of the decoder, the last one teaching the others.
        logits: (N, B, Q, C) of all outputs, the layers first.
        boxes: (N, B, Q, 4).
        own: pairs for the class loss.
        matched: pairs for the box losses.
        class_divisor: what the class loss is divided by, a scalar of at least 1, the mean over the processes.
        box_divisor: the same for the box losses and FGL.
    """

    layers: Sequence[LayerOutputs]
    logits: Tensor
    boxes: Tensor
    own: Pairs
    matched: Pairs
    class_divisor: Tensor
    box_divisor: Tensor


@MODELS.register_module()
class DEIMCriterion(nn.Module):
    """All losses of a training step, in float32 whatever the outputs are.

    Class loss MAL and box losses L1 and GIoU for every output; on the decoder layers' distributions FGL, and DDF
    towards the last layer. The sizes below n do without the distributions: leave `fgl` and `ddf` out of the weights,
    and take `mmext.DEIMMatcher` rather than `mmext.DEIMUnionMatcher`.

    Args:
        matcher: a `DEIMMatcher` or its config.
        loss_weights: of `mal`, `bbox` and `giou`, and of `fgl` and `ddf` where they are wanted.
        mal_gamma: exponent of MAL.
        temperature: of the distillation DDF.

    Raises:
        ValueError: a weight is missing, unknown or negative, or `mal_gamma` or `temperature` is out of its range.
    """

    def __init__(
        self,
        matcher: DEIMMatcher | dict,
        *,
        loss_weights: Mapping[str, float],
        mal_gamma: float = 1.5,
        temperature: float = 5.0,
    ) -> None:
        super().__init__()
        names = set(loss_weights)
        if (
            not _REQUIRED_TERMS <= names <= _REQUIRED_TERMS | _DISTRIBUTION_TERMS
            or min(loss_weights.values()) < 0
        ):
            raise ValueError(
                f'DEIMCriterion: got loss_weights={dict(loss_weights)}; expected numbers of at least 0 for mal, bbox '
                'and giou, and, for losses on distributions, for fgl and ddf.'
            )
        if mal_gamma < 0 or temperature <= 0:
            raise ValueError(
                f'DEIMCriterion: got mal_gamma={mal_gamma}, temperature={temperature}; expected mal_gamma of at '
                'least 0 and temperature above 0.'
            )
        self.matcher = TASK_UTILS.build(matcher) if isinstance(matcher, Mapping) else matcher
        self.loss_weights = dict(loss_weights)
        self.mal_gamma = mal_gamma
        self.temperature = temperature

    def forward(
        self, outputs: DecoderOutputs, targets: Sequence[ImageTargets], *, epoch: int
    ) -> dict[str, Tensor]:
        """Compute the weighted losses.

        Args:
            outputs: of the training mode.
            targets: B of them; images without objects are fine.
            epoch: counted from 0, for the matcher.

        Returns:
            Scalars `loss_{mal,bbox,giou,fgl}` of the last layer; with `_aux_{i}` those of layer i before it, and its
            `loss_ddf_aux_{i}`; with `_pre` and `_enc_0` mal, bbox and giou before refinement and of the encoder; with
            `_dn_{i}` and `_dn_pre` those of the denoising queries, unless denoising is switched off. A loss that is
            not a number becomes 0, as in the original; the matcher has warned of it.
        """
        with torch.autocast(outputs.bin_values.device.type, enabled=False):
            objects = ImageTargets(
                torch.cat([own.labels for own in targets]),
                torch.cat([own.boxes for own in targets]).float(),
            )
            group = self._match(outputs, targets, epoch=epoch)
            num_layers = len(outputs.layers)
            aux = [f'_aux_{i}' for i in range(num_layers - 1)]
            groups = [(group, [*aux, '', '_pre', '_enc_0'])]
            if outputs.denoising is not None:
                layers = [f'_dn_{i}' for i in range(num_layers)]
                denoising = _denoising_group(outputs.denoising, targets, group.class_divisor)
                groups.append((denoising, [*layers, '_dn_pre']))

            losses = {}
            num_matched = group.matched.query.shape[1]
            counts = (num_matched, group.boxes[0, ..., 0].numel() - num_matched)
            for own, suffixes in groups:
                terms = {'mal': self._class_loss(own, objects), **_box_losses(own, objects)}
                if not _DISTRIBUTION_TERMS.isdisjoint(self.loss_weights):
                    terms |= self._distribution_losses(own, objects, outputs, counts=counts)
                losses.update(self._weigh(terms, suffixes))
        return losses

    def _match(
        self, outputs: DecoderOutputs, targets: Sequence[ImageTargets], *, epoch: int
    ) -> QueryGroup:
        """Stack and match the outputs of the matching queries.

        Raises:
            ValueError: the outputs are those of inference.
        """
        if outputs.pre is None or outputs.encoder is None:
            raise ValueError(
                'DEIMCriterion: got the outputs of inference, without `pre` and `encoder`; expected those of '
                'training: call the decoder in training mode and with targets.'
            )
        logits, boxes = _stack([*outputs.layers, outputs.pre, outputs.encoder])
        matches = self.matcher(logits.detach(), boxes.detach(), targets, epoch=epoch)
        num_objects = sum(len(own.labels) for own in targets)
        # Both in one reduction; a process without objects takes part in it.
        sizes = reduce_mean(boxes.new_tensor([num_objects, matches.num_boxes])).clamp(min=1)
        return QueryGroup(outputs.layers, logits, boxes, matches.own, matches.boxes, *sizes)

    def _class_loss(self, group: QueryGroup, objects: ImageTargets) -> Tensor:
        """MAL (N,) of each output on its own pairs; all other queries are background."""
        pairs = group.own
        labels = torch.full_like(group.logits[..., 0], group.logits.shape[-1], dtype=torch.long)
        ious = torch.zeros_like(group.logits[..., 0])
        places = pairs.places
        labels[places] = objects.labels[pairs.target]
        ious[places] = overlaps(group.boxes.detach()[places], objects.boxes[pairs.target])
        values = matchability_aware_loss(group.logits, labels, ious, gamma=self.mal_gamma)
        return values.sum(dim=(1, 2)) / group.class_divisor

    def _distribution_losses(
        self,
        group: QueryGroup,
        objects: ImageTargets,
        outputs: DecoderOutputs,
        *,
        counts: tuple[int, int],
    ) -> dict[str, Tensor]:
        """FGL of the layers, and DDF of all but the last one.

        Args:
            group: matching or denoising queries.
            objects: of all images.
            outputs: where the bins are.
            counts: of matched and of other queries among the matching ones, for DDF.

        Returns:
            `fgl` (L,), `ddf` (L - 1,).
        """
        num_layers = len(group.layers)
        pairs = group.matched.of_first(num_layers)
        places = pairs.places
        corners = torch.stack([layer.corners for layer in group.layers]).float()
        corners = corners.unflatten(-1, (4, -1))  # L x B x Q x 4 x (R + 1)
        refs = group.layers[0].refs.float()[pairs.image, pairs.query]  # L x m x 4
        truth = objects.boxes[pairs.target]
        ious = overlaps(group.boxes.detach()[places], truth)  # L x m
        edges = locate_edges(
            truth, refs, bin_values=outputs.bin_values.float(), reg_scale=outputs.reg_scale
        )
        fgl = fine_grained_loss(corners[places], edges) * ious

        # A query without an object learns from the teacher as far as the teacher is sure of it.
        confidence = group.logits[num_layers - 1].detach().sigmoid().amax(dim=-1)  # B x Q
        weight = confidence.repeat(num_layers, 1, 1)
        weight[places] = ious
        matched = torch.zeros_like(weight, dtype=torch.bool)
        matched[places] = True
        divergence = distillation_divergence(
            corners[:-1], corners[-1], temperature=self.temperature
        )
        ddf = decoupled_mean(weight[:-1] * divergence, matched[:-1], counts=counts)
        return {'fgl': fgl.sum(dim=1) / group.box_divisor, 'ddf': ddf}

    def _weigh(self, terms: Mapping[str, Tensor], suffixes: Sequence[str]) -> dict[str, Tensor]:
        """Name and weigh the values of the terms, which exist for the first outputs only."""
        return {
            f'loss_{name}{suffix}': self.loss_weights[name] * value
            for name, values in terms.items()
            if name in self.loss_weights
            for suffix, value in zip(suffixes, values.nan_to_num(nan=0.0), strict=False)
        }


def _box_losses(group: QueryGroup, objects: ImageTargets) -> dict[str, Tensor]:
    """`bbox` and `giou`, each (N,)."""
    boxes = group.boxes[group.matched.places]  # N x m x 4
    truth = objects.boxes[group.matched.target]
    return {
        'bbox': box_distance(boxes, truth).sum(dim=1) / group.box_divisor,
        'giou': giou_loss(boxes, truth).sum(dim=1) / group.box_divisor,
    }


def _denoising_group(
    outputs: DenoisingOutputs, targets: Sequence[ImageTargets], num_objects: Tensor
) -> QueryGroup:
    """The denoising queries, whose pairs are fixed.

    Args:
        outputs: of the denoising queries.
        targets: B of them.
        num_objects: divisor of the matching queries' class loss.
    """
    logits, boxes = _stack([*outputs.layers, outputs.pre])
    matches = outputs.matches
    starts = accumulate((len(own.labels) for own in targets), initial=0)
    image = [torch.full_like(own, i) for i, own in enumerate(matches.query_indices)]
    target = [own + start for own, start in zip(matches.object_indices, starts, strict=False)]
    pairs = Pairs(
        torch.cat(image),
        torch.cat(matches.query_indices).expand(len(logits), -1),
        torch.cat(target).expand(len(logits), -1),
    )
    divisor = num_objects * matches.num_groups
    return QueryGroup(outputs.layers, logits, boxes, pairs, pairs, divisor, divisor)


def _stack(outputs: Sequence[LayerOutputs | BoxOutputs]) -> tuple[Tensor, Tensor]:
    """Logits (N, B, Q, C) and boxes (N, B, Q, 4) of all outputs in float32."""
    return (
        torch.stack([own.logits for own in outputs]).float(),
        torch.stack([own.boxes for own in outputs]).float(),
    )
