"""What a backbone of transformers does, found out by running it without numbers, and where its stages are."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

# Sides of images that suit strides of up to 32, and networks that take one size only.
_COMMON_STRIDE = 32
_COMMON_SIDE = 224
# Norms of the maps that are handed on, which are no stage.
MAP_NORMS = 'hidden_states_norms'


class Probe(NamedTuple):
    """What is known of a network before it has seen an image.

    Attributes:
        channels: of each map.
        strides: of each map, in pixels of the image.
        idle: names of the parameters that no map depends on: mask tokens, layers behind the last map.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    idle: frozenset[str]


def probe_network(settings: Any) -> Probe:
    """Run a network on the device 'meta': shapes and dependencies without memory or arithmetic.

    Args:
        settings: config of transformers with its `out_indices`.
    """
    from transformers import AutoBackbone

    with torch.device('meta'):
        network = AutoBackbone.from_config(settings, dtype=torch.float32).eval()
        side, channels = _suitable_side(settings), getattr(settings, 'num_channels', 3)
        # Of grad mode, since somebody may build a model without.
        with torch.enable_grad():
            maps = network(torch.empty(1, channels, side, side)).feature_maps
            torch.stack([own.sum() for own in maps]).sum().backward()
    return Probe(
        channels=tuple(own.shape[1] for own in maps),
        strides=tuple(round(side / own.shape[2]) for own in maps),
        idle=frozenset(name for name, p in network.named_parameters() if p.grad is None),
    )


def _suitable_side(settings: Any) -> int:
    """Side of a square image that every stride divides: the one that the network was made for, if that is so."""
    patch, side = (
        max(size) if isinstance(size, (tuple, list)) else size or default
        for size, default in (
            (getattr(settings, 'patch_size', None), 1),
            (getattr(settings, 'image_size', None), _COMMON_SIDE),
        )
    )
    unit = math.lcm(patch, _COMMON_STRIDE)
    return max(1, side // unit) * unit


def first_stages(network: nn.Module, num_stages: int) -> list[nn.Module]:
    """Stem and stages of a network, from the image on.

    Args:
        network: a backbone of transformers.
        num_stages: 0 for what comes before the first stage, n for that and the first n stages.

    Raises:
        ValueError: its stages are not found, it has fewer, or nothing comes before the first.
    """
    name = type(network).__name__
    count = len(network.stage_names) - 1  # type: ignore[arg-type]
    lists = [
        (path.count('.'), module)
        for path, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and MAP_NORMS not in path
    ]
    if not lists or num_stages > count:
        known = (
            f'-1 to {count}'
            if lists
            else f'-1: where the {count} stages of a {name} are is not known'
        )
        raise ValueError(f'TransformersBackbone: got frozen_stages={num_stages}, expected {known}.')
    # The outermost one: stages may hold lists, too.
    stages = min(lists, key=lambda entry: entry[0])[1]
    parts = [*_parts_before(network, stages), *stages[:num_stages]]
    if not any(True for part in parts for _ in part.parameters()):
        raise ValueError(
            f'TransformersBackbone: got frozen_stages=0, expected -1, or 1 to {count}: the stem of a {name} is a part of '
            'its first stage.'
        )
    return parts


def _parts_before(module: nn.Module, stages: nn.Module) -> Iterator[nn.Module]:
    """Modules that come before `stages`, outermost ones, in the order in which networks of transformers list them."""
    for child in module.children():
        if child is stages:
            return
        if any(inner is stages for inner in child.modules()):
            yield from _parts_before(child, stages)
            return
        yield child
