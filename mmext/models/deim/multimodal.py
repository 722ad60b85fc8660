"""DEIM with a sentence for each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.logging import print_log
from torch import Tensor, nn

from mmext.models.common.text_embeddings import read_text_embeddings, select_rows
from mmext.models.deim.clip_fusion import FusionOutputs
from mmext.models.deim.detector import DEIM, read_targets
from mmext.models.deim.outputs import BoxOutputs, LayerOutputs
from mmext.models.deim.query_truth import assign_queries
from mmext.models.deim.text_source import LearningTexts, build_text_source
from mmext.registry import MODELS

# In the order of the computation: what stands before a frozen part must be frozen, too.
PARTS = ('backbone', 'neck', 'decoder')


@MODELS.register_module()
class DEIMMultimodal(DEIM):
    r"""`mmext.DEIM` whose last layer's classes are decided with the help of texts.

    It is a DEIM, not a module around one, so that the names of its weights are the same: `load_from` takes a checkpoint of
    `mmext.DEIM`, and the report of the loading lists `fusion.*` (and `texts.*` of a text model that learns) as missing.

    Training with the whole detector frozen computes neither its losses nor its gradients; the losses are those of
    `fusion`. Otherwise the detector has all the losses it had without texts, on its own logits, and those of `fusion` come
    in addition; their gradient reaches the detector as well. Queries are matched by the fused logits.

    Args:
        fusion: config of `mmext.MultimodalFusion` or `mmext.SoftmaxMultimodalFusion`.
        text: `classes`, names in the order of the labels; and `embeddings`, a file of `tools/embed_text.py`, or None for
            the texts of a checkpoint. Or, instead of it, `descriptions`, a JSON file, and `encoder`, a config of
            `mmext.TextEncoder` with its `model` (and `cache`, `trainable`), optionally `language` and `templates`: the text
            model is read before the first step, for the same texts that a file would have. With `trainable` a part of it
            learns, and the texts are made anew in every step; `dict(pattern=r'^texts\.', lr=...)`, the first of the
            patterns, gives it a rate of its own. In training file or text model count, and where they are not there
            (`--resume` on another machine) the checkpoint, but for a text model that learns, which must be there; in tests
            the checkpoint, and without one file or text model. Optionally `permutation`: class i gets the text of class
            permutation[i], the control of what the meaning of the texts contributes.
        frozen: which parts of the detector are not trained and keep their eval mode: (), ('backbone',),
            ('backbone', 'neck') or ('backbone', 'neck', 'decoder'). Each must have been filled by a checkpoint, whole; for
            a backbone its own `checkpoint` will do. (torch's attention rounds by about 1e-7 otherwise where its weights
            want no gradient: compare bits with a detector whose weights are frozen as well.)

    All other arguments are those of `DEIM`.

    Attributes:
        vocabulary: names of the classes that are found: `text.classes`, until `read_texts` is given others.

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
        _check_frozen(self.frozen)
        self.texts = build_text_source(text)
        self.fusion = MODELS.build(fusion)
        self.classes = tuple(text['classes'])
        self.permutation = tuple(text.get('permutation') or range(len(self.classes)))
        self.vocabulary = self.classes
        self._check_classes()
        # Looked up once: asking the buffer in every step would wait for the device.
        self._has_texts = self._is_prepared = False
        self._filled: set[str] = set()
        self._has_loaded_texts = False
        self.register_load_state_dict_post_hook(_after_loading)
        for name in self.frozen:
            getattr(self, name).requires_grad_(False)

    def train(self, mode: bool = True) -> 'DEIMMultimodal':
        """Switch the mode; what is frozen stays in eval mode, where batch norms keep their statistics."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        if not mode:
            self._refresh_texts()
        return self

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
        if self.permutation != tuple(range(len(self.classes))):
            raise ValueError(
                f'got {path} for a model with text.permutation={list(self.permutation)}, whose control they would undo; '
                'expected a model without.'
            )
        found = read_text_embeddings(path)
        self.fusion.context.check_text_model(found.model_hash, f'{path} (by {found.model})')
        own = [self.classes.index(name) if name in self.classes else -1 for name in classes]
        self.fusion.set_texts(select_rows(found, classes, str(path)), own, found.model_hash)
        self.vocabulary, self._has_texts = tuple(classes), True

    def loss(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]
    ) -> dict[str, Tensor]:
        """Losses of a training step; see `DEIM.loss`.

        Returns:
            The losses of the fusion, and those of `DEIMCriterion` unless the decoder is frozen.

        Raises:
            FileNotFoundError, ValueError: there are no texts, or those of other classes; or a frozen part without weights.
        """
        if not self._is_prepared or self.vocabulary != self.classes:
            self._prepare_training()
        height, width = batch_inputs.shape[2:]
        targets = [read_targets(own.gt_instances, height, width) for own in batch_data_samples]
        outputs = self.decoder(self.extract_feat(batch_inputs), targets)
        losses = {}
        if 'decoder' not in self.frozen:
            losses = self.criterion(outputs, targets, epoch=self.epoch)
        last = outputs.layers[-1]
        fused = self.fusion.compare(last.queries, last.logits, self._learned_texts())
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
        """Remember which frozen parts a checkpoint has filled, and forget other classes than those of the training."""
        for part in self.frozen:
            own = getattr(self, part).state_dict(prefix=f'{prefix}{part}.')
            fits = (n in state_dict and state_dict[n].shape == t.shape for n, t in own.items())
            if all(fits):
                self._filled.add(part)
        self._has_loaded_texts = f'{prefix}fusion.context.text_embeddings' in state_dict
        if self._has_loaded_texts:
            self.vocabulary, self._has_texts, self._is_prepared = self.classes, False, False
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _save_to_state_dict(self, *args: Any) -> None:
        """A checkpoint holds the texts of the weights that it holds."""
        self._refresh_texts()
        super()._save_to_state_dict(*args)

    def _prepare_training(self) -> None:
        """Before the first step: what is frozen has been trained, and the texts are those of the config."""
        if self.vocabulary != self.classes:
            raise ValueError(
                f'DEIMMultimodal: got a training after texts of {", ".join(self.vocabulary)}, expected those of '
                f'{", ".join(self.classes)}. Build the model again.'
            )
        empty = [part for part in self.frozen if part not in self._filled]
        if 'backbone' in empty and getattr(self.backbone, 'checkpoint', None):
            empty.remove('backbone')
        if empty:
            raise ValueError(
                f'DEIMMultimodal: got frozen={self.frozen}, but no checkpoint that fills {", ".join(empty)} whole, so that '
                'random weights would stay; expected a trained detector of the same classes. Set load_from to the '
                'checkpoint of the training without texts.'
            )
        held = self.fusion.context.text_embeddings
        if self.texts.is_here() or not held.any():
            before = held.clone()
            self._read_own_texts()
            if before.any() and not torch.allclose(
                before, self.fusion.context.text_embeddings, atol=1e-5
            ):
                print_log(
                    f'texts of {self.texts.name} take the place of others in the checkpoint',
                    'current',
                    level=30,
                )
        self._has_texts = self._is_prepared = True

    def _require_texts(self) -> None:
        """Read the texts where neither a checkpoint nor `read_texts` has brought any."""
        buffer = self.fusion.context.text_embeddings
        if self._has_texts or buffer.device.type == 'meta':
            return
        if not buffer.any():
            self._read_own_texts()
        self._has_texts = True

    def _learned_texts(self) -> Tensor | None:
        """Texts (C, T) with gradients, where a text model learns."""
        if not isinstance(self.texts, LearningTexts):
            return None
        return self.texts()[list(self.permutation)]

    def _refresh_texts(self) -> None:
        """Where a text model has learned: the texts that tests and checkpoints use are those of its weights as they are."""
        if not isinstance(self.texts, LearningTexts) or self.vocabulary != self.classes:
            return
        if self.texts.has_changed():
            self._read_own_texts()

    def _read_own_texts(self) -> None:
        found = self.texts.read(self.classes)
        vectors = found.vectors[list(self.permutation)]
        self.fusion.set_texts(vectors, range(len(self.classes)), found.model_hash)

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


def _after_loading(model: nn.Module, _: object) -> None:
    """The texts of a checkpoint count until the text model learns on."""
    if isinstance(model, DEIMMultimodal) and model._has_loaded_texts:
        if isinstance(model.texts, LearningTexts):
            model.texts.remember()


def _check_frozen(frozen: tuple[str, ...]) -> None:
    if frozen != PARTS[: len(frozen)]:
        raise ValueError(
            f'DEIMMultimodal: got frozen={frozen}, expected the first parts of {PARTS}, none or all of them: what a part '
            'learns before a frozen one would not fit.'
        )
