"""A drawn person: head, shoulders, arms and hair with strands, as straight colours and an exact soft matte.

Frames as in shapes.py: images (h, w, 3) float32 BGR in [0, 255], opacities (h, w) float32 in [0, 1], lengths in
pixels; r is the radius of the head.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mmext.datasets.synthetic.shapes import (
    SUPERSAMPLING,
    Point,
    Shape,
    blob,
    coverage,
    smooth_noise,
)

Field = NDArray[np.float32]
# BGR of the lightest and the darkest skin; people lie between.
SKINS = np.array([[195, 215, 245], [35, 50, 80]], np.float32)
HAIRS = np.array(
    [[20, 18, 18], [30, 45, 70], [50, 85, 130], [120, 180, 215], [40, 60, 150], [190, 190, 190]],
    np.float32,
)
# Opacity below which a pixel counts as empty: half a step of 8 bits.
EMPTY = 0.5 / 255


class Figure(NamedTuple):
    """One person.

    Attributes:
        colours: (h, w, 3) uint8 BGR, straight: not mixed with any background. Where alpha is 0, the hair's colour.
        alpha: (h, w) uint8, 255 = opaque.
        palette: (3, 3) float32, the colours of skin, hair and clothes.
    """

    colours: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    palette: Field


class Pose(NamedTuple):
    """Where the person is.

    Attributes:
        head: Centre of the head.
        radius: r.
        tilt: Of the head, radians.
        softness: Width of the edges: of the lens, the same all around.
    """

    head: Point
    radius: float
    tilt: float
    softness: float


def draw_figure(rng: np.random.Generator, shape: Shape) -> Figure:
    """Draw one person into a picture of shape (h, w)."""
    height, width = shape
    radius = rng.uniform(0.09, 0.2) * min(shape)
    head = (width * rng.uniform(0.25, 0.75), height * rng.uniform(0.22, 0.5))
    pose = Pose(head, radius, rng.normal(0, 0.15), rng.uniform(1, 3) * min(shape) / 256)
    palette = _draw_palette(rng)
    skin, hair, clothes = (_textured(rng, shape, colour) for colour in palette)
    if rng.random() < 0.4:
        clothes = _striped(rng, clothes)
    # From the back to the front.
    layers = [
        (hair, _hair_mass(rng, shape, pose)),
        (hair, draw_strands(rng, shape, pose)),
        (skin, _limb(shape, head, (head[0], head[1] + 1.7 * radius), 0.45 * radius, pose)),
        (clothes, _torso(rng, shape, pose)),
        *((clothes, arm) for arm in _arms(rng, shape, pose)),
        (skin, _head(rng, shape, pose)),
        *((colour, part) for colour, part in _face(rng, shape, pose)),
        (hair, _fringe(rng, shape, pose)),
    ]
    return _flatten(layers, palette)


def draw_strands(rng: np.random.Generator, shape: Shape, pose: Pose) -> Field:
    """Draw 20 to 150 single hairs that stand out from the head; finer than a pixel and partly transparent."""
    large = np.zeros((shape[0] * SUPERSAMPLING, shape[1] * SUPERSAMPLING), np.uint8)
    r, steps = pose.radius, np.linspace(0, 1, 12)
    for _ in range(int(rng.integers(20, 150))):
        angle = rng.uniform(-1.1, 1.1) * np.pi / 2 - np.pi / 2 + pose.tilt
        length, bend = r * rng.uniform(0.3, 1.3), rng.normal(0, 1.0)
        directions = angle + bend * steps
        moves = np.stack([np.cos(directions), np.sin(directions)], axis=1) * length / len(steps)
        start = np.array(pose.head) + 0.9 * r * np.array([np.cos(angle), np.sin(angle)])
        points = (start + moves.cumsum(axis=0)) * SUPERSAMPLING
        opacity, thickness = int(rng.integers(90, 256)), int(rng.integers(1, 4))
        # Over each other, the denser one shows.
        cv2.polylines(
            large, [points.round().astype(np.int32)], False, opacity, thickness, cv2.LINE_AA
        )
    small = cv2.resize(large, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    blurred = cv2.GaussianBlur(small, (0, 0), max(0.3 * pose.softness, 0.3))
    return np.asarray(blurred, np.float32)


def _draw_palette(rng: np.random.Generator) -> Field:
    """(3, 3) colours of skin, hair and clothes."""
    share = rng.random()
    skin = SKINS[0] * (1 - share) + SKINS[1] * share
    hair = HAIRS[rng.integers(len(HAIRS))] * rng.uniform(0.8, 1.2)
    clothes = rng.integers(10, 245, 3)
    return np.stack([skin, hair, clothes]).clip(0, 255).astype(np.float32)


def _textured(rng: np.random.Generator, shape: Shape, colour: Field) -> Field:
    """A surface of one colour under uneven light, with grain."""
    light = 1 + 0.15 * smooth_noise(rng, shape, 0.4 * min(shape))
    grain = 1 + rng.uniform(0.01, 0.08) * smooth_noise(rng, shape, rng.uniform(1.5, 4))
    return (colour * (light * grain)[..., None]).clip(0, 255).astype(np.float32)


def _striped(rng: np.random.Generator, surface: Field) -> Field:
    """Stripes of a second colour in any direction."""
    height, width = surface.shape[:2]
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.03, 0.12) * width
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * np.float32(2 * np.pi / period))
    share = coverage(wave * 3)[..., None].astype(np.float32)
    second = rng.integers(10, 245, 3).astype(np.float32)
    return surface * (1 - share) + second * share


def _head(rng: np.random.Generator, shape: Shape, pose: Pose) -> Field:
    radii = pose.radius * rng.uniform(0.75, 0.9), pose.radius
    distance = blob(rng, shape, pose.head, radii, angle=pose.tilt, roughness=0.02)
    return coverage(distance, pose.softness)


def _hair_mass(rng: np.random.Generator, shape: Shape, pose: Pose) -> Field:
    """Hair behind the head: from close-cropped to long."""
    r, down = pose.radius, rng.choice([-0.15, 0.3, 1.0])
    centre = (pose.head[0], pose.head[1] + down * r)
    radii = r * rng.uniform(0.95, 1.3), r * (1.05 + max(down, 0))
    distance = blob(
        rng, shape, centre, radii, angle=pose.tilt, roughness=rng.uniform(0.02, 0.1), num_waves=16
    )
    return coverage(distance, pose.softness * rng.uniform(1, 5))


def _fringe(rng: np.random.Generator, shape: Shape, pose: Pose) -> Field:
    """Hair over the forehead; nothing for a bald head."""
    if rng.random() < 0.15:
        return np.zeros(shape, np.float32)
    r, drop = pose.radius, rng.uniform(0.5, 0.75)
    centre = (pose.head[0] + 0.2 * r * rng.normal(), pose.head[1] - drop * r)
    distance = blob(rng, shape, centre, (0.8 * r, 0.5 * r), angle=pose.tilt, roughness=0.12)
    return coverage(distance, 2 * pose.softness)


def _torso(rng: np.random.Generator, shape: Shape, pose: Pose) -> Field:
    """Shoulders and body, down to the bottom of the picture."""
    r, top = pose.radius, pose.head[1] + rng.uniform(1.2, 1.5) * pose.radius
    reach = max(shape[0] - top, r) * 1.3
    centre = (pose.head[0] + 0.15 * r * rng.normal(), top + reach)
    radii = (r * rng.uniform(1.7, 2.5), reach)
    return coverage(blob(rng, shape, centre, radii, roughness=0.04), pose.softness)


def _arms(rng: np.random.Generator, shape: Shape, pose: Pose) -> list[Field]:
    """Up to two arms that reach away from the shoulders."""
    arms = []
    for side in (-1, 1):
        if rng.random() < 0.35:
            r = pose.radius
            shoulder = (pose.head[0] + side * 1.3 * r, pose.head[1] + 2.2 * r)
            angle, length = rng.uniform(-1.2, 0.9), r * rng.uniform(1.5, 3)
            hand = (
                shoulder[0] + side * length * np.cos(angle),
                shoulder[1] + length * np.sin(angle),
            )
            arms.append(_limb(shape, shoulder, hand, r * rng.uniform(0.3, 0.5), pose))
    return arms


def _limb(shape: Shape, start: Point, end: Point, radius: float, pose: Pose) -> Field:
    """All points within a radius of a line from start to end."""
    x = np.arange(shape[1], dtype=np.float32)[None] + 0.5 - start[0]
    y = np.arange(shape[0], dtype=np.float32)[:, None] + 0.5 - start[1]
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    share = (x * along_x + y * along_y) / max(along_x**2 + along_y**2, 1e-6)
    share = share.clip(0, 1)
    distance = radius - np.hypot(x - share * along_x, y - share * along_y)
    return coverage(distance, pose.softness).astype(np.float32)


def _face(rng: np.random.Generator, shape: Shape, pose: Pose) -> list[tuple[Field, Field]]:
    """Eyes and mouth: (colour, opacity) of each."""
    r, parts = pose.radius, []
    cos, sin = np.cos(pose.tilt), np.sin(pose.tilt)
    dark = rng.integers(0, 90, 3).astype(np.float32)
    red = np.array([70, 60, 150], np.float32) * rng.uniform(0.6, 1.3)
    for x, y, size, colour in (
        (-0.35, -0.1, 0.1, dark),
        (0.35, -0.1, 0.1, dark),
        (0, 0.5, 0.13, red),
    ):
        centre = (pose.head[0] + r * (x * cos - y * sin), pose.head[1] + r * (x * sin + y * cos))
        ends = [(centre[0] + d * size * r * cos, centre[1] + d * size * r * sin) for d in (-1, 1)]
        flat = np.broadcast_to(colour, (*shape, 3))
        parts.append((flat, _limb(shape, ends[0], ends[1], 0.5 * size * r, pose)))
    return parts


def _flatten(layers: list[tuple[Field, Field]], palette: Field) -> Figure:
    """Put layers (colour, opacity) over each other, the last one in front."""
    shape = layers[0][1].shape
    mixed, alpha = np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32)
    for colour, opacity in layers:
        mixed += opacity[..., None] * (colour - mixed)
        alpha += opacity * (1 - alpha)
    straight = mixed / np.maximum(alpha, EMPTY)[..., None]
    straight[alpha < EMPTY] = palette[1]
    return Figure(
        straight.round().clip(0, 255).astype(np.uint8),
        (alpha * 255).round().astype(np.uint8),
        palette,
    )
