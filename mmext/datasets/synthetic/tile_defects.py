"""Defects of ground magnetic tiles, after the public magnetic-tile photos.

Each function draws one defect and returns the image and the exact mask, which lies inside the tile.
"""

import cv2
import numpy as np

from mmext.datasets.synthetic.metal_defects import Drawing
from mmext.datasets.synthetic.shapes import (
    Point,
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
from mmext.datasets.synthetic.surfaces import Surface


def draw_blowhole(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a pit of gas: small, dark, soft, sometimes with a bright rim."""
    shape, unit = surface.shape, surface.unit
    radius = log_uniform(rng, 3.2, 9) * unit
    radii = (radius, radius * rng.uniform(0.5, 1.0))
    center, angle = random_point(rng, shape, 0.03), rng.uniform(-0.6, 0.6)
    distance = blob(rng, shape, center, radii, angle=angle, roughness=0.1, num_waves=4)
    ring = coverage(distance + 1.5 * unit, 2) - coverage(distance, 2)
    image = darken(surface.image, ring, rng.uniform(0.85, 1.35))
    image = darken(image, coverage(distance, 2), rng.uniform(0.3, 0.72))
    return image, (distance > -0.5) & surface.body


def draw_break(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a chip broken off the tile's edge: rough, mostly darker, jagged."""
    shape, unit = surface.shape, surface.unit
    center = _edge_point(rng, surface)
    radii = (log_uniform(rng, 5, 70) * unit, log_uniform(rng, 5, 35) * unit)
    angle = rng.uniform(0, np.pi)
    distance = blob(rng, shape, center, radii, angle=angle, roughness=0.16, num_waves=7)
    jagged = smooth_noise(rng, shape, 4 * unit) + smooth_noise(rng, shape, 10 * unit)
    distance = distance + rng.uniform(0.4, 1.6) * unit * jagged
    rough = 0.15 * smooth_noise(rng, shape, 8 * unit) + 0.1 * smooth_noise(rng, shape, 1.5)
    level = rng.uniform(0.3, 0.85) * float(surface.image[surface.body].mean())
    broken = np.repeat((level * np.maximum(1 + rough, 0.2))[..., None], 3, axis=2)
    inside = coverage(distance, 1.5) * surface.body
    # The ridge of the break casts a thin shadow.
    image = darken(surface.image, np.exp(-((distance / (1.5 * unit)) ** 2)) * surface.body, 0.75)
    return image + inside[..., None] * (broken - image), (distance > 0) & surface.body


def draw_crack(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a thin dark line, mostly with the grinding direction and mostly from an edge."""
    shape, unit = surface.shape, surface.unit
    angle = surface.grain + rng.choice([0, np.pi]) + rng.normal(0, 0.35)
    if rng.random() < 0.25:
        angle = rng.uniform(0, 2 * np.pi)
    start = _edge_point(rng, surface) if rng.random() < 0.6 else random_point(rng, shape)
    # From an edge, go inwards.
    inwards = np.array([shape[1] / 2, shape[0] / 2]) - start
    if np.dot(inwards, (np.cos(angle), np.sin(angle))) < 0:
        angle += np.pi
    length = log_uniform(rng, 22, 180) * unit
    path = wandering_path(rng, start, angle, length, step=5 * unit, wander=0.25)
    width = rng.uniform(1.0, 2.8) * unit
    widths = width * np.linspace(1, 0.5, len(path))
    fading = np.clip(0.8 + 0.3 * smooth_noise(rng, shape, 12 * unit), 0.25, 1)
    line = cv2.GaussianBlur(stroke(shape, path, widths), (0, 0), 0.6)
    image = darken(surface.image, np.minimum(1.5 * line, 1) * fading, rng.uniform(0.2, 0.6))
    # People mark cracks with some room on both sides, and so do the masks of the real tiles.
    marked = stroke(shape, path, widths + 2 * unit)
    return image, (marked > 0.5) & surface.body


def draw_fray(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a worn patch: the grinding lines are gone, the surface dull or rough."""
    shape, unit = surface.shape, surface.unit
    if rng.random() < 0.6:  # A large drop-shaped patch.
        center, low, high = random_point(rng, shape, 0.3), 28, 110
    else:  # A small one on the rim.
        center, low, high = _edge_point(rng, surface), 8, 30
    radii = (log_uniform(rng, low, high) * unit, log_uniform(rng, 0.5 * low, 0.6 * high) * unit)
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.15)
    distance = blob(rng, shape, center, radii, angle=angle, roughness=0.08, num_waves=3)
    distance = distance + unit * smooth_noise(rng, shape, 9 * unit)
    dull = cv2.GaussianBlur(surface.image, (0, 0), 9 * unit) * rng.uniform(0.62, 0.9)
    grain = 0.05 * smooth_noise(rng, shape, 1.3) + 0.05 * smooth_noise(rng, shape, 9 * unit)
    sparkle = 0.6 * (smooth_noise(rng, shape, 1.8) > 2.2) * (rng.random() < 0.5)
    dull *= (1 + grain + sparkle * (distance < 6 * unit))[..., None]
    inside = coverage(distance, 2) * surface.body
    return surface.image + inside[..., None] * (dull - surface.image), (distance > 0) & surface.body


def draw_uneven(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw an area that was ground differently: other brightness, stronger or weaker lines."""
    shape, unit = surface.shape, surface.unit
    distance = _ground_area(rng, shape, unit)
    coarse = cv2.GaussianBlur(surface.image, (0, 0), 6 * unit)
    lines = surface.image - coarse
    brightness = 1 + rng.choice([-1, 1, 1]) * rng.uniform(0.06, 0.28)
    if rng.random() < 0.6:  # Ground more coarsely: bright streaks.
        shine = streak_noise(rng, shape, 1.4 * unit, 70 * unit, surface.grain)
        streaks = rng.uniform(0.05, 0.18) * np.maximum(shine, 0)
        other = coarse * (brightness + streaks[..., None]) + rng.uniform(1.0, 1.5) * lines
    else:  # Hardly ground.
        other = coarse * brightness + rng.uniform(0.3, 0.7) * lines
    inside = coverage(distance, rng.uniform(1.5, 8) * unit) * surface.body
    image = surface.image + inside[..., None] * (other - surface.image)
    return image, (distance > 0) & surface.body


def _ground_area(rng: np.random.Generator, shape: tuple[int, int], unit: float) -> np.ndarray:
    """Signed distance of an end of the tile, a band across it, or a corner."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wave = 2.5 * unit * smooth_noise(rng, shape, 60 * unit)
    tilt = rng.normal(0, 0.06)
    line = y - height / 2 + tilt * (x - width / 2) + wave
    kind = rng.random()
    if kind < 0.6:  # One end.
        offset = rng.uniform(-0.35, 0.35) * height
        return (line - offset) * rng.choice([-1, 1])
    if kind < 0.85:  # A band.
        half, offset = rng.uniform(0.06, 0.25) * height, rng.uniform(-0.3, 0.3) * height
        return half - np.abs(line - offset)
    corner = rng.choice([0, width]), rng.choice([0, height])
    reach = rng.uniform(0.35, 0.8) * min(shape)
    angle = np.arctan2(height / 2 - corner[1], width / 2 - corner[0]) + rng.normal(0, 0.3)
    inwards = (x - corner[0]) * np.cos(angle) + (y - corner[1]) * np.sin(angle)
    return (reach - inwards + wave).astype(np.float32)


def _edge_point(rng: np.random.Generator, surface: Surface) -> Point:
    """Draw a point on the tile's outline."""
    body = surface.body.astype(np.uint8)
    contours, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=len)[:, 0]
    x, y = outline[rng.integers(len(outline))].tolist()
    return x + 0.5, y + 0.5
