"""Large inputs need no memory that grows with the square of their number."""

import subprocess
import sys

import pytest

MEGABYTE = 2**20

CALLS = {
    # Every pair at once would be 20,000^2 floats: 1.5 GB.
    'nms': (
        'boxes = torch.rand(20_000, 2) * 3000',
        'ops["nms"](torch.cat([boxes, boxes + 20], 1), torch.rand(20_000), 0.5, 0)',
    ),
    'nms_match': (
        'boxes = torch.rand(20_000, 2) * 3000',
        'ops["nms_match"](torch.cat([boxes, boxes + 20, torch.rand(20_000, 1)], 1), 0.5)',
    ),
    'softnms': (
        'boxes = torch.rand(3_000, 2) * 3000; dets = torch.zeros(3_000, 5)',
        'ops["softnms"](torch.cat([boxes, boxes + 20], 1), torch.rand(3_000), dets, 0.3, 0.5, 0.001, 1, 0)',
    ),
    # The result is 64 MB; six temporaries of its size would be 384 MB.
    'bbox_overlaps': (
        'boxes = torch.rand(4_000, 4); ious = torch.ones(4_000, 4_000)',
        'ops["bbox_overlaps"](boxes, boxes, ious, 0, False, 0)',
    ),
    # All samples at once, with their derivatives: 320,000 points of 4 cells of 32 channels, 160 MB
    # for the samples alone, several times.
    'ms_deform_attn': (
        'value = torch.rand(1, 10_000, 8, 32); shapes = torch.tensor([[100, 100]]);'
        'places = torch.rand(1, 10_000, 8, 1, 4, 2); weights = torch.rand(1, 10_000, 8, 1, 4);'
        'inputs = (value, shapes, torch.tensor([0]), places, weights);'
        'grads = [torch.zeros_like(tensor) for tensor in (value, places, weights)]',
        'ops["ms_deform_attn_backward"](*inputs, torch.rand(1, 10_000, 256), *grads, 64)',
    ),
    'ms_deform_attn_forward': (
        'value = torch.rand(1, 10_000, 8, 32); shapes = torch.tensor([[100, 100]]);'
        'places = torch.rand(1, 10_000, 8, 1, 4, 2); weights = torch.rand(1, 10_000, 8, 1, 4)',
        'ops["ms_deform_attn_forward"](value, shapes, torch.tensor([0]), places, weights, 64)',
    ),
    # All columns of 100 x 136 cells and 256 channels: 125 MB, and again with derivatives.
    'deform_conv': (
        'image = torch.rand(1, 256, 100, 136); offset = torch.rand(1, 18, 100, 136);'
        'weight = torch.rand(64, 256, 3, 3); out = torch.rand(1, 64, 100, 136);'
        'grads = (torch.zeros_like(image), torch.zeros_like(offset))',
        'ops["deform_conv_backward_input"](image, offset, out, *grads, weight, None,'
        ' 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 32)',
    ),
    # A grid of points for each box at once: 2,000 boxes of 256 channels and 14 x 14 points, 400 MB.
    'roi_align': (
        'image = torch.rand(1, 256, 100, 136); corner = torch.rand(2_000, 2) * 300;'
        'rois = torch.cat([torch.zeros(2_000, 1), corner, corner + 200], 1);'
        'out = torch.ones(2_000, 256, 7, 7); none = torch.zeros(0)',
        'ops["roi_align_forward"](image, rois, out, none, none, 7, 7, 0.25, 2, 1, True)',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', CALLS)
def test_memory__stays_below_256_megabytes(name):
    prepare, call = CALLS[name]
    code = (
        'import resource, torch\n'
        'from mmext.ops.extension import OPS as ops\n'
        'torch.manual_seed(0); torch.set_num_threads(1)\n'
        f'{prepare}\n'
        'peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n'
        f'before = peak()\n{call}\nprint(peak() - before)'
    )
    output = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    assert int(output.stdout) < 256 * MEGABYTE
