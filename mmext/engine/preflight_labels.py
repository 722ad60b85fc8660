"""Preflight of maps of classes: some are loaded as the pipeline of their data set loads them, and looked at.

mmseg trains on whatever it finds: where `reduce_zero_label` is wrong, every class is learnt under its neighbour's name and
one is lost; where masks hold 0 and 255, all that is to be found is ignored; a value beyond the classes is an assertion
on the GPU. The label histogram shows each of them before the first step.
"""

import re
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

from mmext.engine.preflight_checks import Finding, error, some, warning
from mmext.engine.preflight_label_checks import BACKGROUNDS, MapFacts, judge_maps
from mmext.engine.preflight_probe import evenly_spread, no_loader, untouched_randomness
from mmext.structures.label_maps import NOT_LABELLED, count_values
from mmext.structures.orientation import upright_size

# Evenly spread over the data set. One of half a megapixel takes about 5 ms.
NUM_MAPS = 200
# Of the others, searched for one large value: about 3 ms each.
NUM_SEARCHED = 1000
# Sent through a pipeline that loads maps by no step known here: single ones may be dropped on the way.
NUM_SAMPLES = 8
# Heads by their place in a model, also in a list: auxiliary_head.0. Losses inside of them are given the head's label.
HEAD = re.compile(r'head(\.\d+)?$')


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
    missing = _check_missing(where, [record['seg_map_path'] for record in records])
    step = next(_loading_steps(dataset.pipeline), None)
    if missing or step is None:
        # Tests may go without truth.
        needs_loader = not missing and where.startswith('train')
        return _check_other_loader(where, dataset) if needs_loader else missing
    reduces, ignored = dataset.reduce_zero_label, dataset.ignore_index
    facts = MapFacts(where, classes, reduces, ignored, len(records), {}, Counter(), [])
    chosen = evenly_spread(len(records), NUM_MAPS)
    for index in chosen:
        if findings := _read_map(facts, records[index], step):
            return findings
    searched = _to_be_searched(facts, chosen)
    print_log(summary(facts, len(searched)), 'current')
    beyond = (i for i in searched if _is_beyond(facts, records[i]['seg_map_path']))
    first = next(beyond, None)
    findings = [] if first is None else _read_map(facts, records[first], step)
    return findings or judge_maps(facts)


def _to_be_searched(facts: MapFacts, chosen: Sequence[int]) -> list[int]:
    """Indices of other maps in which one value beyond the classes would show that all labels are wrong.

    Where files number K classes from 1, 0 is none and `reduce_zero_label` was forgotten, all labels are one too high,
    and only the last class, which may be rare, has a value that gives it away.
    """
    is_numbered_from_0 = facts.classes[0].lower() in BACKGROUNDS
    if facts.reduces or is_numbered_from_0 or max(facts.values, default=0) >= len(facts.classes):
        return []
    others = sorted(set(range(facts.num_maps)) - set(chosen))
    return [others[place] for place in evenly_spread(len(others), NUM_SEARCHED)]


def _is_beyond(facts: MapFacts, path: str) -> bool:
    """Whether a map holds a value that no class has, or cannot be read: then it must be looked at."""
    try:
        stored = read_stored(path)
    except (ValueError, OSError, SyntaxError):
        return True
    has_class = (stored < len(facts.classes)) | (stored == NOT_LABELLED) | (stored == facts.ignored)
    return not has_class.all()


def _check_other_loader(where: str, dataset: Any) -> list[Finding]:
    """Maps that no `LoadAnnotations` loads: an error where no other step does."""
    with untouched_randomness():
        names = (_loader_name(dataset, index) for index in evenly_spread(len(dataset), NUM_SAMPLES))
        name = next(filter(None, names), None)
    if name is None:
        return [no_loader(where, 'maps of classes', 'LoadAnnotations')]
    return [
        warning(
            f'{where}: the maps of classes are loaded by {name}, which is no LoadAnnotations: their values are not looked at'
        )
    ]


def _loader_name(dataset: Any, index: int) -> str | None:
    """Type of the step that makes `gt_seg_map` of a sample; None where none does."""
    record = dataset.get_data_info(index)
    for step in dataset.pipeline.transforms:
        try:
            record = step(record)
        except KeyError as reason:
            # Of a step that was to change it.
            if reason.args == ('gt_seg_map',):
                return None
            raise
        if record is None:
            return None
        if 'gt_seg_map' in record or 'gt_sem_seg' in record.get('data_samples', ()):
            return type(step).__name__
    return None


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
    facts.stored[path] = count_values(stored)
    counts = count_values(loaded)
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
            width, height = upright_size(image)
            return height, width
    except (OSError, ValueError, SyntaxError):
        return None


def summary(facts: MapFacts, num_searched: int = 0) -> str:
    """One line on the maps of a data set.

    Args:
        facts: of the maps looked at.
        num_searched: other maps of which only the largest value matters.
    """
    total = max(facts.loaded.total(), 1)
    shares = [
        f'{name} {facts.loaded[label] / total:.2%}' for label, name in enumerate(facts.classes)
    ]
    shares.append(f'ignored {facts.loaded[facts.ignored] / total:.2%}')
    others = (
        f', {num_searched} others searched for values beyond the classes' if num_searched else ''
    )
    return (
        f'preflight {facts.where}: {facts.num_maps} maps of classes, {len(facts.stored)} looked at{others}, pixels: '
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
        if HEAD.search(path) and isinstance(getattr(module, 'ignore_index', None), int)
    }
    return [
        error(
            f'model.data_preprocessor.seg_pad_val={padding}, and model.{path}.ignore_index={ignored}; expected the same: '
            f'pixels of the padding would be learnt as class {padding}. Set seg_pad_val={ignored}'
        )
        for path, ignored in heads.items()
        if padding is not None and padding != ignored
    ]


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
