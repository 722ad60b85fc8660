"""Defects of brushed metal: each function draws one and returns the image and its exact mask.

The mask holds every pixel that the defect changes visibly: a hole with its rim, a dent with its
whole slope.
"""

import cv2
import numpy as np

from mmext.datasets.synthetic.shapes import (
    arc_path,
    blob,
    coverage,
    darken,
    directional_slope,
    log_uniform,
    random_point,
    smooth_noise,
    stroke,
    wandering_path,
)
from mmext.datasets.synthetic.surfaces import Surface

Drawing = tuple[np.ndarray, np.ndarray]


def draw_deformation(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a dent or a bulge: only shading and a bent texture show it."""
    shape, unit = surface.shape, surface.unit
    radius = log_uniform(rng, 9, 34) * unit
    radii = (radius, radius * rng.uniform(0.55, 1.0))
    center, angle = random_point(rng, shape), rng.uniform(0, np.pi)
    distance = blob(rng, shape, center, radii, angle=angle, roughness=0.06, num_waves=3)
    depth = np.clip(distance / (0.8 * min(radii)), 0, 1)
    # Flat at the outline and at the bottom; the blur takes away the ridges of the distance field.
    height = cv2.GaussianBlur(depth**2 * (3 - 2 * depth), (0, 0), 0.15 * min(radii))
    slope = directional_slope(height, rng.uniform(0, 2 * np.pi))
    # The texture is seen through the slope: it moves by up to two pixels.
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    image = cv2.remap(surface.image, x + 2 * unit * slope, y + unit * slope, cv2.INTER_LINEAR)
    shading = 1 + rng.choice([-1, 1]) * rng.uniform(0.2, 0.5) * slope
    return image * shading[..., None], distance > 0


def draw_fracture(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a crack with branches, or an edge that has chipped off."""
    return _chipped_edge(rng, surface) if rng.random() < 0.35 else _crack(rng, surface)


def _crack(rng: np.random.Generator, surface: Surface) -> Drawing:
    shape, unit = surface.shape, surface.unit
    angle, length = rng.uniform(0, 2 * np.pi), log_uniform(rng, 35, 140) * unit
    width = rng.uniform(1.6, 3.6) * unit
    path = wandering_path(rng, random_point(rng, shape), angle, length, step=5 * unit, wander=0.55)
    opacity = stroke(shape, path, width * np.linspace(1, 0.45, len(path)))
    for _ in range(rng.integers(0, 3)):
        start = path[rng.integers(len(path))]
        turn = angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1.1)
        reach = length * rng.uniform(0.15, 0.4)
        branch = wandering_path(rng, start, turn, reach, step=4 * unit, wander=0.5)
        branch_widths = 0.6 * width * np.linspace(1, 0.5, len(branch))
        opacity = np.maximum(opacity, stroke(shape, branch, branch_widths))
    image = _lit_edge(surface.image, opacity, rng.uniform(0.05, 0.3))
    return darken(image, opacity, rng.uniform(0.3, 0.75)), opacity > 0.4


def _chipped_edge(rng: np.random.Generator, surface: Surface) -> Drawing:
    shape, unit = surface.shape, surface.unit
    height, width = shape
    along = rng.uniform(0.05, 0.95)
    centers = [
        (along * width, 0),
        (along * width, height),
        (0, along * height),
        (width, along * height),
    ]
    radii = (log_uniform(rng, 8, 32) * unit, log_uniform(rng, 8, 24) * unit)
    center = centers[rng.integers(4)]
    distance = blob(rng, shape, center, radii, roughness=0.15, num_waves=8)
    distance = distance + 1.5 * unit * smooth_noise(rng, shape, 4 * unit)
    opacity = coverage(distance)
    facets = np.abs(smooth_noise(rng, shape, 5 * unit)) * rng.uniform(0.1, 0.3)
    broken = surface.image * (rng.uniform(0.4, 0.8) + facets)[..., None]
    image = _lit_edge(surface.image, opacity, rng.uniform(0.1, 0.35))
    return image + opacity[..., None] * (broken - image), distance > 0


