"""What queries and the texts of the classes have in common: projections, similarities and a context made of texts.

Source: CLIP (https://arxiv.org/abs/2103.00020) for the normalised projections and the learned temperature.

Shape letters: B images, Q queries, K classes, V channels of the queries, T of the texts, D of both projections.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.folding import refuse_training

# As in CLIP: beyond it training becomes unstable.
MAX_SCALE = 100.0
_TEXTS = 'text_embeddings'
_HASH_BYTES = 32


class TextRows(NamedTuple):
    """What is made of the texts alone.

    Attributes:
        texts: (K, D), projected, of length 1.
        context: (K, D), what each text contributes to the first layer of the refinement.
    """

    texts: Tensor
    context: Tensor


class ContextOutputs(NamedTuple):
    """Queries compared with texts.

    Attributes:
        visual: (B, Q, D), the projected queries.
        texts: (K, D), the projected texts, of length 1.
        similarity: (B, Q, K) cosines in [-1, 1] of the projected queries with them.
        hidden: (B, Q, D), the first layer of the refinement of [visual, context].
    """

    visual: Tensor
    texts: Tensor
    similarity: Tensor
    hidden: Tensor


class TextContext(nn.Module):
    """Projects queries and texts, compares them, and joins each query with the texts that it resembles.

    The context of a query is the mean of the projected texts, weighted with the softmax over the classes of its
    similarities divided by the temperature. It is joined as [visual, context] with a linear layer, which is computed in
    two halves: the half of the context then depends on the K texts alone.

    The texts are a buffer, so that a checkpoint holds them and neither a text model nor a file is needed afterwards. They
    are 0 until they are set or loaded. In deploy form (see `mmext.models.common.folding`) what is made of them is a
    constant.

    Args:
        num_classes: K.
        visual_dim: V.
        text_dim: T.
        embed_dims: D.
        dropout: share of the channels that are dropped in training, behind either ReLU.
        scale: 1 / temperature at the start.

    Raises:
        ValueError: a number is out of its range.
    """

    text_embeddings: Tensor
    text_model: Tensor

    def __init__(
        self,
        num_classes: int,
        visual_dim: int,
        text_dim: int,
        *,
        embed_dims: int,
        dropout: float,
        scale: float,
    ) -> None:
        super().__init__()
        sizes = (num_classes, visual_dim, text_dim, embed_dims)
        if min(sizes) < 1 or not 0 <= dropout < 1 or not 1 <= scale <= MAX_SCALE:
            raise ValueError(
                f'got num_classes, visual_dim, text_dim, embed_dims = {sizes}, dropout={dropout}, scale={scale}; expected '
                f'sizes of at least 1, dropout in [0, 1) and scale in [1, {MAX_SCALE:g}].'
            )
        self.visual_projection = nn.Sequential(
            nn.Linear(visual_dim, embed_dims),
            nn.LayerNorm(embed_dims),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.text_projection = nn.Linear(text_dim, embed_dims)
        self.refinement = nn.Linear(2 * embed_dims, embed_dims)
        self.dropout = nn.Dropout(dropout)
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.register_buffer(_TEXTS, torch.zeros(num_classes, text_dim))
        # Which text model the texts come from: SHA-256 of its `model_hash`; 0 where it is not known.
        self.register_buffer('text_model', torch.zeros(_HASH_BYTES, dtype=torch.uint8))
        self.folded: nn.Module | None = None

    @property
    def scale(self) -> Tensor:
        """1 / temperature, (1,), at most 100 in a training step."""
        return self.log_scale.exp()

    def forward(self, queries: Tensor, texts: Tensor | None = None) -> ContextOutputs:
        """Compare queries (B, Q, V) with the texts, or in training with those of a text model that learns, (K, T)."""
        if self.training:
            # The parameter itself, as in CLIP: a clamped result would give it no gradient to come back by.
            with torch.no_grad():
                self.log_scale.clamp_(max=math.log(MAX_SCALE))
        visual = self.visual_projection(queries)
        rows = self.folded() if self.folded is not None else self._make_rows(texts)
        similarity = functional.normalize(visual, dim=-1) @ rows.texts.T  # B x Q x K
        weights = (self.scale * similarity).softmax(dim=-1)
        own_half = self.refinement.weight[:, : visual.shape[-1]]
        joined = functional.linear(visual, own_half, self.refinement.bias) + weights @ rows.context
        return ContextOutputs(visual, rows.texts, similarity, self.dropout(joined.relu()))

    def check_text_model(self, model_hash: str, source: str) -> None:
        """Other texts must come from the text model of those that are held, as far as both are known.

        Args:
            model_hash: see `TextEmbeddings`.
            source: of the other texts, for the message.

        Raises:
            ValueError: they come from another one.
        """
        if not self.text_model.any() or not model_hash:
            return
        if not torch.equal(self.text_model, _digest(model_hash).to(self.text_model)):
            raise ValueError(
                f'got texts of {source}, expected texts by the text model of the training, which is another: vectors of '
                'different models have nothing to do with each other. Embed the texts with that model (of one that was '
                'fine-tuned with the detector there are only the texts of the training).'
            )

    def set_texts(self, embeddings: Tensor, model_hash: str = '') -> None:
        """Take other texts (K, T), of any number of classes; `model_hash` as in `TextEmbeddings`, '' where unknown.

        Raises:
            ValueError: not (K, T) with the T of the projection, or not finite.
        """
        text_dim = self.text_projection.in_features
        if embeddings.dim() != 2 or embeddings.shape[1] != text_dim or not len(embeddings):
            raise ValueError(
                f'got text embeddings {tuple(embeddings.shape)}, expected (classes, {text_dim}). Embed the texts with the '
                'model that the head was trained with, or set fusion.text_dim before training.'
            )
        if not embeddings.isfinite().all():
            raise ValueError('got text embeddings that are not finite; embed the texts again.')
        # Also where a test sets them: tensors of the inference mode could not be trained with afterwards.
        with torch.inference_mode(False), torch.no_grad():
            own = self.text_embeddings
            self.text_embeddings = embeddings.detach().clone().to(own.device, own.dtype)
            self.text_model = _digest(model_hash).to(self.text_model.device)
            if self.folded is not None:
                self.folded = self.fold()

    def fold(self) -> nn.Module:
        """What is made of the texts, as constants."""
        return _FoldedRows(self._make_rows())

    def _make_rows(self, texts: Tensor | None = None) -> TextRows:
        texts = self.text_projection(self.text_embeddings if texts is None else texts)
        texts = functional.normalize(texts, dim=-1)
        context_half = self.refinement.weight[:, texts.shape[-1] :]
        return TextRows(texts, texts @ context_half.T)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Say so where a checkpoint replaces other texts than its own."""
        loaded, own = state_dict.get(prefix + _TEXTS), self.text_embeddings
        if loaded is not None and own.device.type != 'meta' and own.any():
            if loaded.shape != own.shape or not torch.equal(loaded.to(own), own):
                print_log(
                    'the texts of the checkpoint replace others that were read before; to score with others, use '
                    'tools/test.py --descriptions',
                    'current',
                    level=30,
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _digest(model_hash: str) -> Tensor:
    """(32,) uint8, 0 of an empty text."""
    digest = hashlib.sha256(model_hash.encode()).digest() if model_hash else bytes(_HASH_BYTES)
    return torch.tensor(list(digest), dtype=torch.uint8)


class _FoldedRows(nn.Module):
    """`TextRows` as buffers that are no part of the state dict."""

    texts: Tensor
    context: Tensor

    def __init__(self, rows: TextRows) -> None:
        super().__init__()
        self.register_buffer('texts', rows.texts, persistent=False)
        self.register_buffer('context', rows.context, persistent=False)
        self.training = False

    def forward(self) -> TextRows:
        return TextRows(self.texts, self.context)

    def train(self, mode: bool = True) -> '_FoldedRows':
        """Stay in eval mode; ValueError for training, which would not reach the constants."""
        refuse_training(mode)
        return super().train(mode)
