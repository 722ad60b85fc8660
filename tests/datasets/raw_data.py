"""Small raw data sets on disk for the tests of the converters."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mmext.tools.convert_dataset import main

EXIF_TURNED = 6  # stored on its side: upright after a quarter turn clockwise


def write_image(path: Path, width: int, height: int, orientation: int = 1, seed: int = 0) -> Path:
    """A noise image; `width` and `height` are those of the pixels as stored."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def write_mask(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
    return path


def convert(name: str, raw: Path, out: Path, *options: str) -> dict:
    """Run the command line, which must succeed, with all images in train unless the options say otherwise.

    Returns:
        Image stem -> its image dict with the list `objects`: (class name, annotation dict).
    """
    assert main([name, str(raw), str(out), *(options or ('--fractions', '1', '0', '0'))]) == 0
    return read_output(out)


def read_output(out: Path) -> dict:
    result: dict = {}
    for path in sorted(out.glob('*.json')):
        coco = json.loads(path.read_text())
        names = {category['id']: category['name'] for category in coco['categories']}
        images = {
            image['id']: image | {'objects': [], 'split': path.stem} for image in coco['images']
        }
        for annotation in coco['annotations']:
            named = (names[annotation['category_id']], annotation)
            images[annotation['image_id']]['objects'].append(named)
        result |= {Path(image['file_name']).stem: image for image in images.values()}
    return result


def boxes(image: dict) -> list[tuple[str, list[float]]]:
    """(class name, [x, y, w, h]) of each object."""
    return [(name, annotation['bbox']) for name, annotation in image['objects']]


def report(out: Path) -> str:
    return (out / 'conversion_report.txt').read_text(encoding='utf-8')
