"""Random shapes and noise fields from which surfaces and defects are made.

Images are (h, w, 3) float32 in [0, 255], fields and signed distances (h, w) float32, masks (h, w)
bool. A signed distance is in pixels, positive inside, and approximate away from the outline.
Points are (x, y) in pixels.
"""

import cv2
import numpy as np

Shape = tuple[int, int]
Point = tuple[float, float]
# Strokes are drawn this many times larger and averaged down: OpenCV's lines have whole-pixel
# widths.
SUPERSAMPLING = 4


def smooth_noise(rng: np.random.Generator, shape: Shape, scale: float | Point) -> np.ndarray:
    """Make smooth noise with features of about `scale` pixels.

    Args:
        rng: The source of randomness.
        shape: (h, w).
        scale: Size of the features, or (x, y) sizes for streaks.

    Returns:
        (h, w) float32, mean about 0, standard deviation about 1.
    """
    scale_x, scale_y = (scale, scale) if isinstance(scale, int | float) else scale
    # Two cells of margin, since the outermost cells of a resized grid are flat.
    grid = (int(np.ceil(shape[0] / scale_y)) + 3, int(np.ceil(shape[1] / scale_x)) + 3)
    coarse = rng.standard_normal(grid, dtype=np.float32)
    size = (round(grid[1] * scale_x), round(grid[0] * scale_y))
    fine = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    top, left = round(1.5 * scale_y), round(1.5 * scale_x)
    field = fine[top : top + shape[0], left : left + shape[1]]
    return field / max(float(field.std()), 1e-3)


def streak_noise(
    rng: np.random.Generator, shape: Shape, width: float, length: float, angle: float
) -> np.ndarray:
    """Make streaks along a direction.

    Args:
        rng: The source of randomness.
        shape: (h, w).
        width: Of a streak, in pixels.
        length: Of a streak, in pixels.
        angle: Direction of the streaks against the x axis, radians.

    Returns:
        (h, w) float32, mean about 0, standard deviation about 1.
    """
    side = int(np.ceil(np.hypot(*shape))) + 2
    field = smooth_noise(rng, (side, side), (length, width))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), -np.degrees(angle), 1.0)
    turn[0, 2] += (shape[1] - side) / 2
    turn[1, 2] += (shape[0] - side) / 2
    return cv2.warpAffine(field, turn, shape[::-1], flags=cv2.INTER_LINEAR)


def blob(
    rng: np.random.Generator,
    shape: Shape,
    center: Point,
    radii: Point,
    *,
    angle: float = 0.0,
    roughness: float = 0.2,
    num_waves: int = 6,
) -> np.ndarray:
    """Make a closed outline: an ellipse whose radius swings with random waves.

    Args:
        rng: The source of randomness.
        shape: (h, w).
        center: May lie outside the image.
        radii: Half axes in pixels.
        angle: Of the first axis against the x axis, radians.
        roughness: Standard deviation of the swing, as a fraction of the radius.
        num_waves: Of the highest frequency around the outline; many make it jagged.

    Returns:
        (h, w) signed distance.
    """
    x = np.arange(shape[1], dtype=np.float32)[None] + 0.5 - center[0]
    y = np.arange(shape[0], dtype=np.float32)[:, None] + 0.5 - center[1]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = (x * cos + y * sin) / radii[0], (y * cos - x * sin) / radii[1]
    distance = np.hypot(u, v)
    # The outline is tabulated over 512 directions; one table look-up per pixel instead of a sum of
    # waves.
    theta = np.linspace(0, 2 * np.pi, 512, endpoint=False)
    waves = np.arange(2, num_waves + 2)
    weights = rng.standard_normal(num_waves) / np.sqrt(waves)
    swing = np.cos(theta[:, None] * waves + rng.uniform(0, 2 * np.pi, num_waves)) @ weights
    outline = np.maximum(1 + roughness * swing / max(swing.std(), 1e-6), 0.2).astype(np.float32)
    direction = (np.arctan2(v, u) * (512 / (2 * np.pi))).astype(np.int32) & 511
    return (outline[direction] - distance) * np.float32(np.sqrt(radii[0] * radii[1]))


def coverage(distance: np.ndarray, softness: float = 1.0) -> np.ndarray:
    """Turn a signed distance into opacity in [0, 1] that rises over `softness` pixels."""
    return np.clip(0.5 + distance / softness, 0, 1)


def wandering_path(
    rng: np.random.Generator,
    start: Point,
    angle: float,
    length: float,
    *,
    step: float,
    wander: float,
) -> np.ndarray:
    """Walk from a point, turning a little at each step.

    Args:
        rng: The source of randomness.
        start: First point.
        angle: First direction, radians.
        length: Of the path, in pixels.
        step: Between two points, in pixels.
        wander: Standard deviation of the direction about the first one, radians; the walk returns
            to it, so that paths stay stretched out.

    Returns:
        (k, 2) points, k >= 2.
    """
    num_steps = max(int(length / step), 1)
    deviation, angles = 0.0, []
    for _ in range(num_steps):
        deviation = 0.6 * deviation + 0.8 * wander * rng.standard_normal()
        angles.append(angle + deviation)
    moves = step * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([np.zeros((1, 2)), moves.cumsum(axis=0)]) + start


def arc_path(start: Point, angle: float, length: float, bend: float) -> np.ndarray:
    """Make a circular arc of a given length that turns by `bend` radians; (k, 2) points."""
    angles = angle + np.linspace(-bend / 2, bend / 2, max(int(length / 4), 2))
    moves = length / len(angles) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([np.zeros((1, 2)), moves.cumsum(axis=0)]) + start


def stroke(shape: Shape, points: np.ndarray, widths: np.ndarray | float) -> np.ndarray:
    """Draw a line of varying width.

    Args:
        shape: (h, w).
        points: (k, 2).
        widths: In pixels at each point, (k,), or one for all.

    Returns:
        (h, w) float32 opacity in [0, 1].
    """
    large = np.zeros((shape[0] * SUPERSAMPLING, shape[1] * SUPERSAMPLING), np.uint8)
    corners = np.round(points * SUPERSAMPLING).astype(int).tolist()
    thickness = np.broadcast_to(np.round(np.asarray(widths) * SUPERSAMPLING), len(corners))
    for begin, end, thick in zip(corners[:-1], corners[1:], thickness[1:], strict=True):
        cv2.line(large, begin, end, 255, max(int(thick), 1))
    return cv2.resize(large, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def directional_slope(height: np.ndarray, angle: float) -> np.ndarray:
    """Compute the slope of a relief towards a light, scaled to [-1, 1]."""
    slope_y, slope_x = np.gradient(height)
    slope = slope_x * np.cos(angle) + slope_y * np.sin(angle)
    return (slope / max(float(np.abs(slope).max()), 1e-6)).astype(np.float32)


def darken(image: np.ndarray, opacity: np.ndarray, factor: float | np.ndarray) -> np.ndarray:
    """Multiply an image by `factor` (a number, or one per channel) where opacity is 1."""
    return image * (1 + opacity[..., None] * (np.asarray(factor, dtype=np.float32) - 1))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform: as many small ones as large ones."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def random_point(rng: np.random.Generator, shape: Shape, margin: float = 0.08) -> Point:
    """Draw a point (x, y) that keeps a margin (fraction of the sides) from the border."""
    y, x = (rng.uniform(margin, 1 - margin, 2) * shape).tolist()
    return x, y
