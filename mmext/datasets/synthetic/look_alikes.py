"""Defects of brushed metal in pairs that look alike: a mark on the surface, and a damage of the same outline in it.

Both of a pair are drawn by one function with the same distributions of length, width and contrast. What tells them apart
is the same in all pairs: what lies on the surface has one tone, what is cut or pressed into it has a rim in shadow on one
side and a lit one on the other. The light comes from anywhere.
"""

from collections.abc import Callable

import cv2
import numpy as np

from mmext.datasets.synthetic.metal_defects import Drawing
from mmext.datasets.synthetic.shapes import (
    blob,
    coverage,
    directional_slope,
    log_uniform,
    random_point,
    stroke,
    wandering_path,
)
from mmext.datasets.synthetic.surfaces import Surface

# Mean change of brightness inside a defect, as a share of the brightness.
_CONTRASTS = (0.16, 0.4)
# How many marks are darker than the surface.
_DARK_SHARE = 0.7
# Of the relief against the tone, before both are scaled to the contrast; larger is easier.
_RELIEF = 0.6

Outline = Callable[[np.random.Generator, Surface], tuple[np.ndarray, float]]


def draw_scratch_mark(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a thin line on the surface."""
    return _draw(rng, surface, _line, is_sunken=False)


def draw_hairline_fracture(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a thin line cut into the surface."""
    return _draw(rng, surface, _line, is_sunken=True)


def draw_flat_stain(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a rounded patch on the surface."""
    return _draw(rng, surface, _patch, is_sunken=False)


def draw_shallow_dent(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a rounded patch pressed into the surface."""
    return _draw(rng, surface, _patch, is_sunken=True)


def draw_speck(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a round dot on the surface."""
    return _draw(rng, surface, _dot, is_sunken=False)


def draw_pore(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a round dot sunk into the surface."""
    return _draw(rng, surface, _dot, is_sunken=True)


def _draw(
    rng: np.random.Generator, surface: Surface, outline: Outline, *, is_sunken: bool
) -> Drawing:
    """Draw an outline with a mean change inside it that does not depend on `is_sunken`."""
    opacity, light = outline(rng, surface)
    contrast = log_uniform(rng, *_CONTRASTS)
    change = opacity if rng.random() >= _DARK_SHARE else -opacity
    if is_sunken:
        flanks = cv2.GaussianBlur(opacity, (0, 0), max(surface.unit, 0.5))
        change = (1 - _RELIEF) * change + _RELIEF * directional_slope(flanks, light)
    mask = opacity > 0.4
    strength = float(np.abs(change[mask]).mean()) if mask.any() else 1.0
    change = np.clip(change * contrast / strength, -0.9, 1.5)
    return surface.image * (1 + change[..., None]), mask


def _line(rng: np.random.Generator, surface: Surface) -> tuple[np.ndarray, float]:
    """Opacity (h, w) in [0, 1] of an almost straight line, and a direction across it for the light, radians."""
    shape, unit = surface.shape, surface.unit
    angle, length = rng.uniform(0, 2 * np.pi), log_uniform(rng, 35, 130) * unit
    width = rng.uniform(2.2, 4.2) * unit
    x, y = random_point(rng, shape)
    start = (x - np.cos(angle) * length / 2, y - np.sin(angle) * length / 2)
    path = wandering_path(rng, start, angle, length, step=6 * unit, wander=0.2)
    taper = np.minimum(np.linspace(0.5, 4, len(path)), np.linspace(4, 0.5, len(path)))
    across = angle + np.pi / 2 * rng.choice([-1, 1]) + rng.uniform(-0.6, 0.6)
    return stroke(shape, path, width * np.minimum(taper, 1)), across


def _patch(rng: np.random.Generator, surface: Surface) -> tuple[np.ndarray, float]:
    """As `_line`: a rounded patch, and any direction."""
    return _round(rng, surface, radius=log_uniform(rng, 9, 26), aspect=0.6, softness=3.0)


def _dot(rng: np.random.Generator, surface: Surface) -> tuple[np.ndarray, float]:
    """As `_line`: a round dot, and any direction."""
    return _round(rng, surface, radius=log_uniform(rng, 3.5, 7.5), aspect=0.85, softness=1.5)


def _round(
    rng: np.random.Generator, surface: Surface, *, radius: float, aspect: float, softness: float
) -> tuple[np.ndarray, float]:
    shape, unit = surface.shape, surface.unit
    radii = (radius * unit, radius * rng.uniform(aspect, 1.0) * unit)
    center, angle = random_point(rng, shape), rng.uniform(0, np.pi)
    distance = blob(rng, shape, center, radii, angle=angle, roughness=0.08, num_waves=4)
    return coverage(distance, softness * unit), rng.uniform(0, 2 * np.pi)
