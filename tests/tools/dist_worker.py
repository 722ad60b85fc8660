"""One process of the distributed tests: trains as `tools/train.py` does and saves its own weights.

Started by torchrun: dist_worker.py FOLDER CONFIG [options of tools/train.py]
"""

import sys

import torch

from mmext.engine.checkpoint import bare_model
from mmext.tools import train
from mmext.tools.command import build_runner, load_config


def main() -> None:
    """Trains and writes FOLDER/rank<rank>.pth."""
    folder, *arguments = sys.argv[1:]
    args = train.parse_args(arguments)
    cfg = load_config(args)
    train.edit_config(cfg, args)
    runner = build_runner(cfg)
    runner.train()
    torch.save(bare_model(runner.model).state_dict(), f'{folder}/rank{runner.rank}.pth')


if __name__ == '__main__':
    main()
