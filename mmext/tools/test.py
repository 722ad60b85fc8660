"""Scores a checkpoint on the test data of a config: `python -m mmext.tools.test CONFIG CHECKPOINT [options]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmext.tools.command import (
    add_hook,
    add_runtime_arguments,
    build_runner,
    check_checkpoint,
    check_parts,
    explained_datasets,
    load_config,
    run_command,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog='test', description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='write the predictions to this pickle file'
    )
    parser.add_argument('--show-dir', metavar='FOLDER', help='write pictures with the predictions')
    parser.add_argument(
        '--descriptions',
        metavar='FILE',
        help='text embeddings (tools/embed_text.py) of the classes of the test data, for models that know texts; '
        'the classes may be others than those of the training',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_runtime_arguments(parser)
    return parser.parse_args(argv)


def use_descriptions(cfg: Config, path: str) -> None:
    """Has the model find the classes of the test data by these texts.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'--descriptions: {path} does not exist')
    # EMAHook would exchange the texts with those of its averaged model. A checkpoint's own weights are that average.
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if not hook['type'].endswith('EMAHook')]
    # Before the preflight, which compares the number of classes of model and data.
    cfg.custom_hooks = [dict(type='mmext.VocabularyHook', path=path), *hooks]


def as_list(value: object) -> list:
    """A list of configs, of one or of several."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def dump_predictions(cfg: Config, path: str) -> None:
    """Adds the metric that writes the predictions to a file.

    Raises:
        ValueError: if the name does not end in .pkl.
    """
    if not path.endswith(('.pkl', '.pickle')):
        raise ValueError(
            f'--out is {path!r}; the predictions are pickled, expected a name ending in .pkl'
        )
    is_detection = cfg.get('default_scope') == 'mmdet'
    kind = 'mmext.DumpInstanceResults' if is_detection else 'mmengine.DumpResults'
    cfg.test_evaluator = [*as_list(cfg.test_evaluator), dict(type=kind, out_file_path=path)]


def draw_predictions(cfg: Config, folder: str) -> None:
    """Switches the visualization hook of the config on.

    Raises:
        ValueError: if the config has no hook that draws.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None or 'visualizer' not in cfg:
        raise ValueError(
            '--show-dir: the config has no visualizer or no default_hooks.visualization; add '
            "visualizer=dict(type='mmext.InstanceVisualizer', vis_backends=[dict(type='LocalVisBackend')]) "
            "and default_hooks.visualization=dict(type='mmext.InstanceVisualizationHook')"
        )
    # mmdet's hook joins a relative folder to its own result, anew for every batch.
    absolute = str(Path(folder).resolve())
    hook.draw = True
    if hook.type.endswith(('DetVisualizationHook', 'InstanceVisualizationHook')):
        hook.test_out_dir = absolute
    else:
        cfg.visualizer.save_dir = absolute
        hook.interval = 1


def enable_tta(cfg: Config) -> None:
    """Puts the model of the config into its test-time augmentation.

    Raises:
        ValueError: if the config has none, or asks mmdet's, which merges boxes only, for masks.
    """
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ValueError(
            f'--tta: the config has no {" and no ".join(missing)}; add them as described in the '
            'mmdet or mmseg manual under "test-time augmentation"'
        )
    metrics = [as_list(metric.get('metric', 'bbox')) for metric in as_list(cfg.test_evaluator)]
    if cfg.tta_model.type.endswith('DetTTAModel') and any('segm' in names for names in metrics):
        raise ValueError(
            "--tta: mmdet's DetTTAModel merges boxes and loses the masks, and test_evaluator scores masks; "
            'score boxes only (--cfg-options test_evaluator.metric=bbox) or test without --tta'
        )
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


def edit_config(cfg: Config, args: argparse.Namespace) -> None:
    """Applies the arguments of the command line to the config.

    Raises:
        ValueError: if the config cannot be tested, or not in this way.
        FileNotFoundError: if there is no such checkpoint.
    """
    check_parts(cfg, ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'), 'test on')
    check_checkpoint(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    # The score of a model that is partly random would mean nothing.
    add_hook(cfg, dict(type='mmext.CheckpointReportHook', require_all=True))
    if args.out:
        dump_predictions(cfg, args.out)
    if args.show_dir:
        draw_predictions(cfg, args.show_dir)
    if args.descriptions:
        use_descriptions(cfg, args.descriptions)
    if args.tta:
        enable_tta(cfg)


def test(args: argparse.Namespace) -> None:
    """Tests as the command line says."""
    cfg = load_config(args)
    edit_config(cfg, args)
    runner = build_runner(cfg)
    with explained_datasets(cfg, 'test_dataloader'):
        runner.test()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(test, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
