"""Time the torch ops of mmext, beside mmcv's compiled ones where a compiled mmcv is at hand.

    python tools/benchmark_ops.py
    python tools/benchmark_ops.py --compiled FOLDER     # FOLDER/mmcv/_ext*.so, any compiled mmcv

Each row is the best of several runs, both sides in turn on the same inputs. mmcv has no compiled
CPU kernel for `ms_deform_attn`: that row is measured against mmcv's own CPU path, which samples by
`grid_sample`.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Row(NamedTuple):
    """One line of the table: what is timed, and the same by other means if there are any."""

    name: str
    ours: Callable[[], object]
    other: Callable[[], object] | None


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0] if __doc__ else None)
    parser.add_argument('--compiled', type=Path, help='folder that holds a compiled `mmcv` package')
    parser.add_argument('--repeats', type=int, default=5, help='runs of which the best counts')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    ours = torch_ops()
    try:
        compiled = None if args.compiled is None else load_compiled(args.compiled)
    except ValueError as error:
        parser.error(str(error))
    print(f'torch {torch.__version__}, {args.threads} thread(s), best of {args.repeats}, in ms')
    print(f'{"op":44} {"mmext":>9} {"mmcv":>9} {"ratio":>6}')
    for rows in (
        nms_rows(ours, compiled),
        roi_align_rows(ours, compiled),
        convolution_rows(ours, compiled),
        attention_rows(ours),
    ):
        for row in rows:
            print(measure(row, args.repeats))


def torch_ops() -> SimpleNamespace:
    """The ops that mmext offers as `mmcv._ext`."""
    from mmext.ops.extension import OPS

    return SimpleNamespace(**OPS)


def load_compiled(folder: Path) -> Any:
    """The extension module of the compiled mmcv in `folder`, without importing that mmcv.

    Raises:
        ValueError: if there is none.
    """
    libraries = sorted((folder / 'mmcv').glob('_ext*.so')) + sorted((folder / 'mmcv').glob('*.pyd'))
    if not libraries:
        raise ValueError(
            f'--compiled {folder}: found no file mmcv/_ext*.so there. Expected a folder into which '
            f'a compiled mmcv was installed: pip install --no-deps --target {folder} WHEEL'
        )
    spec = importlib.util.spec_from_file_location('mmcv._ext', libraries[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(row: Row, repeats: int) -> str:
    """Time both sides of a row in turn, and lay the best times out as a line of the table."""
    ours, other = float('inf'), float('inf')
    for _ in range(repeats):
        ours = min(ours, seconds(row.ours))
        if row.other is not None:
            other = min(other, seconds(row.other))
    if row.other is None:
        return f'{row.name:44} {1e3 * ours:9.2f} {"-":>9} {"-":>6}'
    return f'{row.name:44} {1e3 * ours:9.2f} {1e3 * other:9.2f} {ours / other:6.2f}'


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def random_boxes(num: int, extent: float, sizes: tuple[float, float]) -> Tensor:
    """Boxes (num, 4) xyxy with centres in [0, extent] and sides in `sizes`."""
    generator = np.random.default_rng(0)
    centre = generator.uniform(0, extent, (num, 2))
    half = generator.uniform(*sizes, (num, 2)) / 2
    return torch.from_numpy(np.hstack([centre - half, centre + half]).astype(np.float32))


def clustered_boxes(num: int) -> Tensor:
    """Boxes as a detector gives them: crowds around 60 objects, (num, 4) xyxy in 640 pixels."""
    generator = np.random.default_rng(0)
    objects = random_boxes(60, 640, (30, 200)).numpy()[generator.integers(0, 60, num)]
    return torch.from_numpy((objects + generator.normal(0, 6, (num, 4))).astype(np.float32))


def nms_rows(ours: SimpleNamespace, compiled: Any) -> list[Row]:
    """Suppression at an IoU of 0.5: crowds, scattered boxes, 80 classes kept apart."""
    rows = []
    for num in (1_000, 10_000):
        shifted = random_boxes(num, 640, (20, 120)).clamp(0, 640)
        shifted += (torch.arange(num) % 80 * 641)[:, None]
        for name, boxes in (
            ('crowds', clustered_boxes(num)),
            ('scattered', random_boxes(num, 640, (20, 120))),
            ('hardly overlapping', random_boxes(num, 6000, (10, 40))),
            ('80 classes', shifted),
        ):
            scores = torch.from_numpy(np.random.default_rng(1).random(num, dtype=np.float32))

            def call(ops: Any, boxes: Tensor = boxes, scores: Tensor = scores) -> Callable:
                return lambda: ops.nms(boxes, scores, iou_threshold=0.5, offset=0)

            rows.append(Row(f'nms, {num} boxes, {name}', call(ours), compiled and call(compiled)))
    return rows


def roi_align_rows(ours: SimpleNamespace, compiled: Any) -> list[Row]:
    """A Mask R-CNN step: 512 boxes on a 100x136 map, and the crops of 100 masks of 800x1088."""
    rois = torch.cat([torch.arange(512)[:, None] % 2, random_boxes(512, 800, (50, 150))], 1)
    masks = torch.zeros(100, 1, 800, 1088)
    masks[:, :, 200:600, 200:600] = 1
    mask_rois = torch.cat([torch.arange(100)[:, None], random_boxes(100, 800, (50, 400))], 1)
    features = torch.randn(2, 256, 100, 136, generator=torch.Generator().manual_seed(0))
    rows = []
    for name, values, boxes, size, scale in (
        ('512 boxes, 256 channels, 7x7', features, rois, 7, 0.125),
        ('100 masks 800x1088, 28x28', masks, mask_rois, 28, 1.0),
    ):
        output = values.new_zeros(len(boxes), values.size(1), size, size)
        none = values.new_zeros(0)
        grad = torch.zeros_like(values)
        options = (size, size, scale, 0, 1, True)

        def forward(
            ops: Any,
            tensors: tuple = (values, boxes, output, none, none),
            options: tuple = options,
        ) -> Callable:
            return lambda: ops.roi_align_forward(*tensors, *options)

        def backward(
            ops: Any, tensors: tuple = (output, boxes, none, none, grad), options: tuple = options
        ) -> Callable:
            return lambda: ops.roi_align_backward(*tensors, *options)

        rows.append(Row(f'roi_align, {name}', forward(ours), compiled and forward(compiled)))
        rows.append(Row('  backward', backward(ours), compiled and backward(compiled)))
    return rows


def convolution_rows(ours: SimpleNamespace, compiled: Any) -> list[Row]:
    """A 3x3 deformable convolution in the third stage of a ResNet, on an image of 640x640."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 256, 40, 40, generator=generator)
    offset = torch.randn(1, 18, 40, 40, generator=generator)
    weight = torch.randn(256, 256, 3, 3, generator=generator)
    output = torch.zeros(1, 256, 40, 40)
    grads = torch.zeros_like(image), torch.zeros_like(offset), torch.zeros_like(weight)
    none = torch.zeros(0)
    geometry = (3, 3, 1, 1, 1, 1, 1, 1, 1, 1)

    def forward(ops: Any) -> Callable:
        return lambda: ops.deform_conv_forward(
            image, weight, offset, output, none, none, *geometry, 1
        )

    def backward(ops: Any) -> Callable:
        def call() -> None:
            ops.deform_conv_backward_input(
                image, offset, output, *grads[:2], weight, none, *geometry, 1
            )
            ops.deform_conv_backward_parameters(
                image, offset, output, grads[2], none, none, *geometry, 1.0, 1
            )

        return call

    return [
        Row('deform_conv, 256 channels, 40x40', forward(ours), compiled and forward(compiled)),
        Row('  backward', backward(ours), compiled and backward(compiled)),
    ]


