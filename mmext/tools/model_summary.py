"""Layers and parameters of the model of a config: `model_summary.py CONFIG [--depth 2]`."""

import argparse
import sys
from collections.abc import Iterator, Sequence

from mmengine.registry import DefaultScope
from terminaltables import AsciiTable
from torch import nn

from mmext.engine.config_file import load_config_file, merge_options
from mmext.registry import MODELS
from mmext.tools.command import (
    add_config_options,
    add_traceback_argument,
    check_parts,
    run_command,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog='model_summary', description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--depth', type=int, default=2, help='of nested modules (default: 2)')
    add_config_options(parser)
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def summarize(args: argparse.Namespace) -> None:
    """Prints the table.

    Raises:
        ValueError: the depth is below 1, or the config has no model.
    """
    if args.depth < 1:
        raise ValueError(f'got --depth {args.depth}, expected at least 1')
    cfg = load_config_file(args.config)
    if args.cfg_options:
        merge_options(cfg, args.cfg_options)
    check_parts(cfg, ('model',), 'summarize')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        model = MODELS.build(cfg.model)
    print(AsciiTable([['module', 'kind', 'layers', 'parameters'], *rows(model, args.depth)]).table)
    total, trained = num_parameters(model), num_parameters(model, trainable=True)
    print(f'{num_layers(model)} layers, {total:,} parameters, {trained:,} of them trainable')


def rows(module: nn.Module, depth: int, name: str = '') -> Iterator[list[str]]:
    """A line for each module that has parameters, down to a depth."""
    for key, child in module.named_children():
        if num_parameters(child):
            path = f'{name}.{key}' if name else key
            counts = [f'{num_layers(child)}', f'{num_parameters(child):,}']
            yield [path, type(child).__name__, *counts]
            if depth > 1:
                yield from rows(child, depth - 1, path)


def num_layers(module: nn.Module) -> int:
    """Modules that hold parameters of their own."""
    return sum(any(True for _ in m.parameters(recurse=False)) for m in module.modules())


def num_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """Numbers in all parameters, shared ones once; or in those that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(summarize, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
