"""A head that keeps the place: every cell votes for the box, and attention weighs the votes and gathers the class.

Shape letters: B images, C channels, K classes, S cells of the finest map of h x w, R bins of a distance.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.localizer import votes
from mmext.models.localizer.outputs import Localization, LocalizerTargets
from mmext.registry import MODELS

NORM_CFG = dict(type='BN')
ACT_CFG = dict(type='SiLU', inplace=False)
# Before training, the mean distance of a cell to the edges: about what it is in a box of a third of the image.
USUAL_DISTANCE = 0.15
DENSE_WEIGHTS = dict(attention=0.2, votes=0.7, edges=0.2)


class VoteOutputs(NamedTuple):
    """The object of every image, and what it was gathered from; lengths are shares of the network input's sides.

    Attributes:
        class_logits: (B, K).
        boxes: (B, 4) xyxy, the mean of the votes, each as often as the attention says.
        attention_logits: (B, S), before the softmax over the cells.
        votes: (B, S, 4) xyxy.
        edge_logits: (B, S, 4, R).
        centres: (S, 2) xy, of the cells.
    """

    class_logits: Tensor
    boxes: Tensor
    attention_logits: Tensor
    votes: Tensor
    edge_logits: Tensor
    centres: Tensor


@MODELS.register_module()
class VoteHead(nn.Module):
    """Class and box of one object, from all feature maps fused at the size of the finest.

    Each cell has a distribution over the distances to the four edges, whose means are its vote for the box. A softmax
    over all cells is the attention: the box is the mean of the votes under it, the class is read from the mean of the
    features under it. Beside the loss of that box and class, each cell learns by itself: the attention should be a bell
    on the object (cross entropy), and the votes of the cells there should be the box (GIoU, and a focal loss of the
    distributions as in arXiv:2006.04388). Those dense losses are what a network from scratch learns from first.

    Args:
        in_channels: of the feature maps, finest first.
        num_classes: K.
        loss: config of `mmext.LocalizationLoss`, without `num_classes`.
        feat_channels: of the fused map.
        num_bins: R.
        reach: the largest distance of a cell to an edge.
        sigma: width of the bell, in sizes of the object.
        weights: factors of the dense losses: `attention` (cross entropy of the attention), `votes` (GIoU loss of the
            votes), `edges` (focal loss of the distances). What is left out is as in `DENSE_WEIGHTS`.
        dropout: of the features that the class is read from.

    Raises:
        ValueError: `num_bins` is below 2, `reach` or `sigma` not above 0, or a weight is below 0 or of no such loss.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        loss: dict[str, Any],
        feat_channels: int = 128,
        num_bins: int = 17,
        reach: float = 1.0,
        sigma: float = 0.2,
        weights: Mapping[str, float] | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if num_bins < 2 or reach <= 0 or sigma <= 0:
            raise ValueError(
                f'VoteHead: got num_bins={num_bins}, reach={reach} and sigma={sigma}, expected at least two bins and '
                'lengths above 0'
            )
        self.weights = DENSE_WEIGHTS | dict(weights or {})
        if set(self.weights) != set(DENSE_WEIGHTS) or min(self.weights.values()) < 0:
            raise ValueError(
                f'VoteHead: got weights={dict(weights or {})}, expected numbers of at least 0 for any of '
                f'{list(DENSE_WEIGHTS)}'
            )
        self.num_classes = num_classes
        self.num_bins = num_bins
        self.reach = reach
        self.sigma = sigma
        self.laterals = nn.ModuleList(_conv(channels, feat_channels, 1) for channels in in_channels)
        self.fused = _conv(feat_channels, feat_channels, 3)
        self.class_features = _conv(feat_channels, feat_channels, 3)
        self.place_features = _conv(feat_channels, feat_channels, 3)
        self.place = nn.Conv2d(feat_channels, 1 + 4 * num_bins, 1)
        self.class_score = nn.Sequential(nn.Dropout(dropout), nn.Linear(feat_channels, num_classes))
        self.loss_fn = MODELS.build(dict(loss, num_classes=num_classes))
        self.init_weights()

    def init_weights(self) -> None:
        """Even attention, and votes for a box of a usual size around each cell."""
        nn.init.normal_(self.place.weight, std=0.01)
        bias = self.place.bias
        assert bias is not None
        bins = torch.linspace(0, self.reach, self.num_bins, device=bias.device)
        with torch.no_grad():
            bias[0] = 0.0
            bias[1:] = (-bins / USUAL_DISTANCE).repeat(4)

    def forward(self, feats: Sequence[Tensor]) -> VoteOutputs:
        """Feature maps (B, C_l, h_l, w_l), finest first, to the object of every image."""
        x = self.fused(self._fuse(feats))  # B x C x h x w
        place = self.place(self.place_features(x)).flatten(2).transpose(1, 2)  # B x S x (1 + 4R)
        attention_logits = place[..., 0]
        edge_logits = place[..., 1:].unflatten(-1, (4, self.num_bins))
        height, width = x.shape[2:]
        centres = votes.cell_centres(height, width, x.device)
        cell_votes = votes.decode_votes(edge_logits, centres, self.reach)

        attention = attention_logits.softmax(dim=1, dtype=torch.float32)[..., None]  # B x S x 1
        features = self.class_features(x).flatten(2).transpose(1, 2)  # B x S x C
        class_logits = self.class_score((attention * features).sum(dim=1))
        boxes = (attention * cell_votes).sum(dim=1)
        return VoteOutputs(class_logits, boxes, attention_logits, cell_votes, edge_logits, centres)

    def loss(self, outputs: VoteOutputs, targets: LocalizerTargets) -> dict[str, Tensor]:
        """Losses of a step.

        Returns:
            `loss_class` and `loss_box` of `LocalizationLoss`, `loss_attention`, `loss_votes` and `loss_edges`: scalars;
            0 with a gradient of 0 where no image has an object.
        """
        losses = self.loss_fn(Localization(outputs.class_logits, outputs.boxes), targets)
        known = targets.known
        if not known.any():
            nothing = (outputs.attention_logits.sum() + outputs.edge_logits.sum()) * 0
            return losses | {f'loss_{name}': nothing for name in self.weights}
        boxes, edge_logits = targets.boxes[known], outputs.edge_logits[known]
        shares = votes.nearness(boxes, outputs.centres, self.sigma)
        dense = dict(
            attention=votes.attention_loss(outputs.attention_logits[known], shares),
            votes=votes.vote_loss(outputs.votes[known], boxes, shares),
            edges=votes.edge_loss(edge_logits, outputs.centres, boxes, shares, reach=self.reach),
        )
        return losses | {f'loss_{name}': self.weights[name] * dense[name] for name in dense}

    def _fuse(self, feats: Sequence[Tensor]) -> Tensor:
        """The sum of all maps at the size of the finest, from the coarsest to the finest."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, feats, strict=True)]
        fused = maps.pop()
        while maps:
            finer = maps.pop()
            fused = finer + functional.interpolate(fused, finer.shape[2:], mode='nearest')
        return fused


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> ConvModule:
    return ConvModule(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        norm_cfg=NORM_CFG,
        act_cfg=ACT_CFG,
    )
