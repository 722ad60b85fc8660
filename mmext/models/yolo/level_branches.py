"""The class, box and coefficient branches of all levels: how they are built, run and started.

They belong to a module that holds them by their published names, which checkpoints know.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

from mmext.models.yolo.branches import (
    CLASS_BRANCHES,
    plain_branch,
    set_box_prior,
    set_class_prior,
)

LevelOutputs = tuple[list[Tensor], list[Tensor], list[Tensor]]


class LevelBranches(Protocol):
    """A module with one branch of each kind per level, the finest first."""

    reg_branches: nn.ModuleList
    cls_branches: nn.ModuleList
    coeff_branches: nn.ModuleList


def build_branches(
    in_channels: Sequence[int],
    *,
    version: str,
    num_classes: int,
    num_bins: int,
    num_prototypes: int,
    norm_cfg: dict | None,
    act_cfg: dict | None,
) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """Box, class and coefficient branches; their widths follow from the finest level, for all levels alike.

    Args:
        in_channels: channels of the levels, finest first.
        version: 'v8' or 'v11', the kind of class branch.
        num_classes: channels of the class branches.
        num_bins: bins of the distance distribution of each of the four sides.
        num_prototypes: channels of the coefficient branches.
        norm_cfg: normalisation of the convolutions; None for a bias instead.
        act_cfg: activation of the convolutions; None for none.

    Raises:
        ValueError: unknown version.
    """
    if version not in CLASS_BRANCHES:
        raise ValueError(
            f'Segment: got version={version!r}, expected one of {sorted(CLASS_BRANCHES)}.'
        )
    finest = in_channels[0]
    num_dists = 4 * num_bins

    def per_level(make: Callable, hidden: int, out_channels: int) -> nn.ModuleList:
        return nn.ModuleList(
            make(c, hidden, out_channels, norm_cfg=norm_cfg, act_cfg=act_cfg) for c in in_channels
        )

    return (
        per_level(plain_branch, max(16, finest // 4, num_dists), num_dists),
        per_level(CLASS_BRANCHES[version], max(finest, min(num_classes, 100)), num_classes),
        per_level(plain_branch, max(finest // 4, num_prototypes), num_prototypes),
    )


def run_branches(branches: LevelBranches, features: Sequence[Tensor]) -> LevelOutputs:
    """Class scores, box distances and mask coefficients of each level; see `SegmentOutputs`."""
    return (
        [branch(x) for branch, x in zip(branches.cls_branches, features, strict=True)],
        [branch(x) for branch, x in zip(branches.reg_branches, features, strict=True)],
        [branch(x) for branch, x in zip(branches.coeff_branches, features, strict=True)],
    )


def set_priors(
    branches: LevelBranches,
    strides: Sequence[int],
    *,
    class_prior: float | None,
    box_prior: float | None,
) -> None:
    """Start scores and boxes at their priors; see `set_class_prior` and `set_box_prior`."""
    for branch, stride in zip(branches.cls_branches, strides, strict=True):
        set_class_prior(branch, class_prior, num_classes=_num_outputs(branch), stride=stride)
    for branch in branches.reg_branches:
        set_box_prior(branch, box_prior, num_bins=_num_outputs(branch) // 4)


def _num_outputs(branch: nn.Module) -> int:
    """Channels that a branch predicts."""
    return len(branch.get_parameter('2.bias'))
