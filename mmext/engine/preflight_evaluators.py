"""The preflight of evaluators: the annotation files that metrics read by themselves, such as mmdet's CocoMetric."""

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from mmext.engine.preflight_checks import Finding, check_evaluated_images, error
from mmext.structures.coco import load_json
from mmext.structures.scorable import scoring_faults


def metric_configs(cfg: Any) -> list[Any]:
    """The metrics in the config of an evaluator, in their order.

    Args:
        cfg: one metric, a list of them, or an evaluator that has one or several under `metrics`.
    """
    if isinstance(cfg, Mapping) and 'metrics' in cfg:
        cfg = cfg['metrics']
    return list(cfg) if isinstance(cfg, (list, tuple)) else [cfg]


def annotation_file(metric: Any) -> str | None:
    """The annotation file that the config of a metric names; None if it names none, or is no config."""
    return metric.get('ann_file') if isinstance(metric, Mapping) else None


def check_evaluator(
    loader: str, datasets: Sequence[Any], evaluator: Any, cfg: Any
) -> list[Finding]:
    """Data sets against the annotation files that their metrics read.

    Args:
        loader: name of the data loader.
        datasets: its data sets, without wrappers.
        evaluator: the evaluator, built.
        cfg: the config it was built from: built metrics do not remember their files.
    """
    findings = []
    where = loader.replace('dataloader', 'evaluator')
    configs = chain(metric_configs(cfg), repeat(None))
    for metric, metric_cfg in zip(getattr(evaluator, 'metrics', ()), configs, strict=False):
        coco = getattr(metric, '_coco_api', None)
        if coco is None:
            continue
        ids = [data.get_data_info(i)['img_id'] for data in datasets for i in range(len(data))]
        findings += check_evaluated_images(
            f'{loader}.dataset', ids, coco.get_img_ids(), annotation_file(metric_cfg)
        )
        findings += [
            error(f'{where}.ann_file: {fault}')
            for fault in scoring_faults(coco.dataset, metric.metrics)
        ]
    return findings


def explain_unbuilt_evaluator(cfg: Any, where: str) -> None:
    """Says why the metrics of a config cannot be built or computed, where it is their annotation files.

    pycocotools names a file that it cannot open, but not who asked for it, and of one that is no JSON, or has objects
    that it cannot read, not even that.

    Args:
        cfg: config of the evaluator.
        where: its place.

    Raises:
        ValueError: if an annotation file is missing, no JSON, or has objects that cannot be scored.
    """
    for metric in metric_configs(cfg):
        path = annotation_file(metric)
        if path is not None and path.endswith('.json'):
            try:
                content = load_json(path, metric.get('backend_args'))
            except ValueError as reason:
                raise ValueError(f'{where}.ann_file: {reason}') from reason
            # The metrics of mmdet and mmext that are computed if the config names none.
            names = metric.get('metric', 'bbox')
            names = [names] if isinstance(names, str) else names
            faults = scoring_faults(content, names) if isinstance(content, dict) else []
            if faults:
                raise ValueError(f'{where}.ann_file: {path}: {faults[0]}')
