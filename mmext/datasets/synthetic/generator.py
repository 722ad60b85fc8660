"""Pictures of defective surfaces with exact masks, and COCO data sets of them.

Every image has a random generator of its own, made from (seed, split, index): the same call gives
the same bytes, and a larger data set begins with the images of the smaller one.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.utils import ProgressBar

from mmext.datasets.converters.objects import object_from_mask
from mmext.datasets.converters.writer import describe_object
from mmext.datasets.synthetic.presets import NORMAL, Preset
from mmext.datasets.synthetic.surfaces import expose

SPLITS = ('train', 'val')
# Files that a data set may have, of each split; the last two are those of `write_semantic`.
OWN_FILES = ('{}.json', 'images/{}_*.png', 'labels/{}_*.png', '{}.txt')
MIN_SIZE, MAX_SIZE = 64, 4096
# A defect of fewer visible pixels than this would be noise to anyone who looks at it.
MIN_MASK_PIXELS = 12
# Places tried for a defect that must not touch an earlier one; after that the image has one defect
# less.
MAX_TRIES = 8


class SyntheticImage(NamedTuple):
    """One image and its truth.

    Attributes:
        image: (h, w, 3) uint8 BGR.
        masks: (n, h, w) bool, disjoint.
        labels: (n,) int64, indices into the preset's classes.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


def generate_image(rng: np.random.Generator, preset: Preset, size: int) -> SyntheticImage:
    """Generate one image.

    Args:
        rng: The source of randomness.
        preset: What to draw.
        size: The long side in pixels.
    """
    short = round(size * rng.uniform(*preset.aspect_range))
    shape = (size, short) if rng.random() < 0.5 else (short, size)
    surface = preset.surface(rng, shape)._replace(defect_scale=preset.defect_scale)
    num_defects = 0
    if rng.random() >= preset.normal_fraction:
        num_defects = 1 + int(rng.choice(len(preset.num_defects), p=preset.num_defects))
    weights = np.array([defect.weight for defect in preset.classes])
    wanted = rng.choice(len(weights), size=num_defects, p=weights / weights.sum())

    masks, labels = [], []
    occupied = np.zeros(shape, dtype=bool)
    for label in wanted.tolist():
        for _ in range(MAX_TRIES):
            image, mask = preset.classes[label].draw(rng, surface)
            if np.count_nonzero(mask) >= MIN_MASK_PIXELS and not (mask & occupied).any():
                surface = surface._replace(image=image)
                masks.append(mask)
                labels.append(label)
                # A gap of two pixels keeps neighbours of one class apart.
                occupied |= cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
                break
    stack = np.stack(masks) if masks else np.zeros((0, *shape), dtype=bool)
    image = expose(rng, surface.image, grey=preset.grey)
    return SyntheticImage(image, stack, np.array(labels, dtype=np.int64))


def write_dataset(
    out: Path,
    preset: Preset,
    *,
    num_images: dict[str, int],
    size: int = 256,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, dict]:
    """Write OUT/train.json, OUT/val.json and OUT/images/.

    Masks are COCO run lengths (they keep holes and several parts); `file_name` is relative to
    OUT/images. Beside the usual keys, each image record has `image_labels` (the class names in it,
    or ['NORMAL']), each category its English `alias`, and `info` holds preset, seed and size.

    Args:
        out: The folder; made if missing.
        preset: What to draw.
        num_images: Of each split, keys 'train' and 'val'; 0 is allowed.
        size: The long side of the images in pixels.
        seed: Not negative.
        overwrite: Whether an earlier data set in OUT is replaced.

    Returns:
        The COCO dict of each split.

    Raises:
        ValueError: If a number is out of range, or OUT holds files and may not be overwritten.
    """
    check_numbers(num_images, size, seed)
    own = [pattern.format(split) for split in SPLITS for pattern in OWN_FILES]
    clear_earlier(out, overwrite, [*own, 'classes.txt'])
    folder = out / 'images'
    folder.mkdir(parents=True, exist_ok=True)
    result = {}
    image_ids, annotation_ids = itertools.count(1), itertools.count(1)
    bar = ProgressBar(sum(num_images.values()))
    for split_index, split in enumerate(SPLITS):
        coco = _empty_coco(preset, size, seed)
        for index in range(num_images[split]):
            rng = np.random.default_rng([seed, split_index, index])
            sample = generate_image(rng, preset, size)
            file_name = f'{split}_{index:05d}.png'
            names = [preset.classes[label].name for label in sample.labels]
            record = _image_record(sample, next(image_ids), file_name, names)
            coco['images'].append(record)
            coco['annotations'] += _annotations(sample, names, record['id'], annotation_ids)
            stored = sample.image[..., 0] if preset.grey else sample.image
            if not cv2.imwrite(str(folder / file_name), stored):
                raise OSError(f'could not write {folder / file_name}')
            bar.update()
        (out / f'{split}.json').write_text(json.dumps(coco), encoding='utf-8')
        result[split] = coco
    return result


