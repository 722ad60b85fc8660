"""Sound surfaces: texture, lighting and marks that are no defects.

Lighting varies more over a surface than most defects do against their surroundings, and every
surface carries lines, spots and shadows of the same strength as defects, so that no threshold
finds the defects.
"""

from typing import NamedTuple

import cv2
import numpy as np

from mmext.datasets.synthetic.shapes import (
    Shape,
    blob,
    coverage,
    darken,
    log_uniform,
    random_point,
    smooth_noise,
    streak_noise,
    stroke,
    wandering_path,
)


class Surface(NamedTuple):
    """A sound surface.

    Attributes:
        image: (h, w, 3) float32 BGR in [0, 255], before sensor noise.
        body: (h, w) bool, where the part is; the rest is background.
        grain: Direction of the machining lines against the x axis, radians.
        defect_scale: Length of its defects relative to their usual one.
    """

    image: np.ndarray
    body: np.ndarray
    grain: float
    defect_scale: float = 1.0

    @property
    def shape(self) -> Shape:
        """(h, w)."""
        return self.body.shape[0], self.body.shape[1]

    @property
    def unit(self) -> float:
        """Size of one pixel of a 256-pixel image, scaled; lengths of defects are multiples of it."""
        return self.defect_scale * float(np.sqrt(self.body.size)) / 256


def brushed_metal(rng: np.random.Generator, shape: Shape) -> Surface:
    """Make a brushed metal sheet that fills the image.

    Args:
        rng: The source of randomness.
        shape: (h, w).
    """
    unit = np.sqrt(shape[0] * shape[1]) / 256
    grain = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.12)
    level = rng.uniform(80, 175)
    strength = rng.uniform(0.03, 0.09)
    texture = streak_noise(rng, shape, 1.0, 60 * unit, grain)
    texture += 0.7 * streak_noise(rng, shape, 2.5 * unit, 160 * unit, grain)
    texture += 0.5 * smooth_noise(rng, shape, 1.5)
    value = level * (1 + strength * texture) * _lighting(rng, shape)
    tint = 1 + rng.normal(0, 0.025, 3)
    image = (value[..., None] * tint).astype(np.float32)
    body = np.ones(shape, dtype=bool)
    return _with_marks(rng, Surface(image, body, grain), num_lines=(2, 7), num_specks=(5, 30))


def magnetic_tile(rng: np.random.Generator, shape: Shape) -> Surface:
    """Make a ground magnetic tile: grey, vertical grinding lines, often with edges in view.

    Args:
        rng: The source of randomness.
        shape: (h, w).
    """
    unit = np.sqrt(shape[0] * shape[1]) / 256
    level = rng.uniform(55, 165)
    grain = np.pi / 2 + rng.normal(0, 0.01)
    texture = 0.7 * streak_noise(rng, shape, 1.0, 120 * unit, grain)
    texture += 0.6 * streak_noise(rng, shape, 5 * unit, 500 * unit, grain)
    # Few grinding lines shine: only the upper tail is added again.
    shine = streak_noise(rng, shape, 1.1, 200 * unit, grain)
    texture += rng.uniform(0.8, 3.0) * np.maximum(shine - 1.3, 0)
    texture += rng.uniform(0.5, 0.9) * rng.standard_normal(shape, dtype=np.float32)
    value = level * (1 + rng.uniform(0.05, 0.1) * texture)
    value *= _tile_lighting(rng, shape)
    body = _tile_body(rng, shape, unit)
    value = np.where(body, value, rng.uniform(12, 35) + 3 * smooth_noise(rng, shape, 4))
    edge = cv2.GaussianBlur(body.astype(np.float32), (0, 0), 1.5 * unit)
    # A bevel: the rim of the tile is brighter or darker than its face.
    value *= 1 + rng.uniform(-0.5, 0.7) * body * (1 - edge)
    image = np.repeat(value[..., None], 3, axis=2).astype(np.float32)
    return _with_marks(rng, Surface(image, body, grain), num_lines=(0, 3), num_specks=(2, 14))


