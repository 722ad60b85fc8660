"""DEIM with a sentence for each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from mmext.models.common.text_embeddings import load_text_embeddings
from mmext.models.deim.clip_fusion import FusionOutputs
from mmext.models.deim.detector import DEIM, read_targets
from mmext.models.deim.outputs import BoxOutputs, LayerOutputs
from mmext.models.deim.query_truth import assign_queries
from mmext.registry import MODELS

# In the order of the computation: what stands before a frozen part must be frozen, too.
PARTS = ('backbone', 'neck', 'decoder')
_TEXT_KEYS = {'classes', 'embeddings', 'permutation'}


@MODELS.register_module()
class DEIMMultimodal(DEIM):
    """`mmext.DEIM` whose last layer's classes are decided with the help of texts.

    It is a DEIM, not a module around one, so that the names of its weights are the same: `load_from` takes a checkpoint of
    `mmext.DEIM`, and the report of the loading lists `fusion.*` as missing and nothing else.

    Training with the whole detector frozen computes neither its losses nor its gradients; the losses are those of
    `fusion`. Otherwise the detector has all the losses it had without texts, on its own logits, and those of `fusion` come
    in addition; their gradient reaches the detector as well. Queries are matched by the fused logits.

    Args:
        fusion: config of `mmext.MultimodalFusion` or `mmext.SoftmaxMultimodalFusion`.
        text: `classes`, names in the order of the labels; `embeddings`, a file of `tools/embed_text.py`, read when the
            texts are wanted and no checkpoint has brought them, or None; optionally `permutation`: class i gets the text
            of class permutation[i], the control of what the meaning of the texts contributes.
        frozen: which parts of the detector are not trained and keep their eval mode: (), ('backbone',),
            ('backbone', 'neck') or ('backbone', 'neck', 'decoder'). (torch's attention rounds by about 1e-7 otherwise where
            its weights want no gradient: compare bits with a detector whose weights are frozen as well.)

    All other arguments are those of `DEIM`.

    Raises:
        ValueError: `frozen` or `text` is wrong, or the numbers of classes or channels do not fit together.
    """

    def __init__(
        self,
        *,
        backbone: dict[str, Any],
        neck: dict[str, Any],
        decoder: dict[str, Any],
        criterion: dict[str, Any],
        fusion: dict[str, Any],
        text: Mapping[str, Any],
        test_cfg: Mapping[str, Any],
        frozen: Sequence[str] = (),
        train_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=neck,
            decoder=decoder,
            criterion=criterion,
            test_cfg=test_cfg,
            train_cfg=train_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.frozen = tuple(frozen)
        _check_settings(self.frozen, text)
        self.fusion = MODELS.build(fusion)
        self.classes = tuple(text['classes'])
        self.embeddings: str | None = text['embeddings']
        self.permutation = tuple(text.get('permutation') or range(len(self.classes)))
        self._check_classes()
        self._has_texts = self._has_weights = False
        for name in self.frozen:
            getattr(self, name).requires_grad_(False)

    @property
    def vocabulary_size(self) -> int:
        """The number of classes that are found: those of the texts, which may be others than the detector's."""
        return len(self.fusion.context.text_embeddings)

    def train(self, mode: bool = True) -> 'DEIMMultimodal':
        """Switch the mode; what is frozen stays in eval mode, where batch norms keep their statistics."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self

    def init_weights(self) -> None:
        """As `DEIM`; and read the texts, so that a file that is missing is told before the training."""
        super().init_weights()
        self._require_texts()

    def read_texts(self, path: str | Path, classes: Sequence[str]) -> None:
        """Find these classes from now on, by their texts.

        Args:
            path: file of `tools/embed_text.py`, made by the text model of the training.
            classes: names. Those that the model was trained on keep the detector's logits.

        Raises:
            FileNotFoundError, ValueError: see `load_text_embeddings`, and `set_texts` of the fusion.
        """
        if Path(path).suffix == '.json':
            raise ValueError(
                f'got {path}, which holds sentences; expected their embeddings. Make them first: '
                f'`python tools/embed_text.py {path} MODEL_FOLDER EMBEDDINGS.safetensors`.'
            )
        own = [self.classes.index(name) if name in self.classes else -1 for name in classes]
        self.fusion.set_texts(load_text_embeddings(path, classes), own)
        self._has_texts = True

    def loss(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]
    ) -> dict[str, Tensor]:
        """Losses of a training step; see `DEIM.loss`.

        Returns:
            The losses of the fusion, and those of `DEIMCriterion` unless the decoder is frozen.

        Raises:
            ValueError: there are no texts, or a frozen detector without weights.
        """
        self._require_texts()
        if 'decoder' in self.frozen and not self._has_weights:
            raise ValueError(
                f'DEIMMultimodal: got frozen={self.frozen}, and weights that no checkpoint has filled; expected a trained '
                'detector. Set load_from to the checkpoint of the training without texts.'
            )
        height, width = batch_inputs.shape[2:]
        targets = [read_targets(own.gt_instances, height, width) for own in batch_data_samples]
        outputs = self.decoder(self.extract_feat(batch_inputs), targets)
        losses = {}
        if 'decoder' not in self.frozen:
            losses = self.criterion(outputs, targets, epoch=self.epoch)
        last = outputs.layers[-1]
        fused = self.fusion.compare(last.queries, last.logits)
        with torch.autocast(batch_inputs.device.type, enabled=False):
            found = BoxOutputs(self.fusion.detection_logits(fused), last.boxes)
            truth = assign_queries(self.criterion.matcher, found, targets, epoch=self.epoch)
            return losses | self.fusion.loss(fused, truth)

    def compare_queries(self, batch_inputs: Tensor) -> tuple[BoxOutputs, FusionOutputs]:
        """What `mode='tensor'` returns for images (B, 3, H, W), and what the texts say to each query.

        Returns:
            `BoxOutputs` of the fused logits, and the outputs of the fusion with the similarities (B, Q, K).
        """
        self._require_texts()
        last: LayerOutputs = self.decoder(self.extract_feat(batch_inputs)).layers[-1]
        fused = self.fusion.compare(last.queries, last.logits)
        return BoxOutputs(self.fusion.detection_logits(fused), last.boxes), fused

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample] | None = None
    ) -> BoxOutputs:
        """As `DEIM._forward`, with the fused logits (B, Q, K)."""
        return self.compare_queries(batch_inputs)[0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Remember whether a checkpoint has had weights for the detector."""
        self._has_weights |= any(name.startswith(f'{prefix}decoder.') for name in state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _require_texts(self) -> None:
        """Read the texts where neither a checkpoint nor `read_texts` has brought any."""
        buffer = self.fusion.context.text_embeddings
        if self._has_texts or buffer.device.type == 'meta':
            return
        if not buffer.any():
            if self.embeddings is None:
                raise ValueError(
                    'DEIMMultimodal: got no texts; load a checkpoint that was trained with texts, or set text.embeddings to '
                    'a file of tools/embed_text.py.'
                )
            vectors = load_text_embeddings(self.embeddings, self.classes)
            own = range(len(self.classes))
            self.fusion.set_texts(vectors[list(self.permutation)], own)
        self._has_texts = True

    def _check_classes(self) -> None:
        counts = (len(self.classes), self.fusion.num_classes, self.decoder.num_classes)
        if len(set(counts)) > 1:
            raise ValueError(
                f'DEIMMultimodal: got {counts[0]} names in text.classes, fusion.num_classes={counts[1]} and '
                f'decoder.num_classes={counts[2]}, expected the same number three times.'
            )
        if sorted(self.permutation) != list(range(counts[0])):
            raise ValueError(
                f'DEIMMultimodal: got text.permutation={list(self.permutation)}, expected each of 0 to {counts[0] - 1} '
                'once.'
            )
        queries = self.decoder.dec_score_head[-1].in_features
        visual = self.fusion.context.visual_projection[0].in_features
        if visual != queries:
            raise ValueError(
                f'DEIMMultimodal: got fusion.visual_dim={visual}, expected decoder.embed_dims={queries}.'
            )


def _check_settings(frozen: tuple[str, ...], text: Mapping[str, Any]) -> None:
    if frozen != PARTS[: len(frozen)]:
        raise ValueError(
            f'DEIMMultimodal: got frozen={frozen}, expected the first parts of {PARTS}, none or all of them: what a part '
            'learns before a frozen one would not fit.'
        )
    if not {'classes', 'embeddings'} <= set(text) <= _TEXT_KEYS:
        raise ValueError(
            f'DEIMMultimodal: got text with {sorted(text)}, expected classes, embeddings (a file or None) and, optionally, '
            'permutation.'
        )