def _empty_coco(preset: Preset, size: int, seed: int) -> dict:
    return {
        'info': {
            'description': f'mmext synthetic defects: {preset.name}, size {size}, seed {seed}'
        },
        'images': [],
        'annotations': [],
        'categories': [
            {'id': index, 'name': defect.name, 'supercategory': 'defect', 'alias': defect.alias}
            for index, defect in enumerate(preset.classes, start=1)
        ],
    }


def _image_record(sample: SyntheticImage, image_id: int, file_name: str, names: list[str]) -> dict:
    return {
        'id': image_id,
        'file_name': file_name,
        'height': sample.image.shape[0],
        'width': sample.image.shape[1],
        'image_labels': sorted(set(names)) or [NORMAL],
    }


def _annotations(
    sample: SyntheticImage, names: list[str], image_id: int, ids: Iterator[int]
) -> list[dict]:
    objects = zip(sample.masks, sample.labels.tolist(), names, strict=True)
    return [
        {'id': next(ids), 'image_id': image_id, 'category_id': label + 1}
        | describe_object(object_from_mask(mask, name))
        for mask, label, name in objects
    ]


def check_numbers(num_images: dict[str, int], size: int, seed: int) -> None:
    """Check what a data set is asked for, see `write_dataset`; ValueError for a number out of range."""
    if set(num_images) != set(SPLITS):
        raise ValueError(f'got num_images for {sorted(num_images)}; expected {list(SPLITS)}')
    for split, count in num_images.items():
        if count < 0:
            raise ValueError(f'got {count} images for {split}; expected 0 or more')
    if not sum(num_images.values()):
        raise ValueError('got 0 images for both splits; ask for at least one image')
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f'got size {size}; expected {MIN_SIZE} to {MAX_SIZE} pixels')
    if seed < 0:
        raise ValueError(f'got seed {seed}; expected 0 or more')


def clear_earlier(out: Path, overwrite: bool, own_files: Sequence[str]) -> None:
    """Empty OUT of an earlier data set if that is allowed; foreign files are never removed.

    Args:
        out: The folder to write to; it need not exist.
        overwrite: Whether an earlier data set may be removed.
        own_files: Glob patterns, relative to OUT, of the files that such a data set has.

    Raises:
        ValueError: OUT is a file, or not empty without `overwrite`, or holds foreign files.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f'{out} is a file; give the folder to write to')
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f'{out} is not empty; choose another folder, or replace the data set in it '
            'with --overwrite'
        )
    own = {file for pattern in own_files for file in out.glob(pattern)}
    foreign = [file for file in out.rglob('*') if file.is_file() and file not in own]
    if foreign:
        raise ValueError(
            f'{out} holds files that no synthetic data set has, the first is {foreign[0]}; '
            'they are not overwritten. Choose another folder'
        )
    for file in own:
        file.unlink(missing_ok=True)
