"""Preflight of maps of classes: some are loaded as the pipeline of their data set loads them, and looked at.

mmseg trains on whatever it finds: where `reduce_zero_label` is wrong, every class is learnt under its neighbour's name and
one is lost; where masks hold 0 and 255, all that is to be found is ignored; a value beyond the classes is an assertion
on the GPU. The label histogram shows each of them before the first step.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.logging import print_log
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from mmext.engine.preflight_checks import Finding, error, some
from mmext.engine.preflight_label_checks import MapFacts, judge_maps

# Evenly spread over the data set. One of half a megapixel takes about 5 ms.
NUM_MAPS = 200
ORIENTATION_TAG = 0x0112  # of EXIF: how a photo is turned


def check_label_maps(where: str, dataset: Any) -> list[Finding]:
    """Checks of one data set without wrappers; nothing where it has no maps of classes as those of mmseg.

    Logs a line with the share of pixels of each class.

    Args:
        where: place of the data set in the config.
        dataset: built; its samples have `seg_map_path` and `reduce_zero_label`.
    """
    keys = set(dataset.get_data_info(0)) if len(dataset) else set()
    backend = (getattr(dataset, 'backend_args', None) or {}).get('backend', 'local')
    if not {'seg_map_path', 'reduce_zero_label'} <= keys or backend != 'local':
        return []
    classes = tuple(dataset.metainfo.get('classes') or ())
    if not classes:
        return [
            error(
                f'{where}: got maps of classes and no names; set {where}.metainfo = dict(classes=(...))'
            )
        ]
    records = [dataset.get_data_info(index) for index in range(len(dataset))]
    findings = _check_missing(where, [record['seg_map_path'] for record in records])
    step = next(_loading_steps(dataset.pipeline), None)
    if step is None and where.startswith('train'):
        findings.append(no_loader(where))
    if findings or step is None:
        return findings
    chosen = np.unique(np.linspace(0, len(records) - 1, min(len(records), NUM_MAPS)).astype(int))
    facts = MapFacts(
        where,
        classes,
        dataset.reduce_zero_label,
        dataset.ignore_index,
        len(records),
        {},
        Counter(),
        [],
    )
    for index in chosen.tolist():
        findings += _read_map(facts, records[index], step)
        if findings:
            return findings
    print_log(summary(facts), 'current')
    return judge_maps(facts)


def _read_map(facts: MapFacts, record: dict[str, Any], step: LoadAnnotations) -> list[Finding]:
    """Adds one map to the facts; an error where it cannot be read as one."""
    path = record['seg_map_path']
    # Changed by the step.
    record = {**record, 'seg_fields': []}
    try:
        stored = read_stored(path)
        loaded = (
            step(record)['gt_seg_map'] if stored.ndim == 2 and stored.max(initial=0) < 256 else None
        )
    except (ValueError, OSError, AssertionError, SyntaxError) as reason:
        return [error(f'{facts.where}: the map {path} cannot be loaded ({reason})')]
    if loaded is None:
        found = f'shape {stored.shape}' if stored.ndim != 2 else f'values up to {stored.max()}'
        return [
            error(
                f'{facts.where}: the map {path} has {found}; expected one channel of class indices below 256, 255 where nothing '
                'is labelled. Colours must be turned into indices first, one value a class'
            )
        ]
    size = image_size(record.get('img_path'))
    if size is not None and size != loaded.shape:
        return [
            error(
                f'{facts.where}: the map {path} has {loaded.shape} pixels (h, w), its image {record["img_path"]} {size}; expected '
                'the same size. Use the map that was drawn on this image, upright if the image is turned by EXIF'
            )
        ]
    facts.stored[path] = _histogram(stored)
    counts = _histogram(loaded)
    facts.loaded.update(counts)
    if set(counts) <= {facts.ignored}:
        facts.empty.append(path)
    return []


def read_stored(path: str) -> NDArray:
    """The values of a file as mmseg sees them: palette images by their indices.

    Raises:
        OSError: it cannot be read as an image.
    """
    with Image.open(path) as image:
        values = np.asarray(image).squeeze()
    return values.astype(np.uint8) if values.dtype == bool else values


def image_size(path: str | None) -> tuple[int, int] | None:
    """(h, w) of an upright image; None where it cannot be read, which another check reports."""
    try:
        with Image.open(path or '') as image:
            turned = image.getexif().get(ORIENTATION_TAG, 1) >= 5
            width, height = image.size[::-1] if turned else image.size
            return height, width
    except (OSError, ValueError, SyntaxError):
        return None


def summary(facts: MapFacts) -> str:
    """One line on the maps of a data set."""
    total = max(facts.loaded.total(), 1)
    shares = [
        f'{name} {facts.loaded[label] / total:.2%}' for label, name in enumerate(facts.classes)
    ]
    shares.append(f'ignored {facts.loaded[facts.ignored] / total:.2%}')
    return (
        f'preflight {facts.where}: {facts.num_maps} maps of classes, {len(facts.stored)} looked at, pixels: '
        + some(shares, 30)
    )


def check_ignored_label(model: nn.Module) -> list[Finding]:
    """Padding against the label that the heads ignore: under another one its pixels are learnt as a class.

    Args:
        model: a segmentor of mmseg, or any other, in which nothing is looked at.
    """
    padding = getattr(getattr(model, 'data_preprocessor', None), 'seg_pad_val', None)
    heads = {
        path: module.ignore_index
        for path, module in model.named_modules()
        if path.endswith('head') and isinstance(getattr(module, 'ignore_index', None), int)
    }
    return [
        error(
            f'model.data_preprocessor.seg_pad_val={padding}, and model.{path}.ignore_index={ignored}; expected the same: '
            f'pixels of the padding would be learnt as class {padding}. Set seg_pad_val={ignored}'
        )
        for path, ignored in heads.items()
        if padding is not None and padding != ignored
    ]


def no_loader(where: str) -> Finding:
    """The error for a pipeline that never loads maps."""
    return error(
        f"{where}: the samples have maps of classes, and no step of the pipeline loads them; add dict(type='LoadAnnotations')"
    )


def _check_missing(where: str, paths: Sequence[str]) -> list[Finding]:
    """Maps that are not on disk."""
    missing = [path for path in paths if not Path(path).is_file()]
    if not missing:
        return []
    return [
        error(
            f'{where}: {len(missing)} of {len(paths)} maps of classes are not on disk: {some(missing)}; check '
            f'{where}.data_root, data_prefix.seg_map_path, seg_map_suffix and img_suffix'
        )
    ]


def _loading_steps(step: Any) -> Iterator[LoadAnnotations]:
    """The steps that load maps, also inside of test-time augmentation."""
    if isinstance(step, LoadAnnotations):
        yield step
    # `subroutines` are the views of mmcv's TestTimeAug.
    for children in (getattr(step, 'transforms', None), getattr(step, 'subroutines', None)):
        for child in children or ():
            yield from _loading_steps(child)


def _histogram(values: NDArray) -> Counter[int]:
    counts = np.bincount(values.ravel())
    return Counter({value: int(counts[value]) for value in np.flatnonzero(counts).tolist()})
