"""What a detector costs: parameters, operations, time and memory, before, in and after its network."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import PackDetInputs
from mmengine.structures import InstanceData
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmext.apis.memory import peak_on_cpu, peak_on_gpu
from mmext.apis.planting import planted_outputs
from mmext.datasets.transforms.geometry import LetterBox

STAGES = ('pre', 'net', 'post')
# torch counts the attention kernels of GPUs only.
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'pad_param')


class StageTimes(NamedTuple):
    """Times of one model in milliseconds, by stage ('pre', 'net', 'post') and as their sum ('total'), (repeat,) each.

    Attributes:
        wall: what a user waits.
        processor: what this process used of the processors, over all its threads. On one thread that is what it would wait
            if nothing else ran, or little more.
    """

    wall: dict[str, np.ndarray]
    processor: dict[str, np.ndarray]


def make_photo(size: tuple[int, int]) -> np.ndarray:
    """A smooth colourful picture of (width, height), always the same: (height, width, 3) uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


class Workload:
    """One photo and one detector, whose three stages can be run one by one, any number of times.

    `pre` resizes the photo with LetterBox and normalises it, `net` goes from the backbone to the raw outputs of the head,
    `post` from those to objects in the photo.

    Args:
        model: a detector whose network ends before its post-processing begins, in eval mode: with a `bbox_head`, as
            mmdet's single-stage detectors, or with `predict_by_outputs`, as DEIM and the localizer. Its parameters are frozen.
        photo: (height, width, 3) uint8.
        input_size: side of the square network input in pixels.
        num_detections: objects that `post` is to find, planted into the outputs of a YOLO head. None leaves the outputs
            as they are.

    Attributes:
        model: the detector.
        num_found: objects that `post` finds.

    Raises:
        ValueError: the model is no such detector, or the photo has no room for so many objects.
    """

    def __init__(
        self, model: nn.Module, photo: np.ndarray, *, input_size: int, num_detections: int | None
    ) -> None:
        self._owner, self._method = _post_processing(model)
        # torch counts no operations of modules that hand parameters on, unless these are frozen.
        self.model = model.requires_grad_(False)
        self._photo = photo
        self._letterbox = LetterBox((input_size, input_size))
        self._pack = PackDetInputs(meta_keys=META_KEYS)
        self._data = self.pre()
        self._post_inputs = self._record(num_detections)
        self.num_found = len(self.post()[0].scores)

    @torch.no_grad()
    def pre(self) -> dict:
        """The batch that the network takes: `inputs` (1, 3, S, S), `data_samples`."""
        shape = self._photo.shape[:2]
        sample = dict(img=self._photo, img_shape=shape, ori_shape=shape, img_id=0, img_path='photo')
        packed = self._pack.transform(self._letterbox.transform(sample))
        data = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
        return self.model.data_preprocessor(data, False)  # type: ignore[operator]

    @torch.no_grad()
    def net(self) -> None:
        """Backbone, neck and the forward pass of the head."""
        with self._intercepted([]):
            self._predict()

    @torch.no_grad()
    def post(self) -> list[InstanceData]:
        """Raw outputs to objects in the photo."""
        args, kwargs = self._post_inputs[0]
        return getattr(self._owner, self._method)(*args, **kwargs)

    def peak_memory(self, stage: str) -> int:
        """Bytes that a stage needs at its highest beyond what was there before; see `mmext.apis.memory`."""
        device = next(self.model.parameters()).device
        work = getattr(self, stage)
        return peak_on_cpu(work) if device.type == 'cpu' else peak_on_gpu(work, device)

    def _predict(self) -> None:
        self.model(**self._data, mode='predict')

    @torch.no_grad()
    def _record(self, num_detections: int | None) -> list[tuple[tuple, dict]]:
        """What the network hands to its post-processing: (arguments, keyword arguments)."""
        calls: list[tuple[tuple, dict]] = []
        with self._intercepted(calls):
            if num_detections is None:
                self._predict()
            else:
                height, width = self._data['inputs'].shape[2:]
                top, bottom, left, right = self._data['data_samples'][0].pad_param
                area = (left, top, width - right, height - bottom)
                with planted_outputs(
                    self.model, num_detections, area=area, input_size=(height, width)
                ):
                    self._predict()
        return calls

    @contextmanager
    def _intercepted(self, calls: list[tuple[tuple, dict]]) -> Iterator[None]:
        """Post-processing replaced: its arguments go into a list, and nothing is found."""

        def note(*args: Any, **kwargs: Any) -> list[InstanceData]:
            calls.append((args, kwargs))
            return [InstanceData() for _ in self._data['data_samples']]

        # On the instance, where it hides the method of the class.
        setattr(self._owner, self._method, note)
        try:
            yield
        finally:
            delattr(self._owner, self._method)


def _post_processing(model: nn.Module) -> tuple[nn.Module, str]:
    """The module and the name of its method that make objects of raw outputs.

    Raises:
        ValueError: nothing is known of such a method.
    """
    owners: dict[str, Any] = {
        'predict_by_feat': getattr(model, 'bbox_head', None),
        'predict_by_outputs': model,
    }
    for method, owner in owners.items():
        if hasattr(owner, method):
            return owner, method
    raise ValueError(
        f'got a model of type {type(model).__name__}, expected a single-stage detector with a bbox_head that has '
        'predict_by_feat, or a detector that has predict_by_outputs, as DEIM and the localizer.'
    )


def count_parameters(model: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(work: Callable[[], object]) -> int:
    """Floating point operations of convolutions, matrix products and attention; a multiply-add counts as two.

    That is the convention of the published YOLO figures; mmdet counts one. These published figures count a transposed
    convolution once for every pixel of its output, four times too often at stride 2: 12.6 instead of 12.0 GFLOPs for
    YOLOv8n-seg at 640 px. Normalisation, activations and sampling are left out.
    """
    with FlopCounterMode(
        display=False, custom_mapping={CPU_ATTENTION: _attention_flops}
    ) as counter:
        work()
    return counter.get_total_flops()


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
) -> int:
    """Two matrix products of shapes (B, heads, queries, d) and (B, heads, keys, d)."""
    return sdpa_flop_count(query, key, value)


def time_interleaved(
    workloads: Sequence[Workload], *, repeat: int, warmup: int
) -> list[StageTimes]:
    """Times of the stages, all models in turn, so that a busy moment of the machine meets all of them.

    Args:
        workloads: the models.
        repeat: rounds that count.
        warmup: rounds before them that do not.
    """
    times = np.zeros((len(workloads), 2, len(STAGES), warmup + repeat))
    for turn in range(warmup + repeat):
        for own, workload in zip(times, workloads, strict=True):
            for row, stage in enumerate(STAGES):
                own[:, row, turn] = _milliseconds(workload, stage)
    return [
        StageTimes(
            *(dict(zip(STAGES, kind, strict=True)) | dict(total=kind.sum(0)) for kind in own)
        )
        for own in times[..., warmup:]
    ]


def _milliseconds(workload: Workload, stage: str) -> tuple[float, float]:
    """Wall time and processor time of one run of a stage."""
    work = getattr(workload, stage)
    device = next(workload.model.parameters()).device
    begin, processor_begin = time.perf_counter(), time.process_time()
    work()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    end, processor_end = time.perf_counter(), time.process_time()
    return 1e3 * (end - begin), 1e3 * (processor_end - processor_begin)
