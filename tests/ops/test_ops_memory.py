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
    'roi_align_backward': (
        'corner = torch.rand(2_000, 2) * 300; none = torch.zeros(0);'
        'rois = torch.cat([torch.zeros(2_000, 1), corner, corner + 200], 1);'
        'grad_out = torch.ones(2_000, 256, 7, 7); grad = torch.ones(1, 256, 100, 136)',
        'ops["roi_align_backward"](grad_out, rois, none, none, grad, 7, 7, 0.25, 2, 1, True)',
    ),
    # The cells of every bin at once: 512 boxes of 50 x 50 cells and 256 channels, 1.3 GB.
    'roi_pool': (
        'image = torch.rand(1, 256, 100, 136); corner = torch.rand(512, 2) * 200;'
        'rois = torch.cat([torch.zeros(512, 1), corner, corner + 200], 1);'
        'out = torch.ones(512, 256, 7, 7); argmax = torch.ones(512, 256, 7, 7, dtype=torch.int)',
        'ops["roi_pool_forward"](image, rois, out, argmax, 7, 7, 0.25)',
    ),
    'roi_pool_backward': (
        'rois = torch.zeros(512, 5); grad_out = torch.ones(512, 256, 7, 7);'
        'argmax = torch.ones(512, 256, 7, 7, dtype=torch.int); grad = torch.ones(1, 256, 100, 136)',
        'ops["roi_pool_backward"](grad_out, rois, argmax, grad, 7, 7, 0.25)',
    ),
    # As deform_conv.
    'modulated_deform_conv': (
        'image = torch.rand(1, 256, 100, 136); offset = torch.rand(1, 18, 100, 136);'
        'mask = torch.rand(1, 9, 100, 136); weight = torch.rand(64, 256, 3, 3);'
        'bias = torch.rand(64); out = torch.rand(1, 64, 100, 136); none = torch.zeros(0);'
        'inputs = (image, weight, bias, none, offset, mask);'
        'grads = [torch.zeros_like(tensor) for tensor in (image, weight, bias, offset, mask)]',
        'ops["modulated_deform_conv_backward"](*inputs, none, *grads, out,'
        ' 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, True)',
    ),
    # 8 images of 8,400 anchors, 80 classes: 21 MB a tensor. Anchors by anchors would be 18 GB.
    'sigmoid_focal_loss': (
        'logits = torch.randn(67_200, 80); labels = torch.arange(67_200) % 81;'
        'none = torch.zeros(0); out = torch.ones(67_200, 80)',
        'ops["sigmoid_focal_loss_forward"](logits, labels, none, out, 2.0, 0.25);'
        'ops["sigmoid_focal_loss_backward"](logits, labels, none, out, 2.0, 0.25)',
    ),
    'softmax_focal_loss': (
        'probs = torch.randn(67_200, 80).softmax(1); labels = torch.arange(67_200) % 80;'
        'none = torch.zeros(0); loss = torch.ones(67_200); grad = torch.ones(67_200, 80)',
        'ops["softmax_focal_loss_forward"](probs, labels, none, loss, 2.0, 0.25);'
        'ops["softmax_focal_loss_backward"](probs, labels, none, loss, grad, 2.0, 0.25)',
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
