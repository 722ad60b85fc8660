"""Drawn portraits before varied backgrounds, with exact soft mattes and foreground colours: to try out and to test.

No threshold parts person and background: the things in the background have the colours of the person, too. Every
picture has a random generator of its own, made from (seed, split, index), as those of generator.py.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.utils import ProgressBar
from numpy.typing import NDArray

from mmext.datasets.synthetic.figures import draw_figure
from mmext.datasets.synthetic.generator import SPLITS, check_numbers, clear_earlier
from mmext.datasets.synthetic.shapes import Shape, log_uniform
from mmext.datasets.transforms.composite import composite, gradient, noise, plain

FOLDERS = ('images', 'alpha', 'foreground')


class Portrait(NamedTuple):
    """One picture and its truth: image = alpha * foreground + (1 - alpha) * background, rounded.

    Attributes:
        image: (h, w, 3) uint8 BGR.
        alpha: (h, w) uint8, 255 = foreground.
        foreground: (h, w, 3) uint8 BGR, straight colours.
    """

    image: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    foreground: NDArray[np.uint8]


def generate_portrait(rng: np.random.Generator, shape: Shape) -> Portrait:
    """Generate one portrait of shape (h, w)."""
    figure = draw_figure(rng, shape)
    background = draw_background(rng, shape, figure.palette)
    weights = figure.alpha.astype(np.float32) / np.float32(255)
    image = composite(figure.colours, background, weights)
    return Portrait(image, figure.alpha, figure.colours)


def draw_background(
    rng: np.random.Generator, shape: Shape, palette: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Draw a surface with up to 15 things on it, from sharp to far out of focus.

    Args:
        rng: The source of randomness.
        shape: (h, w).
        palette: (n, 3) BGR, colours of the person, which half of the things have.

    Returns:
        (h, w, 3) BGR.
    """
    makers = (plain, gradient, noise, noise)
    image = makers[rng.integers(len(makers))](rng, shape)
    for _ in range(int(rng.integers(0, 16))):
        colour = rng.integers(0, 256, 3)
        if rng.random() < 0.5:
            colour = palette[rng.integers(len(palette))] * rng.uniform(0.85, 1.15)
        _draw_thing(rng, image, np.clip(colour, 0, 255).tolist())
    if rng.random() < 0.7:
        sigma = log_uniform(rng, 0.5, 8) * min(shape) / 256
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)
    grain = rng.normal(0, rng.uniform(0, 6), shape).astype(np.float32)
    return (image + grain[..., None]).clip(0, 255).astype(np.uint8)


def write_portraits(
    out: Path,
    *,
    num_images: dict[str, int],
    size: int = 256,
    seed: int = 0,
    overwrite: bool = False,
) -> list[str]:
    """Write OUT/images, OUT/alpha, OUT/foreground (PNG files of the same names) and OUT/{train,val}.txt.

    `mmext.MatteDataset` reads it. Pictures are upright, the short side 3/4 of the long one or more.

    Args:
        out: The folder; made if missing.
        num_images: Of each split, keys 'train' and 'val'; 0 is allowed.
        size: The long side of the pictures in pixels.
        seed: Not negative.
        overwrite: Whether an earlier data set in OUT is replaced.

    Returns:
        A line of text a split.

    Raises:
        ValueError: A number is out of range, or OUT holds files and may not be overwritten.
    """
    check_numbers(num_images, size, seed)
    own = [f'{folder}/{split}_*.png' for folder in FOLDERS for split in SPLITS]
    clear_earlier(out, overwrite, [*(f'{split}.txt' for split in SPLITS), *own])
    for folder in FOLDERS:
        (out / folder).mkdir(parents=True, exist_ok=True)
    bar = ProgressBar(sum(num_images.values()))
    for split_index, split in enumerate(SPLITS):
        names = [f'{split}_{index:05d}.png' for index in range(num_images[split])]
        for index, name in enumerate(names):
            rng = np.random.default_rng([seed, split_index, index])
            portrait = generate_portrait(rng, (size, round(size * rng.uniform(0.75, 1))))
            planes = (portrait.image, portrait.alpha, portrait.foreground)
            for folder, plane in zip(FOLDERS, planes, strict=True):
                if not cv2.imwrite(str(out / folder / name), plane):
                    raise OSError(f'could not write {out / folder / name}')
            bar.update()
        (out / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names), encoding='utf-8')
    return [f'{split:5s} {count} images' for split, count in num_images.items()]


def _draw_thing(rng: np.random.Generator, image: NDArray[np.uint8], colour: list[float]) -> None:
    """Draw a disc, a box or a pole, changing the image in place."""
    height, width = image.shape[:2]
    x, y = int(rng.integers(width)), int(rng.integers(height))
    size = log_uniform(rng, 0.02, 0.25) * min(height, width)
    turn, axes = rng.uniform(0, 360), (int(size) + 1, int(size * rng.uniform(0.3, 1)) + 1)
    kind = rng.integers(3)
    if kind == 0:
        cv2.ellipse(image, (x, y), axes, turn, 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 1:
        corners = cv2.boxPoints(((x, y), axes, turn)).round().astype(np.int32)
        cv2.fillPoly(image, [corners], colour, cv2.LINE_AA)
    else:
        lean = int(rng.normal(0, 0.1) * width)
        cv2.line(image, (x - lean, 0), (x + lean, height), colour, axes[1], cv2.LINE_AA)
