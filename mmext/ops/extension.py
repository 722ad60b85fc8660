"""The ops of `mmcv._ext` that mmext implements, under mmcv's names and with mmcv's argument names.

mmcv's Python wrappers allocate the outputs and the ops fill them in place, so most ops return
nothing; scratch buffers that only the compiled kernels need (`columns`, `ones`) are accepted and
left alone.
"""

from collections.abc import Callable
from typing import Any

from mmext.ops.bbox_overlaps import bbox_overlaps
from mmext.ops.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmext.ops.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmext.ops.ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from mmext.ops.nms import nms, nms_match, softnms
from mmext.ops.precision import outside_autocast
from mmext.ops.roi_align import roi_align_backward, roi_align_forward
from mmext.ops.roi_pool import roi_pool_backward, roi_pool_forward


def get_compiler_version() -> str:
    """What mmcv's `collect_env` prints as its compiler."""
    return 'none (torch ops of mmext)'


def get_compiling_cuda_version() -> str:
    """What mmcv's `collect_env` prints as its CUDA compiler."""
    return 'none (torch ops of mmext)'


_TENSOR_OPS: tuple[Callable[..., Any], ...] = (
    bbox_overlaps,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
    nms,
    nms_match,
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
    softnms,
)

OPS: dict[str, Callable[..., Any]] = {
    'get_compiler_version': get_compiler_version,
    'get_compiling_cuda_version': get_compiling_cuda_version,
    **{op.__name__: outside_autocast(op) for op in _TENSOR_OPS},
}
