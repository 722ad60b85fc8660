"""The single checks of the preflight: pure functions from plain facts to findings.

Each returns a list of `Finding`s; an error stops the run, a warning is logged. `where` is always the place in
the config that holds the data set, such as `train_dataloader.dataset`, for the line to change. The checks of
the boxes are in `preflight_boxes`.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

MAX_ROWS = 12


class Finding(NamedTuple):
    """One result of a check: `is_error` or a warning, and the text."""

    is_error: bool
    text: str


def error(text: str) -> Finding:
    """A finding that stops the run."""
    return Finding(True, text)


def warning(text: str) -> Finding:
    """A finding that is logged."""
    return Finding(False, text)


def some(items: Collection[object], limit: int = 3) -> str:
    """The first items, and how many more there are."""
    shown = ', '.join(str(item) for item in list(items)[:limit])
    return shown + (f', ... ({len(items)} in all)' if len(items) > limit else '')


def side_by_side(
    left_title: str, left: Sequence[str], right_title: str, right: Sequence[str]
) -> str:
    """Two lists of names as a table; `*` marks a name that the other list does not have."""

    def column(title: str, names: Sequence[str], others: Sequence[str]) -> list[str]:
        marked = [name if name in others else f'{name} *' for name in names]
        return [title, *marked[:MAX_ROWS], *(['...'] if len(marked) > MAX_ROWS else [])]

    lefts, rights = column(left_title, left, right), column(right_title, right, left)
    width = max(len(cell) for cell in lefts)
    rows = zip_longest(lefts, rights, fillvalue='')
    return '\n'.join(f'    {cell:<{width}} | {other}'.rstrip() for cell, other in rows)


def repeated(names: Sequence[str]) -> list[str]:
    """The names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def check_class_names(
    where: str, classes: Sequence[str], categories: Sequence[str]
) -> list[Finding]:
    """Class names of the config against the categories of the annotation file.

    Every class must be a category. Categories that are no class are only warned about, since training
    on a part of the categories is a normal wish.
    """
    findings = [
        error(
            f'{where}: {place} names {some(names)} more than once; give each class one name and id'
        )
        for place, names in (
            ('metainfo.classes', repeated(classes)),
            ('the annotation file', repeated(categories)),
        )
        if names
    ]
    table = side_by_side('metainfo.classes', classes, 'annotation file', categories)
    unknown = [name for name in classes if name not in categories]
    if unknown:
        remedy = f'set {where}.metainfo = dict(classes={tuple(dict.fromkeys(categories))})'
        findings.append(
            error(
                f'{where}: {len(unknown)} of {len(classes)} classes are not in the annotation file, so '
                f'their boxes would be dropped\n{table}\n  {remedy}'
            )
        )
    unused = [name for name in categories if name not in classes]
    if unused and not unknown:
        findings.append(
            warning(
                f'{where}: the categories {some(unused)} are no classes; their boxes are left out'
            )
        )
    return findings


def check_label_order(
    where: str, classes: Sequence[str], names: Mapping[int, str], cat2label: Mapping[int, int]
) -> list[Finding]:
    """Labels that the data set gives against the names they will be shown under.

    mmdet's CocoDataset numbers the labels in the order of the file, whatever the order of `classes`.

    Args:
        where: place in the config.
        classes: name of each label.
        names: category id -> name in the file.
        cat2label: category id -> label, as the data set assigns it.
    """
    wrong = {
        names[index]: classes[label]
        for index, label in cat2label.items()
        if label < len(classes) and classes[label] != names[index]
    }
    # With unknown classes the labels shift anyway; `check_class_names` reports the cause.
    if not wrong or any(name not in names.values() for name in classes):
        return []
    in_order = tuple(name for name in names.values() if name in classes)
    table = side_by_side('object in the file', list(wrong), 'would be named', list(wrong.values()))
    return [
        error(
            f'{where}: the classes stand in another order than in the annotation file, which numbers '
            f'the labels\n{table}\n  set {where}.metainfo = dict(classes={in_order})'
        )
    ]