def draw_scratch(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a long thin scratch across the grain, light or dark, fading along its way."""
    shape, unit = surface.shape, surface.unit
    # Machining lines follow the grain, scratches do not: this is what tells them apart.
    angle = surface.grain + rng.choice([-1, 1]) * rng.uniform(0.25, np.pi / 2)
    length, bend = log_uniform(rng, 45, 190) * unit, rng.normal(0, 0.25)
    x, y = random_point(rng, shape)
    start = (x - np.cos(angle) * length / 2, y - np.sin(angle) * length / 2)
    path = arc_path(start, angle, length, bend)
    width = rng.uniform(1.2, 2.6) * unit
    taper = np.minimum(np.linspace(0.3, 3, len(path)), np.linspace(3, 0.3, len(path)))
    widths = width * np.minimum(taper, 1)
    opacity = stroke(shape, path, widths)
    if rng.random() < 0.3:
        offset = rng.uniform(2.5, 4) * unit * np.array([-np.sin(angle), np.cos(angle)])
        opacity = np.maximum(opacity, stroke(shape, path + offset, 0.8 * widths))
    fading = np.clip(0.85 + 0.3 * smooth_noise(rng, shape, 14 * unit), 0.3, 1)
    factor = rng.uniform(1.2, 1.6) if rng.random() < 0.6 else rng.uniform(0.5, 0.8)
    return darken(surface.image, opacity * fading, factor), opacity > 0.35


def draw_perforation(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a round hole with a rim that is lit on one side and in shadow on the other."""
    shape, unit = surface.shape, surface.unit
    radius = log_uniform(rng, 3.5, 15) * unit
    radii = (radius, radius * rng.uniform(0.8, 1.0))
    angle = rng.uniform(0, np.pi)
    center = random_point(rng, shape)
    distance = blob(rng, shape, center, radii, angle=angle, roughness=0.03, num_waves=2)
    rim = rng.uniform(1.0, 2.5) * unit
    light = rng.uniform(0, 2 * np.pi)
    slope = directional_slope(np.clip(distance, -rim, rim), light)
    ring = coverage(distance + rim) - coverage(distance)
    image = surface.image * (1 + rng.uniform(0.2, 0.5) * ring * slope)[..., None]
    # A little light falls onto the far wall of the hole.
    wall = np.clip(directional_slope(np.clip(distance, 0, radius), light + np.pi), 0, 1)
    depth = rng.uniform(0.2, 0.7)
    inside = darken(image, np.ones(shape, np.float32), depth) * (1 + 0.5 * wall)[..., None]
    return image + coverage(distance)[..., None] * (inside - image), distance > -0.5 * rim


def draw_contamination(rng: np.random.Generator, surface: Surface) -> Drawing:
    """Draw a translucent stain with blotchy edges, or a particle that lies on the surface."""
    return _particle(rng, surface) if rng.random() < 0.3 else _stain(rng, surface)


def _stain(rng: np.random.Generator, surface: Surface) -> Drawing:
    shape, unit = surface.shape, surface.unit
    radius = log_uniform(rng, 9, 38) * unit
    radii = (radius, radius * rng.uniform(0.5, 1.0))
    center, angle = random_point(rng, shape), rng.uniform(0, np.pi)
    distance = blob(rng, shape, center, radii, angle=angle, roughness=0.12, num_waves=4)
    blotches = smooth_noise(rng, shape, 0.35 * radius) + 0.4 * smooth_noise(rng, shape, 3 * unit)
    distance = distance + 0.16 * radius * blotches
    # Rust, oil, dried coolant: BGR factors.
    tints = ((0.55, 0.75, 0.92), (0.72, 0.7, 0.66), (1.25, 1.22, 1.2), (0.6, 0.62, 0.66))
    tint = np.array(tints[rng.integers(len(tints))])
    strength = rng.uniform(0.45, 1.0)
    # Stains are often darker where they dried last, at the outline.
    opacity = coverage(distance, 2 * unit) * (0.7 + 0.3 * np.exp(-np.abs(distance) / (2 * unit)))
    return darken(surface.image, opacity, 1 + strength * (tint - 1)), _main_parts(distance > 0)


def _particle(rng: np.random.Generator, surface: Surface) -> Drawing:
    shape, unit = surface.shape, surface.unit
    radii = (log_uniform(rng, 3, 9) * unit, log_uniform(rng, 2.5, 6) * unit)
    angle = rng.uniform(0, np.pi)
    distance = blob(
        rng, shape, random_point(rng, shape), radii, angle=angle, roughness=0.15, num_waves=5
    )
    relief = directional_slope(np.clip(distance, 0, None), rng.uniform(0, 2 * np.pi))
    # Soot, dust and rust flakes: dark or bright, at most a little brown.
    level = rng.uniform(0.4, 0.8) if rng.random() < 0.7 else rng.uniform(1.3, 1.7)
    color = level * np.array((1 - rng.uniform(0, 0.25), 1 - rng.uniform(0, 0.08), 1.0))
    image = darken(surface.image, coverage(distance), color)
    return image * (1 + 0.25 * coverage(distance) * relief)[..., None], distance > 0


def _lit_edge(image: np.ndarray, opacity: np.ndarray, strength: float) -> np.ndarray:
    """Brighten the lower right flank of a break, where light from the upper left falls."""
    shifted = np.roll(opacity, (1, 1), axis=(0, 1))
    shifted[0], shifted[:, 0] = 0, 0
    return darken(image, np.clip(shifted - opacity, 0, 1), 1 + strength)


def _main_parts(mask: np.ndarray) -> np.ndarray:
    """Drop splinters below a tenth of the largest connected part."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    return (areas >= max(0.1 * areas.max(), 1))[labels]