def expose(rng: np.random.Generator, image: np.ndarray, *, grey: bool) -> np.ndarray:
    """Photograph a surface: defocus, shot and read-out noise, 8 bits.

    Args:
        rng: The source of randomness.
        image: (h, w, 3) float32.
        grey: Whether the sensor sees no colour; then the three channels are equal.

    Returns:
        (h, w, 3) uint8.
    """
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.75))
    shape = image.shape[:2] if grey else image.shape
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise = noise[..., None] if grey else noise
    image = image + noise * (rng.uniform(1, 3) + rng.uniform(0.1, 0.3) * np.sqrt(np.abs(image)))
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _lighting(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """A gradient over the sheet, clouds, and one or two highlights."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    y, x = y / shape[0] - 0.5, x / shape[1] - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0.1, 0.6) * (x * np.cos(angle) + y * np.sin(angle))
    light += rng.uniform(0.02, 0.1) * smooth_noise(rng, shape, max(shape) / 3)
    for _ in range(rng.integers(0, 3)):
        center = rng.uniform(-0.5, 0.5, 2)
        angle, (long, short) = rng.uniform(0, np.pi), rng.uniform((0.2, 0.04), (0.8, 0.15))
        u = (x - center[0]) * np.cos(angle) + (y - center[1]) * np.sin(angle)
        v = (y - center[1]) * np.cos(angle) - (x - center[0]) * np.sin(angle)
        light += rng.uniform(0.1, 0.45) * np.exp(-((u / long) ** 2) - (v / short) ** 2)
    return light


def _tile_lighting(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Tiles are curved: bright along a vertical band, dark towards the sides, blotchy."""
    x = np.arange(shape[1], dtype=np.float32)[None] / shape[1] - rng.uniform(0.2, 0.8)
    light = 1 - rng.uniform(0.2, 1.6) * x**2
    long = max(shape)
    light = light + rng.uniform(0.02, 0.14) * smooth_noise(rng, shape, long / 2.5)
    light = light + rng.uniform(0.02, 0.1) * smooth_noise(rng, shape, (long / 9, 2 * long))
    return np.maximum(light + 0.02 * smooth_noise(rng, shape, long / 12), 0.15)


def _tile_body(rng: np.random.Generator, shape: Shape, unit: float) -> np.ndarray:
    """Cut the tile's outline: each end may show background behind a slightly curved edge."""
    height, width = shape
    x = np.arange(width, dtype=np.float32)[None] / width - rng.uniform(0.3, 0.7)
    y = np.arange(height, dtype=np.float32)[:, None]
    body = np.ones(shape, dtype=bool)
    for flip in (False, True):
        if rng.random() < 0.5:
            inset = rng.uniform(0, 12) * unit
            edge = inset + rng.uniform(-4, 14) * unit * 4 * x**2 + rng.normal(0, 6) * unit * x
            body &= (height - 1 - y if flip else y) >= edge
    for flip in (False, True):
        if rng.random() < 0.25:
            edge = rng.uniform(1, 10) * unit + rng.normal(0, 4) * unit * (y / height - 0.5)
            column = np.arange(width, dtype=np.float32)[None]
            body &= (width - 1 - column if flip else column) >= edge
    return body


def _with_marks(
    rng: np.random.Generator,
    surface: Surface,
    num_lines: tuple[int, int],
    num_specks: tuple[int, int],
) -> Surface:
    """Add machining lines, specks and smudges: as strong as defects, and none."""
    image, shape, unit = surface.image, surface.shape, surface.unit
    for _ in range(rng.integers(*num_lines)):  # Along the grain, from border to border.
        x, y = random_point(rng, shape, 0)
        reach = float(np.hypot(*shape)) * np.array([np.cos(surface.grain), np.sin(surface.grain)])
        line = stroke(shape, np.stack([(x, y) - reach, (x, y) + reach]), rng.uniform(0.5, 1.6))
        image = darken(image, line, rng.choice([rng.uniform(0.6, 0.9), rng.uniform(1.1, 1.4)]))
    for _ in range(rng.integers(0, 4)):  # Smudges: soft shadows and shines without an outline.
        radii = (log_uniform(rng, 6, 50) * unit, log_uniform(rng, 6, 50) * unit)
        smudge = blob(rng, shape, random_point(rng, shape, 0), radii, angle=rng.uniform(0, np.pi))
        factor = rng.uniform(0.75, 1.2)
        image = darken(image, coverage(smudge, 1.2 * min(radii)), factor)
    specks = np.zeros(shape, np.float32)
    for _ in range(rng.integers(*num_specks)):
        x, y = (int(v) for v in random_point(rng, shape, 0.01))
        specks[y, x] = rng.uniform(0.5, 2.5)
    image = darken(image, cv2.GaussianBlur(specks, (0, 0), 0.7), rng.uniform(0.2, 0.6))
    if rng.random() < 0.35:  # A faint pencil line or handling mark.
        path = wandering_path(
            rng,
            random_point(rng, shape),
            rng.uniform(0, 2 * np.pi),
            rng.uniform(15, 60) * unit,
            step=4 * unit,
            wander=0.5,
        )
        image = darken(image, cv2.GaussianBlur(stroke(shape, path, 2.0), (0, 0), 1.5 * unit), 0.8)
    return surface._replace(image=image)
