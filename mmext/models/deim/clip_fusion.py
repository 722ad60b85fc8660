"""Classes of queries with the help of a sentence for each class: the head behind a detector with queries.

The parts follow CLIP (https://arxiv.org/abs/2103.00020): normalised projections of both sides, cosine similarities, a
learned temperature. `MultimodalFusion` corrects the sigmoid logits that the detector has; `SoftmaxMultimodalFusion`, in a
file of its own, makes others with a column for the background.

Everything is computed in the precision of the parameters, whatever autocast says: similarities of bfloat16, times a
scale of up to 100, would have three digits.

Shape letters: B images, Q queries, C classes of the detector, K classes of the texts (C unless others are set), V channels
of the queries, T of the texts, D of their projections.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.deim.losses import matchability_aware_loss
from mmext.models.deim.query_truth import QueryTruth
from mmext.models.deim.text_context import TextContext
from mmext.registry import MODELS

# Probability of every class in a new head.
_PRIOR_PROBABILITY = 0.01


class FusionOutputs(NamedTuple):
    """What a head makes of queries and texts.

    Attributes:
        logits: (B, Q, K) of the detections, sigmoid; of `SoftmaxMultimodalFusion` (B, Q, K + 1), softmax, the last one
            being the background.
        text_logits: (B, Q, K), what the texts alone say, sigmoid; None of `SoftmaxMultimodalFusion`.
        similarity: (B, Q, K) cosines in [-1, 1] of projected queries and texts.
    """

    logits: Tensor
    text_logits: Tensor | None
    similarity: Tensor


@MODELS.register_module()
class MultimodalFusion(nn.Module):
    """Sigmoid logits of a detector, corrected by texts; the default form.

    Queries and texts are compared by `TextContext`. Its refinement of [visual, context] moves the projected query, and
    the cosine c of the refined query with each text gives, with a learned scale s = 1 / temperature,

        fused logit = detector's logit + gate s c        text logit = s c + bias

    The gate starts at 0: a new head gives the detector's logits, bit for bit. While it is 0, the loss on the fused
    logits reaches the gate alone; `text_weight` and `align_weight` give all other parameters a gradient from the first
    step on. No layer knows the number of classes: with `set_texts` others can be asked for. Classes that the detector has
    never had get the text logit, the others stay as they are.

    Args:
        num_classes: C.
        visual_dim: V.
        text_dim: T.
        embed_dims: D.
        dropout: see `TextContext`.
        scale: 1 / temperature at the start.
        text_weight: of the class loss on the text logits, which makes them good for classes without the detector's.
        align_weight: of the cross entropy over the classes between the similarities of queries that lie on an object and
            the text of its class.
        mal_gamma: exponent of the class loss MAL.

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
        text_weight: float = 1.0,
        align_weight: float = 0.5,
        mal_gamma: float = 1.5,
    ) -> None:
        super().__init__()
        if min(text_weight, align_weight, mal_gamma) < 0:
            raise ValueError(
                f'MultimodalFusion: got text_weight={text_weight}, align_weight={align_weight}, mal_gamma={mal_gamma}; '
                'expected at least 0.'
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
        self.head = nn.Linear(embed_dims, embed_dims)
        self.gate = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.tensor([-math.log(1 / _PRIOR_PROBABILITY - 1)]))
        self.text_weight = text_weight
        self.align_weight = align_weight
        self.mal_gamma = mal_gamma
        # Of other texts than those of training: the detector's class of each, -1 for none.
        self.own_classes: list[int] | None = None

    def forward(
        self, queries: Tensor, logits: Tensor, *, return_similarity: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Correct logits.

        Args:
            queries: (B, Q, V), what the detector's logits were computed from.
            logits: (B, Q, C), the detector's.
            return_similarity: whether to return the similarities as well.

        Returns:
            Fused logits (B, Q, K), and with `return_similarity` cosines (B, Q, K).
        """
        outputs = self.compare(queries, logits)
        return (outputs.logits, outputs.similarity) if return_similarity else outputs.logits

    def compare(
        self, queries: Tensor, logits: Tensor, texts: Tensor | None = None
    ) -> FusionOutputs:
        """As `forward`, with all that the losses need; `texts` (C, T) in place of those that are held, with gradients."""
        with torch.autocast(queries.device.type, enabled=False):
            found = self.context(queries.to(self.gate.dtype), texts)
            refined = functional.normalize(found.visual + self.head(found.hidden), dim=-1)
            correction = self.context.scale * (refined @ found.texts.T)  # B x Q x K
            text_logits = correction + self.bias
            own = logits.to(correction.dtype)
            if self.own_classes is None:
                fused = own + self.gate * correction
            else:
                chosen = torch.tensor(self.own_classes, device=own.device)
                fused = own[..., chosen.clamp(min=0)] + self.gate * correction
                fused = torch.where(chosen >= 0, fused, text_logits)
        return FusionOutputs(fused, text_logits, found.similarity)

    def detection_logits(self, outputs: FusionOutputs) -> Tensor:
        """Logits (B, Q, K) whose sigmoid is the score of a detection."""
        return outputs.logits

    def loss(self, outputs: FusionOutputs, truth: QueryTruth) -> dict[str, Tensor]:
        """Losses of a training step.

        Args:
            outputs: of `compare`.
            truth: what the queries are to be.

        Returns:
            `loss_fused`, MAL of the fused logits; `loss_text`, the same of the text logits; `loss_align`.
        """
        assert outputs.text_logits is not None
        similarity = self.context.scale * outputs.similarity
        # Also with weights of 0: distributed training wants a gradient for every parameter.
        return {
            'loss_fused': self._class_loss(outputs.logits, truth),
            'loss_text': self.text_weight * self._class_loss(outputs.text_logits, truth),
            'loss_align': self.align_weight * alignment_loss(similarity, truth),
        }

    def set_texts(
        self, embeddings: Tensor, own_classes: Sequence[int], model_hash: str = ''
    ) -> None:
        """Take other texts, of any number of classes, for inference.

        Args:
            embeddings: (K, T), made as those of training were.
            own_classes: K of them, the detector's class in [0, C) that each text is about, or -1.
            model_hash: of their text model, see `TextEmbeddings`; '' where it is unknown.
        """
        self.context.set_texts(embeddings, model_hash)
        is_plain = list(own_classes) == list(range(self.num_classes))
        self.own_classes = None if is_plain else list(own_classes)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint brings the texts of the training back."""
        if f'{prefix}context.text_embeddings' in state_dict:
            self.own_classes = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _class_loss(self, logits: Tensor, truth: QueryTruth) -> Tensor:
        values = matchability_aware_loss(
            logits.float(), truth.labels, truth.ious, gamma=self.mal_gamma
        )
        return values.sum() / truth.num_objects


def alignment_loss(logits: Tensor, truth: QueryTruth) -> Tensor:
    """Cross entropy over the classes of the queries that lie on an object; 0, with a gradient of 0, where none does.

    Args:
        logits: (B, Q, C).
        truth: what the queries lie on.

    Returns:
        The mean over those queries, of this process.
    """
    on_object = truth.covered < logits.shape[-1]
    values = functional.cross_entropy(
        logits[on_object].float(), truth.covered[on_object], reduction='sum'
    )
    return values / on_object.sum().clamp(min=1)
