"""`init_model`: a model from its config and its weights, ready to be called."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import nn

from mmext.engine.checkpoint import bare_model, load_checkpoint_report, read_checkpoint
from mmext.engine.config_file import load_config_file
from mmext.models.common.folding import switch_to_deploy
from mmext.registry import readable_registry_errors


# `device` may be the third position, against our rule: mmseg's `init_model` is called so everywhere.
def init_model(
    config: str | Path | Config, checkpoint: str | Path | None = None, device: str = 'cpu'
) -> nn.Module:
    """Build a model, load its weights and set it to evaluation.

    Args:
        config: A config file, or the Config itself, which is left as it is.
        checkpoint: A local checkpoint of this model. None: the weights stay as the constructors drew them.
        device: 'cpu', 'cuda:0', ...

    Returns:
        The model on the device. `model(inputs, mode='tensor')` gives the head's raw outputs by name for inputs
        (B, C, H, W) that are normalised already; `model.test_step(...)` takes images and preprocesses them.
        `model.cfg` is the config and `model.dataset_meta` a dict with `classes` and, where known, `palette`: from the
        checkpoint, else from the config's data sets. A class list that nobody names is absent, with a warning.

    Raises:
        FileNotFoundError: The config or the checkpoint does not exist.
        ValueError: The config has no model; the checkpoint is damaged, would execute code, or belongs to another
            model (with a table of the names and shapes that differ).
        UnknownNameError: A `type` in the config that no registry knows, with the nearest name.
    """
    cfg = read_config(config)
    with (
        DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')),
        readable_registry_errors(),
    ):
        model = MODELS.build(cfg.model)
        meta = _dataset_meta_of_config(cfg)
    # Sync batch norm runs in a process group only; in evaluation it computes what plain batch norm does.
    model = revert_sync_batchnorm(model)
    if checkpoint is not None:
        load_checkpoint_report(model, checkpoint, require_all=True)
        meta = _dataset_meta_of_checkpoint(checkpoint) or meta
    if 'classes' not in meta:
        print_log(
            'no class names: neither the checkpoint nor the config names them; set '
            "metainfo=dict(classes=(...)) in the config's test_dataloader.dataset",
            'current',
            level=30,
        )
    model.cfg = cfg
    model.dataset_meta = meta
    return model.to(device).eval()


def init_tta_model(
    config: str | Path | Config, checkpoint: str | Path | None = None, device: str = 'cpu'
) -> nn.Module:
    """The model of `init_model` within the test-time augmentation of its config.

    Args:
        config: see `init_model`; with `tta_model` and `tta_pipeline`.
        checkpoint: see `init_model`.
        device: the same.

    Returns:
        mmengine's `BaseTTAModel`: `test_step` takes every value of a batch once for each view. `cfg` and
        `dataset_meta` are those of the model within.

    Raises:
        FileNotFoundError: as `init_model`.
        ValueError: the config has no test-time augmentation; otherwise as `init_model`.
    """
    cfg = read_config(config)
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ValueError(
            f'test-time augmentation: the config has no {" and no ".join(missing)}; add them as in '
            'configs/_base_/datasets/synthetic_defects.py'
        )
    model = init_model(cfg, checkpoint, device)
    with (
        DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')),
        readable_registry_errors(),
    ):
        augmented = MODELS.build(dict(**cfg.tta_model, module=model))
    augmented.cfg, augmented.dataset_meta = model.cfg, model.dataset_meta
    return augmented.eval()


def deploy(model: nn.Module) -> None:
    """Bring a model into its deploy form, which gives the same results in less time, where it has one.

    Models that have none of their own, such as mmseg's `EncoderDecoder`, may have parts that have one. A norm without a
    deploy form is logged and the model still right: what was folded before stays folded.
    `mmext.models.common.folding.restore_from_deploy(model)` leads back.

    Args:
        model: in evaluation, with its weights, on its device; one within test-time augmentation too.
    """
    bare = bare_model(model)
    own_switch = getattr(bare, 'switch_to_deploy', None)
    try:
        if own_switch is None:
            switch_to_deploy(bare)
        else:
            own_switch()
    except ValueError as error:
        print_log(f'not in deploy form, only slower: {error}', 'current', level=30)


def read_config(config: str | Path | Config) -> Config:
    """A config of one's own, to change at will: the file, or a copy of the Config.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the config has no model.
    """
    if isinstance(config, Config):
        cfg = copy.deepcopy(config)
    elif Path(config).exists():
        cfg = load_config_file(config)
    else:
        raise FileNotFoundError(
            f'config {config} does not exist; give a config file, for example one below configs/'
        )
    if 'model' not in cfg:
        name = cfg.filename or 'the given Config'
        raise ValueError(
            f'{name} has no `model`; got the keys {sorted(cfg.keys())}, expected a complete config '
            '(files below _base_ are parts of one)'
        )
    return cfg


def _dataset_meta_of_checkpoint(path: str | Path) -> dict[str, Any]:
    """What the training run stored: classes, palette and more; empty for converted weights."""
    content = read_checkpoint(path)
    meta = content.get('meta') or {}
    stored = meta.get('dataset_meta') or {}
    return {key.lower(): value for key, value in stored.items()}


def _dataset_meta_of_config(cfg: Config) -> dict[str, Any]:
    """Class names and colours as the first data set that the config describes has them."""
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        dataset = (cfg.get(loader) or {}).get('dataset')
        # Wrappers (RepeatDataset, ClassBalancedDataset) hold the data set they repeat.
        while isinstance(dataset, Mapping) and isinstance(dataset.get('dataset'), Mapping):
            dataset = dataset['dataset']
        if isinstance(dataset, Mapping) and 'type' in dataset:
            return _dataset_meta(dataset)
    return {}


def _dataset_meta(dataset: Mapping[str, Any]) -> dict[str, Any]:
    with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
        kind = dataset['type']
        kind = registry.get(kind) if isinstance(kind, str) else kind
    stated = dict(dataset.get('metainfo') or {})
    # A class declares names and colours together: with other names in the config, its colours mean nothing.
    return stated if 'classes' in stated else {**getattr(kind, 'METAINFO', {}), **stated}
