"""Preflight: looks at data sets and model before the first step, and stops where they do not fit.

In mmdet a misspelt class, a missing metainfo or a wrong `num_classes` train to the end, score 0 and exit with
0. Here the facts are collected (`dataset_facts`, `head_classes`), given to the checks of
`preflight_checks` and `preflight_boxes`, and all errors come in one ValueError.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch import nn

from mmext.engine import preflight_boxes as boxes
from mmext.engine import preflight_checks as checks
from mmext.engine.preflight_checks import Finding
from mmext.engine.preflight_labels import check_label_maps
from mmext.engine.preflight_mattes import check_mattes
from mmext.structures.coco import read_coco_lists

# Heads that tell objects from background only, and backbones with the classes of their pre-training.
CLASS_AGNOSTIC = ('rpn_head', 'semantic_head')


class PreflightError(ValueError):
    """The mistakes that the preflight found."""


class DatasetFacts(NamedTuple):
    """What the checks want to know about a data set.

    Attributes:
        where: place in the config, such as 'train_dataloader.dataset'.
        classes: name of each label; empty where the data set has none.
        paths: image files, as loaded.
        histogram: label -> number of boxes loaded, crowds left out; None for data without boxes.
        content: the annotation file, where it is COCO json.
        cat2label: category id -> label, where the data set has it.
        is_local: whether the images lie on this machine's file system.
    """

    where: str
    classes: tuple[str, ...]
    paths: list[str]
    histogram: Counter[int] | None
    content: dict[str, list[dict]] | None
    cat2label: Mapping[int, int] | None
    is_local: bool


def leaf_datasets(dataset: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The data sets inside wrappers (Concat, Repeat, ClassBalanced, MultiImageMix, Subset, sliced), with
    their places in the config."""
    if hasattr(dataset, 'datasets'):
        for index, child in enumerate(dataset.datasets):
            yield from leaf_datasets(child, f'{where}.datasets[{index}]')
    elif hasattr(dataset, 'dataset'):
        yield from leaf_datasets(dataset.dataset, f'{where}.dataset')
    elif '_dataset' in vars(dataset):
        # mmengine's slice for `num_batch_per_epoch`, which has no place of its own.
        yield from leaf_datasets(dataset._dataset, where)
    else:
        yield where, dataset


def coco_content(where: str, dataset: Any) -> dict[str, list[dict]] | None:
    """What is in the annotation file of a data set; None where it has no JSON file.

    Raises:
        ValueError: if the file is missing, or no COCO file.
    """
    ann_file = getattr(dataset, 'ann_file', '')
    if not isinstance(ann_file, str) or not ann_file.endswith('.json'):
        return None
    try:
        return read_coco_lists(
            ann_file,
            getattr(dataset, 'backend_args', None),
            image_keys=('width', 'height'),
            annotation_keys=('image_id', 'category_id'),
        )
    except ValueError as error:
        raise ValueError(f'{where}.ann_file: {error}') from error


def loaded_samples(dataset: Any) -> list[dict]:
    """The entries of a data set; of one that is not initialized those before `filter_cfg`.

    The latter is for finding out why a data set cannot be built.
    """
    if getattr(dataset, '_fully_initialized', False):
        return [dataset.get_data_info(index) for index in range(len(dataset))]
    return dataset.load_data_list()


def dataset_facts(where: str, dataset: Any) -> DatasetFacts:
    """Collects the facts of one data set without wrappers.

    Raises:
        ValueError: if the annotation file is no COCO file.
    """
    backend_args = getattr(dataset, 'backend_args', None)
    content = coco_content(where, dataset)
    samples = loaded_samples(dataset)
    labels: Counter[int] | None = None
    if any('instances' in sample for sample in samples):
        labels = Counter(
            instance['bbox_label']
            for sample in samples
            for instance in sample['instances']
            if not instance.get('ignore_flag')
        )
    return DatasetFacts(
        where=where,
        classes=tuple(dataset.metainfo.get('classes') or ()),
        paths=[sample['img_path'] for sample in samples if 'img_path' in sample],
        histogram=labels,
        content=content,
        cat2label=getattr(dataset, 'cat2label', None),
        is_local=not backend_args or backend_args.get('backend', 'local') == 'local',
    )


def check_dataset(facts: DatasetFacts) -> list[Finding]:
    """All checks of one data set; causes before their consequences."""
    where, findings = facts.where, []
    if facts.content is not None:
        categories = {entry['id']: entry['name'] for entry in facts.content['categories']}
        names = [entry['name'] for entry in facts.content['categories']]
        findings += checks.check_class_names(where, facts.classes, names)
        findings += checks.check_label_order(
            where, facts.classes, categories, facts.cat2label or {}
        )
        findings += checks.check_references(where, facts.content)
        findings += boxes.check_boxes(where, facts.content)
    if facts.is_local:
        findings += checks.check_images(where, facts.paths)
    if facts.content and not facts.content['annotations'] and not where.startswith('train'):
        findings.append(
            checks.warning(f'{where}: no object is annotated: nothing to find, and every AP is -1')
        )
    elif facts.histogram is not None and not any(finding.is_error for finding in findings):
        findings += boxes.check_loaded_boxes(
            where, facts.classes, facts.histogram, len(facts.paths)
        )
    return findings


