"""The literal form of text fusion: softmax logits of the classes and the background, made of queries and texts.

Shape letters: B images, Q queries, C classes, V channels of the queries, T of the texts, D of their projections.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.deim.clip_fusion import FusionOutputs
from mmext.models.deim.query_truth import QueryTruth
from mmext.models.deim.text_context import ContextOutputs, TextContext
from mmext.registry import MODELS


@MODELS.register_module()
class SoftmaxMultimodalFusion(nn.Module):
    """Softmax logits of C classes and the background, made of queries and texts; the literal form.

    Visual projection (linear, LayerNorm, ReLU, dropout), text projection, cosine similarity of both, softmax over the
    classes to a text context, [visual, context] through two linear layers to C + 1 logits. A DETR with sigmoid
    scores has no use for the background column: this head has a cross entropy of its own, in which the background weighs
    less, as in DETR (https://arxiv.org/abs/2005.12872), and its scores replace the detector's. A new head knows nothing.
    The texts can be exchanged; their number cannot, the last layer has a row for each.

    Args:
        num_classes: C.
        visual_dim: V.
        text_dim: T.
        embed_dims: D.
        dropout: see `TextContext`.
        scale: 1 / temperature at the start.
        background_weight: of the background in the cross entropy, in (0, 1].

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        visual_dim: int,
        text_dim: int,
        *,
        embed_dims: int = 256,
        dropout: float = 0.1,
        scale: float = 10.0,
        background_weight: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 < background_weight <= 1:
            raise ValueError(
                f'SoftmaxMultimodalFusion: got background_weight={background_weight}, expected a number in (0, 1].'
            )
        self.num_classes = num_classes
        self.context = TextContext(
            num_classes,
            visual_dim,
            text_dim,
            embed_dims=embed_dims,
            dropout=dropout,
            scale=scale,
        )
        self.head = nn.Linear(embed_dims, num_classes + 1)
        self.background_weight = background_weight

    def forward(
        self, queries: Tensor, logits: Tensor, *, return_similarity: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Make logits.

        Args:
            queries: (B, Q, V).
            logits: (B, Q, C), the detector's; not read.
            return_similarity: whether to return the similarities as well.

        Returns:
            Softmax logits (B, Q, C + 1), the last column for the background, and with `return_similarity` cosines
            (B, Q, C).
        """
        outputs = self.compare(queries, logits)
        return (outputs.logits, outputs.similarity) if return_similarity else outputs.logits

    def compare(
        self, queries: Tensor, logits: Tensor, texts: Tensor | None = None
    ) -> FusionOutputs:
        """As `forward`; `texts` (C, T) in place of those that are held, with gradients."""
        with torch.autocast(queries.device.type, enabled=False):
            found: ContextOutputs = self.context(queries.to(self.head.weight.dtype), texts)
            return FusionOutputs(self.head(found.hidden), None, found.similarity)

    def detection_logits(self, outputs: FusionOutputs) -> Tensor:
        """Logits (B, Q, C) whose sigmoid is the softmax probability of each class: x - log(sum of exp of the others)."""
        values = outputs.logits.float()
        columns = torch.arange(values.shape[-1], device=values.device)
        own = columns == columns[:-1, None]  # C x (C + 1)
        others = values[..., None, :].masked_fill(own, -torch.inf).logsumexp(dim=-1)
        return values[..., :-1] - others

    def loss(self, outputs: FusionOutputs, truth: QueryTruth) -> dict[str, Tensor]:
        """`loss_fused`, the weighted mean of the cross entropies of all queries."""
        logits = outputs.logits.float().flatten(0, 1)
        weight = logits.new_ones(self.num_classes + 1)
        weight[-1] = self.background_weight
        return {
            'loss_fused': functional.cross_entropy(logits, truth.labels.flatten(), weight=weight)
        }

    def set_texts(
        self, embeddings: Tensor, own_classes: Sequence[int], model_hash: str = ''
    ) -> None:
        """Take other texts of the same classes; see `MultimodalFusion.set_texts`.

        Raises:
            ValueError: they are of other classes.
        """
        if list(own_classes) != list(range(self.num_classes)):
            raise ValueError(
                f'SoftmaxMultimodalFusion: got texts of other classes than the {self.num_classes} of training, expected '
                'the same in the same order: its last layer has a row for each. Train mmext.MultimodalFusion, which takes '
                'any.'
            )
        self.context.set_texts(embeddings, model_hash)
