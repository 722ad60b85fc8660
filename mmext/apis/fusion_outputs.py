"""What the decoder of a DEIM made of test data, kept, so that its queries can be classified again without the network.

Shape letters: B images of a batch, Q queries, C classes, V channels of the queries, K classes of the texts.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from torch import Tensor, nn

from mmext.engine.checkpoint import bare_model
from mmext.evaluation.detection_confusion import FoundObjects
from mmext.models.common.placement import place_in_original
from mmext.models.deim.clip_fusion import FusionOutputs
from mmext.models.deim.multimodal import DEIMMultimodal
from mmext.models.deim.outputs import BoxOutputs
from mmext.structures.boxes import cxcywh_to_xyxy


class DecodedBatch(NamedTuple):
    """A batch of images behind the decoder, on the CPU.

    Attributes:
        queries: (B, Q, V).
        logits: (B, Q, C), the detector's own.
        boxes: (B, Q, 4) cxcywh, normalised to the network input.
        input_size: height and width of the network input.
        samples: B of them with meta data alone.
    """

    queries: Tensor
    logits: Tensor
    boxes: Tensor
    input_size: tuple[int, int]
    samples: list[DetDataSample]


class ImageQueries(NamedTuple):
    """The queries of an image.

    Attributes:
        img_id: of the annotation file.
        img_path: of the photo.
        ori_shape: (h, w) of the photo.
        boxes: (Q, 4) xyxy in pixels of the photo.
        scores: (Q,), the highest fused score of any class.
        similarity: (Q, K) cosines with the texts.
    """

    img_id: int
    img_path: str
    ori_shape: tuple[int, int]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    similarity: NDArray[np.float64]


class DecoderRecorder(Hook):
    """Keeps what the decoder of a `mmext.DEIM` gives in a test run, and what was found.

    With 6 classes an image of 100 queries of 64 channels takes 30 kB, one of 300 of 256 takes 0.3 MB.

    Attributes:
        batches: in the order of the run.
        samples: the images of all batches with their `pred_instances`, on the CPU.
    """

    def __init__(self) -> None:
        self.batches: list[DecodedBatch] = []
        self.samples: list[DetDataSample] = []
        self._input_size = (0, 0)
        self._last: Any = None
        self._handles: list = []

    def before_test_epoch(self, runner: Runner) -> None:
        """Begins to listen."""
        model: Any = bare_model(runner.model)
        self._handles = [
            model.backbone.register_forward_pre_hook(self._see_input),
            model.decoder.register_forward_hook(self._see_output),
        ]

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[DetDataSample] | None = None,
    ) -> None:
        """Keeps the batch."""
        samples = [DetDataSample(metainfo=sample.metainfo) for sample in outputs or ()]
        parts = (self._last.queries, self._last.logits, self._last.boxes)
        queries, logits, boxes = (part.detach().cpu() for part in parts)
        self.batches.append(DecodedBatch(queries, logits, boxes, self._input_size, samples))
        self.samples += [_sample(own, own.pred_instances) for own in outputs or ()]

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Ends to listen."""
        for handle in self._handles:
            handle.remove()

    def _see_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[2:]
        self._input_size = (height, width)

    def _see_output(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        self._last = output.layers[-1]


def detector_logits(model: Any, fused: FusionOutputs, logits: Tensor) -> Tensor:
    """What the detector says without texts."""
    return logits


def fused_logits(model: Any, fused: FusionOutputs, logits: Tensor) -> Tensor:
    """What the model finds, as in its `predict`."""
    return model.fusion.detection_logits(fused)


def text_logits(model: Any, fused: FusionOutputs, logits: Tensor) -> Tensor:
    """What the texts say without the detector's logits; not of `SoftmaxMultimodalFusion`."""
    assert fused.text_logits is not None
    return fused.text_logits


@torch.no_grad()
def predict_again(
    model: DEIMMultimodal,
    batches: Sequence[DecodedBatch],
    choose: Callable[[Any, FusionOutputs, Tensor], Tensor] = fused_logits,
) -> list[DetDataSample]:
    """Detections from kept queries, under the texts that the model has now.

    Args:
        model: in eval mode.
        batches: of its own decoder.
        choose: which logits are the detections'.

    Returns:
        A sample for each image with `pred_instances`, as `DEIM.predict` makes it, on the CPU.
    """
    device = next(model.parameters()).device
    samples = []
    for batch in batches:
        queries, logits, boxes = (part.to(device) for part in batch[:3])
        chosen = choose(model, model.fusion.compare(queries, logits), logits)
        outputs = BoxOutputs(chosen, boxes)
        found = model.predict_by_outputs(outputs, batch.samples, input_size=batch.input_size)
        samples += [_sample(*pair) for pair in zip(batch.samples, found, strict=True)]
    return samples


@torch.no_grad()
def image_queries(model: DEIMMultimodal, batches: Sequence[DecodedBatch]) -> Iterator[ImageQueries]:
    """All queries of every image with their similarities, in the order of the run."""
    device = next(model.parameters()).device
    for batch in batches:
        fused = model.fusion.compare(batch.queries.to(device), batch.logits.to(device))
        scores = model.fusion.detection_logits(fused).float().sigmoid().amax(dim=-1).cpu()
        similarity = fused.similarity.float().cpu()
        corners = cxcywh_to_xyxy(batch.boxes.float())
        for index, sample in enumerate(batch.samples):
            meta = sample.metainfo
            top, _, left, _ = meta.get('pad_param', (0, 0, 0, 0))
            boxes = place_in_original(
                corners[index],
                input_size=batch.input_size,
                scale_factor=meta.get('scale_factor', (1.0, 1.0))[:2],
                offset=(left, top),
            )
            parts = (part.double().numpy() for part in (boxes, scores[index], similarity[index]))
            yield ImageQueries(
                meta['img_id'], meta['img_path'], tuple(meta['ori_shape'][:2]), *parts
            )


def found_objects(sample: DetDataSample) -> FoundObjects:
    """The detections of a sample as arrays."""
    found = sample.pred_instances
    return FoundObjects(*(getattr(found, key).numpy() for key in ('bboxes', 'scores', 'labels')))


def _sample(sample: DetDataSample, found: InstanceData) -> DetDataSample:
    """The meta data of a sample with these detections, on the CPU."""
    kept = DetDataSample(metainfo=sample.metainfo)
    kept.pred_instances = found.cpu()
    return kept
