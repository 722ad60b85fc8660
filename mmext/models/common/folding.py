"""The deploy form of a network: what follows a convolution becomes part of its kernel, for inference only.

In eval mode a batch norm multiplies and shifts every channel by constants, and so can the convolution before it
(https://arxiv.org/abs/2101.03697 calls this re-parameterisation). Folded kernels stand beside the parameters they were
made of, which stay where they were, and are no part of `state_dict()`: checkpoints of both forms are the same, and
whatever is loaded into the deploy form is folded again. The price is the memory of the folded kernels.

Shapes: B batch, I and O channels in and out, G groups, K x K the kernel.
"""

from typing import NamedTuple, Protocol, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class Kernel(NamedTuple):
    """What a convolution or a linear layer multiplies with and adds.

    Attributes:
        weight: (O, I / G, K, K) or (O, I).
        bias: (O,).
    """

    weight: Tensor
    bias: Tensor


def refuse_training(mode: bool) -> None:
    """For `train` of what is folded.

    Raises:
        ValueError: `mode` is True; the folded kernels would not follow the parameters.
    """
    if mode:
        raise ValueError(
            'got train() for a model in deploy form, expected eval() only: its folded kernels cannot be trained. '
            'Build the model again and load the checkpoint, which is the same in both forms.'
        )


class FoldedLinear(nn.Module):
    """A linear layer with a kernel that was computed from parameters of others.

    Args:
        kernel: its weight and bias.
        dtype: what they are rounded to.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, kernel: Kernel, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer('weight', kernel.weight.to(dtype), persistent=False)
        self.register_buffer('bias', kernel.bias.to(dtype), persistent=False)
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return functional.linear(x, self.weight, self.bias)

    def train(self, mode: bool = True) -> 'FoldedLinear':
        """Stay in eval mode.

        Raises:
            ValueError: `mode` is True; the folded kernels would not follow the parameters.
        """
        refuse_training(mode)
        return super().train(mode)


class FoldedConv(FoldedLinear):
    """A convolution with a kernel that was computed from parameters of others.

    Args:
        conv: whose stride, padding, dilation, groups and dtype it takes over.
        kernel: its weight and bias.
    """

    def __init__(self, conv: nn.Conv2d, kernel: Kernel) -> None:
        super().__init__(kernel, conv.weight.dtype)
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) to (B, O, H', W')."""
        return functional.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Foldable(Protocol):
    """A module with a deploy form.

    Attributes:
        folded: what `forward` uses instead of the parameters; None in the form that trains.
    """

    folded: nn.Module | None

    def fold(self) -> nn.Module:
        """Make `folded` from the parameters; what this holds must not be in the state dict."""


def switch_to_deploy(module: nn.Module) -> None:
    """Bring every `Foldable` of a network into its deploy form; a second call changes nothing.

    Raises:
        ValueError: a part is in training mode, or has a norm that cannot be folded.
    """
    # What is folded may hold copies of parts, which are not to be folded themselves.
    restore_from_deploy(module)
    training = [name for name, part in module.named_modules() if part.training]
    if training:
        raise ValueError(
            f'switch_to_deploy: got {type(module).__name__} in training mode (first of {len(training)} parts: '
            f'{training[0] or "itself"!r}), expected eval mode, whose outputs are what folding keeps. Call eval() '
            'before.'
        )
    # Children first: a block that folds them together replaces what they have folded by themselves.
    for part in reversed(list(module.modules())):
        if _is_foldable(part):
            hooks = cast(nn.Module, part)._load_state_dict_post_hooks
            if _fold_again not in hooks.values():
                cast(nn.Module, part).register_load_state_dict_post_hook(_fold_again)
            _fold(part)


def is_deployed(module: nn.Module) -> bool:
    """Whether a part of the network is in deploy form."""
    return any(isinstance(part, FoldedLinear) for part in module.modules())


def restore_from_deploy(module: nn.Module) -> None:
    """Bring every `Foldable` of a network back into the form that trains, which has never left; once there, it stays."""
    for part in module.modules():
        if _is_foldable(part):
            part.folded = None


def fold_norm(conv: nn.Module, norm: nn.Module, dtype: torch.dtype = torch.float64) -> Kernel:
    """The kernel that does what a convolution and the batch norm behind it do in eval mode.

    Args:
        conv: the convolution.
        norm: the batch norm.
        dtype: of the computation and of the kernel; of float64 only the rounding of the result remains.

    Raises:
        ValueError: the norm has no running statistics, so that what it does depends on its input.
    """
    assert isinstance(conv, nn.Conv2d)
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        raise ValueError(
            f'fold_norm: got {type(norm).__name__} behind a convolution, expected a batch norm with running statistics, '
            "such as norm_cfg=dict(type='BN'). Other norms have no deploy form."
        )
    factor = (norm.running_var.to(dtype) + norm.eps).rsqrt()
    shift = -norm.running_mean.to(dtype) * factor
    if norm.affine:
        factor, shift = factor * norm.weight.to(dtype), shift * norm.weight.to(dtype)
        shift = shift + norm.bias.to(dtype)
    if conv.bias is not None:
        shift = shift + conv.bias.to(dtype) * factor
    return Kernel(conv.weight.to(dtype) * factor[:, None, None, None], shift)


def fold_pair(conv: nn.Module, norm: nn.Module) -> FoldedConv:
    """A convolution and the batch norm behind it as one module."""
    assert isinstance(conv, nn.Conv2d)
    return FoldedConv(conv, fold_norm(conv, norm))


def fold_sequential(chain: nn.Sequential) -> nn.Sequential:
    """A chain without the batch norms that stand behind convolutions; other modules are shared with it."""
    parts: list[nn.Module] = []
    previous: nn.Module | None = None
    for part in chain:
        if isinstance(part, _BatchNorm) and isinstance(previous, nn.Conv2d):
            parts[-1] = fold_pair(previous, part)
        else:
            parts.append(part)
        previous = part
    return nn.Sequential(*parts).eval()


def _is_foldable(part: object) -> TypeGuard[Foldable]:
    # Not isinstance() with a runtime protocol: since Python 3.12 that does not see modules among the attributes of a
    # module, so that whatever is folded would be no Foldable any more.
    return hasattr(part, 'fold') and hasattr(part, 'folded')


def _fold(part: Foldable) -> None:
    # Tensors born in inference mode could not be copied or moved like others later.
    with torch.inference_mode(False), torch.no_grad():
        part.folded = part.fold()


def _fold_again(part: nn.Module, _: object) -> None:
    """Loading has changed the parameters."""
    if _is_foldable(part) and part.folded is not None:
        _fold(part)