def head_classes(model: nn.Module) -> dict[str, int]:
    """`num_classes` of every module that must know the classes: path in the model -> number.

    Of a model that finds classes by texts, nothing: `vocabulary` has their names.
    """
    if hasattr(model, 'vocabulary'):
        return {}
    return {
        path: module.num_classes
        for path, module in model.named_modules()
        if isinstance(getattr(module, 'num_classes', None), int)
        and 'backbone' not in path
        and not path.endswith(CLASS_AGNOSTIC)
    }


def box_limit(model: nn.Module) -> boxes.BoxLimit | None:
    """The longest box of a YOLO head, be it wrapped by another (`det`); None for heads without such a limit."""
    for path, module in model.named_modules():
        is_head = path in ('bbox_head', 'bbox_head.det')
        if is_head and hasattr(module, 'reg_max') and hasattr(module, 'strides'):
            return boxes.BoxLimit(path, module.reg_max, max(module.strides))
    return None


def summary(facts: DatasetFacts) -> str:
    """One line on images and boxes, and the label histogram."""
    text = f'preflight {facts.where}: {len(facts.paths)} images'
    if facts.histogram is None:
        return text
    annotated = f' of {len(facts.content["annotations"])} annotated' if facts.content else ''
    counts = ', '.join(
        f'{name} {facts.histogram.get(label, 0)}' for label, name in enumerate(facts.classes)
    )
    return f'{text}, {sum(facts.histogram.values())}{annotated} boxes ({counts})'


def report_findings(findings: Sequence[Finding]) -> None:
    """Logs the warnings and raises the errors.

    Raises:
        PreflightError: all errors, numbered, if there are any.
    """
    for finding in findings:
        if not finding.is_error:
            print_log(f'preflight: {finding.text}', 'current', level=30)
    errors = [finding.text for finding in findings if finding.is_error]
    if errors:
        listed = '\n'.join(f'{number}. {text}' for number, text in enumerate(errors, 1))
        raise PreflightError(f'preflight found {len(errors)} mistakes in the set-up\n{listed}')


def check_loaders(datasets: Mapping[str, Any]) -> list[Finding]:
    """Checks data sets with each other, logging a summary of each.

    Args:
        datasets: name of the data loader -> its data set, built.
    """
    findings, paths = [], {}
    for loader, dataset in datasets.items():
        leaves = list(leaf_datasets(dataset, f'{loader}.dataset'))
        facts = [dataset_facts(*leaf) for leaf in leaves]
        for single in facts:
            print_log(summary(single), 'current')
            findings += check_dataset(single)
        if not any(finding.is_error for finding in findings):
            findings += [
                finding
                for leaf in leaves
                for check in (check_mattes, check_label_maps)
                for finding in check(*leaf)
            ]
        paths[loader] = [path for single in facts for path in single.paths]
    return findings + checks.check_splits(paths)


def explain_unbuilt_dataset(cfg: Mapping[str, Any], where: str) -> None:
    """Says why the data set of a config cannot be built, if the preflight knows.

    A wrong set-up can fail before any hook runs: where no image survives `filter_cfg`, mmengine dies on
    "need at least one array to concatenate". The data set is built here without reading, and looked at unfiltered.

    Args:
        cfg: config of the data set, wrappers included.
        where: its place in the config.

    Raises:
        PreflightError: the findings, if there are errors among them.
    """
    children = cfg.get('datasets') or ([cfg['dataset']] if 'dataset' in cfg else [])
    for index, child in enumerate(children):
        inside = f'{where}.datasets[{index}]' if 'datasets' in cfg else f'{where}.dataset'
        explain_unbuilt_dataset(child, inside)
    if not children and 'ann_file' in cfg:
        dataset = DATASETS.build({**cfg, 'lazy_init': True})
        try:
            facts = dataset_facts(where, dataset)
        except (TypeError, ValueError, KeyError) as reason:
            explain_unread_boxes(where, dataset, reason)
            raise
        report_findings(check_dataset(facts))


def explain_unread_boxes(where: str, dataset: Any, reason: Exception) -> None:
    """Points to boxes that are not four numbers: mmdet's CocoDataset dies on them and names nothing.

    Args:
        where: place of the data set in the config.
        dataset: the data set that could not read its annotations.
        reason: what it raised.

    Raises:
        PreflightError: if there are such boxes.
    """
    content = coco_content(where, dataset)
    ids = boxes.malformed_boxes(content) if content else []
    if ids:
        raise PreflightError(
            f'{where}: {type(dataset).__name__} cannot load {dataset.ann_file} ({type(reason).__name__}: '
            f'{reason}), and {len(ids)} of its boxes are not four numbers; annotation ids '
            f"{checks.some(ids)}. Mend them, or take type='mmext.InstanceDataset', which leaves them out"
        ) from reason