def check_references(where: str, content: Mapping[str, Any]) -> list[Finding]:
    """Annotations that point to a category or an image that the file does not list.

    Every data set leaves out what belongs to no image, and the rest is as good as before: a warning. Objects
    of a category without a name are a class that is missing from the file: an error.
    """
    findings = []
    for key, listed, judge, outcome in (
        ('category_id', 'categories', error, ''),
        ('image_id', 'images', warning, '; they are left out'),
    ):
        known = {entry['id'] for entry in content[listed]}
        strange = Counter(a[key] for a in content['annotations'] if a[key] not in known)
        if strange:
            findings.append(
                judge(
                    f'{where}: {sum(strange.values())} annotations have a {key} that `{listed}` of the '
                    f'annotation file does not list: {some(strange)}; listed are {some(known, 8)}{outcome}'
                )
            )
    return findings


def check_images(where: str, paths: Sequence[str]) -> list[Finding]:
    """Images that are not on disk."""
    missing = [path for path in paths if not Path(path).is_file()]
    if not missing:
        return []
    return [
        error(
            f'{where}: {len(missing)} of {len(paths)} images are not on disk: {some(missing)}; check '
            f'{where}.data_root and {where}.data_prefix, and whether ann_file is of this split'
        )
    ]


def check_num_classes(heads: Mapping[str, int], classes: Sequence[str]) -> list[Finding]:
    """Number of classes of every head against the number of class names.

    Args:
        heads: path of the module in the model, such as 'bbox_head' -> its `num_classes`.
        classes: class names of the training data.
    """
    wrong = {path: count for path, count in heads.items() if count != len(classes)}
    if not wrong:
        return []
    table = side_by_side(
        'model', [f'model.{path}.num_classes={count}' for path, count in wrong.items()],
        f'{len(classes)} classes', list(classes),
    ).replace(' *', '')  # fmt: skip
    remedy = ', '.join(f'model.{path}.num_classes={len(classes)}' for path in wrong)
    return [
        error(f'the data has {len(classes)} classes, the model has not\n{table}\n  set {remedy}')
    ]


def check_vocabulary(vocabulary: Sequence[str] | None, classes: Sequence[str]) -> list[Finding]:
    """Names of the texts of a model against the class names, in their order: each label must get the text of its class.

    Args:
        vocabulary: names that the model finds by their texts; None for models without texts.
        classes: class names of the data.
    """
    if vocabulary is None or tuple(vocabulary) == tuple(classes):
        return []
    table = side_by_side(
        'texts of the model', list(vocabulary), 'classes of the data', list(classes)
    )
    return [
        error(
            f'the texts are not those of the classes of the data, in their order\n{table}\n  set '
            f'model.text.classes={list(classes)}, or test with --descriptions'
        )
    ]


def check_splits(paths: Mapping[str, Collection[str]]) -> list[Finding]:
    """Images that are in the training data and in the data it is scored on.

    Args:
        paths: name of the data loader -> image paths.
    """
    train = set(paths.get('train_dataloader', ()))
    return [
        warning(
            f'{len(shared)} of {len(others)} images of {loader} are training images too; '
            'the score will flatter'
        )
        for loader, others in paths.items()
        if loader != 'train_dataloader' and (shared := train & set(others))
    ]


def check_evaluated_images(
    where: str, image_ids: Collection[Any], annotated_ids: Collection[Any], ann_file: str | None
) -> list[Finding]:
    """Images of a data set against those of the annotation file that its metric reads.

    Args:
        where: place of the data set in the config.
        image_ids: ids of its images.
        annotated_ids: ids of the images in the metric's annotation file.
        ann_file: that file, where the config names it.
    """
    strange = set(image_ids) - set(annotated_ids)
    if not strange and len(image_ids) == len(annotated_ids):
        return []
    evaluator = where.split('_')[0] + '_evaluator'
    return [
        error(
            f'{where} has {len(image_ids)} images, the annotation file of {evaluator} has '
            f'{len(annotated_ids)}, and {len(strange)} of the former are not in it; '
            f'set {evaluator}.ann_file{f" (now {ann_file})" if ann_file else ""} to the ann_file of {where}'
        )
    ]