def attention_rows(ours: SimpleNamespace) -> list[Row]:
    """The encoder of Deformable DETR on an image of 640x640: each of 8500 cells is a query."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[80, 80], [40, 40], [20, 20], [10, 10]])
    starts = torch.tensor([0, 6400, 8000, 8400])
    value = torch.randn(1, 8500, 8, 32, generator=generator)
    locations = torch.rand(1, 8500, 8, 4, 4, 2, generator=generator)
    weights = torch.rand(1, 8500, 8, 4, 4, generator=generator)
    grad = torch.randn(1, 8500, 256, generator=generator)
    inputs = (value, shapes, starts, locations, weights)
    grads = [torch.zeros_like(tensor) for tensor in (value, locations, weights)]

    def by_grid_sample() -> None:
        leaves = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
        output = multi_scale_deformable_attn_pytorch(leaves[0], shapes, *leaves[1:])
        torch.autograd.grad(output, leaves, grad)

    def by_ops() -> None:
        ours.ms_deform_attn_forward(*inputs, im2col_step=64)
        ours.ms_deform_attn_backward(*inputs, grad, *grads, im2col_step=64)

    return [
        Row(
            'ms_deform_attn, 8500 queries (grid_sample)',
            lambda: ours.ms_deform_attn_forward(*inputs, im2col_step=64),
            lambda: multi_scale_deformable_attn_pytorch(value, shapes, locations, weights),
        ),
        Row('  forward and backward (grid_sample)', by_ops, by_grid_sample),
    ]


if __name__ == '__main__':
    main()
