"""Pictures of class maps: colours over the photo, or outlines, beside a legend with the share of every class.

Text is written by Pillow, whose own font knows the letters of western Europe; OpenCV's knows ASCII.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from mmdet.visualization.palette import get_palette
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mmext.visualization.instances import DEFAULT_PALETTE

OPACITY = 0.55
# Text of legends in pixels: no smaller than can be read, no larger than a heading.
TEXT_SIZES = (12, 40)
# Rows of a legend; smaller classes share the last.
MAX_ROWS = 24
LINE_SHARE = 1 / 400

Paint: TypeAlias = Callable[[NDArray[np.uint8], NDArray, NDArray[np.uint8]], NDArray[np.uint8]]


class LegendRow(NamedTuple):
    """A line of a legend.

    Attributes:
        name: of the class.
        color: RGB; None for a sum of several.
        share: of the pixels, in [0, 1].
    """

    name: str
    color: tuple[int, int, int] | None
    share: float


def class_palette(palette: Sequence | NDArray | str | None, num_classes: int) -> NDArray[np.uint8]:
    """An RGB colour for each class.

    Args:
        palette: of the data set: colours, or a name that mmdet knows. Where it ends, or for None, colours are
            chosen that are far from all before.
        num_classes: K.

    Returns:
        (K, 3).

    Raises:
        ValueError: colours of another kind.
    """
    given = get_palette(palette, num_classes) if isinstance(palette, str) else palette
    listed = [] if given is None else [*given]
    colors = np.array(listed or np.empty((0, 3)), dtype=np.float64)[:num_classes]
    if colors.ndim != 2 or colors.shape[1] != 3 or colors.size and not _is_rgb(colors):
        raise ValueError(
            f'palette: got {palette!r:.80}, expected (red, green, blue) in 0..255 for each class'
        )
    return _extended(colors.astype(np.uint8), num_classes)


def paint_classes(
    image: NDArray[np.uint8],
    class_map: NDArray,
    palette: NDArray[np.uint8],
    opacity: float = OPACITY,
) -> NDArray[np.uint8]:
    """The photo under the colours of its classes.

    Args:
        image: (H, W, 3).
        class_map: (H, W) labels below K.
        palette: (K, 3), in the channel order of the image.
        opacity: of the colours, in [0, 1].

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a map of another size, labels without a colour, or an opacity outside its range.
    """
    _check_map(image, class_map, palette)
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity: got {opacity}, expected 0 <= opacity <= 1')
    return cv2.addWeighted(image, 1 - opacity, palette[class_map], opacity, 0).astype(np.uint8)


def outline_classes(
    image: NDArray[np.uint8], class_map: NDArray, palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The photo with a line in the colour of its class along the inside of every region.

    Args:
        image: (H, W, 3).
        class_map: (H, W) labels below K.
        palette: (K, 3), in the channel order of the image.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a map of another size, or labels without a colour.
    """
    _check_map(image, class_map, palette)
    edge = np.zeros(class_map.shape, np.uint8)
    across, down = class_map[:, 1:] != class_map[:, :-1], class_map[1:] != class_map[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    width = max(1, round(min(class_map.shape) * LINE_SHARE))
    # Grows to both sides; every pixel has the colour of its own class.
    edge = cv2.dilate(edge, np.ones((2 * width - 1, 2 * width - 1), np.uint8)).astype(np.uint8)
    drawn = image.copy()
    inside = edge.astype(bool)
    drawn[inside] = palette[class_map[inside]]
    return drawn


def draw_overlay(
    image: NDArray[np.uint8],
    class_map: NDArray,
    rows: Sequence[LegendRow],
    palette: NDArray[np.uint8],
    paint: Paint = paint_classes,
) -> NDArray[np.uint8]:
    """A painted photo and its legend on the right. The legend does not shrink with the photo: small ones stand on white.

    Args:
        image: (H, W, 3) RGB.
        class_map: (H, W) labels below K.
        rows: of the legend, see `legend_rows`.
        palette: (K, 3) RGB.
        paint: `paint_classes` or `outline_classes`.

    Returns:
        (at least H, W + width of the legend, 3) uint8 RGB.
    """
    painted = paint(image, class_map, palette)
    legend = draw_legend(rows, image.shape[0])
    height = max(painted.shape[0], legend.shape[0])
    parts = [
        np.pad(part, ((0, height - part.shape[0]), (0, 0), (0, 0)), constant_values=255)
        for part in (painted, legend)
    ]
    return np.concatenate(parts, axis=1)


def legend_rows(
    names: Sequence[str], palette: NDArray[np.uint8], shares: NDArray[np.floating]
) -> list[LegendRow]:
    """The classes that a photo has, largest first; of many the smallest are summed up.

    Args:
        names: of K classes.
        palette: (K, 3) RGB.
        shares: (K,) of the pixels.
    """
    present = [label for label in np.argsort(-shares, kind='stable').tolist() if shares[label] > 0]
    shown = present if len(present) <= MAX_ROWS else present[: MAX_ROWS - 1]
    rows = [
        LegendRow(
            names[label],
            (int(palette[label][0]), int(palette[label][1]), int(palette[label][2])),
            float(shares[label]),
        )
        for label in shown
    ]
    others = present[len(shown) :]
    if others:
        rows.append(LegendRow(f'{len(others)} more', None, float(shares[others].sum())))
    return rows


def draw_legend(rows: Sequence[LegendRow], height: int) -> NDArray[np.uint8]:
    """Colour, name and share of each class, on white.

    Args:
        rows: at least one.
        height: of the photo, for the size of the text.

    Returns:
        (h, w, 3) uint8, of the size that it needs.
    """
    # A full legend is as high as the photo, if it can be read so.
    wanted = int(height / max(28, 1.5 * len(rows) + 0.5))
    size = min(max(wanted, TEXT_SIZES[0]), TEXT_SIZES[1])
    font = ImageFont.load_default(size)
    step, gap = size * 3 // 2, size // 2
    shares = [f'{row.share:.1%}' if row.share >= 0.0005 else '<0.1%' for row in rows]
    name_width, share_width = (
        max(int(np.ceil(font.getlength(text))) for text in texts)
        for texts in ([row.name for row in rows], shares)
    )
    left = gap + size + gap
    width = left + name_width + 2 * gap + share_width + gap
    canvas = Image.new('RGB', (width, gap + step * len(rows)), 'white')
    draw = ImageDraw.Draw(canvas)
    for index, (row, share) in enumerate(zip(rows, shares, strict=True)):
        top = gap + index * step
        if row.color is not None:
            box = (gap, top, gap + size - 1, top + size - 1)
            # White, too, shall be seen.
            draw.rectangle(box, fill=row.color, outline=(96, 96, 96))
        # Anchors: the middle of the swatch; names begin left, shares end right.
        draw.text((left, top + size / 2), row.name, fill='black', font=font, anchor='lm')
        draw.text((width - gap, top + size / 2), share, fill='black', font=font, anchor='rm')
    return np.asarray(canvas)


def class_picture(class_map: NDArray, palette: NDArray[np.uint8]) -> Image.Image:
    """A class map as an image whose pixel values are the labels, shown in the colours of the classes.

    Args:
        class_map: (H, W) labels below K, uint8 or uint16.
        palette: (K, 3) RGB; not used for uint16, of which images have none.
    """
    picture = Image.fromarray(class_map)
    if class_map.dtype == np.uint8:
        picture.putpalette(palette.tobytes())  # makes mode P of L
    return picture


def _check_map(image: NDArray, class_map: NDArray, palette: NDArray) -> None:
    if class_map.shape != image.shape[:2]:
        raise ValueError(
            f'got a class map of {class_map.shape} (h, w) for an image of {image.shape[:2]}, expected the same'
        )
    if class_map.size and int(class_map.max()) >= len(palette):
        raise ValueError(
            f'got the label {class_map.max()} in a class map, expected labels below the {len(palette)} colours'
        )


def _is_rgb(colors: NDArray) -> bool:
    return bool((colors >= 0).all() and (colors <= 255).all())


def _extended(colors: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """(K, 3) RGB: the given ones, ours as far as they are needed, then one after the other the farthest from all before."""
    chosen = [tuple(color) for color in colors.tolist()]
    steps = 2
    while steps**3 < 4 * count:
        steps += 1
    # Black and white are no colours over a photo.
    levels = np.linspace(30, 255, steps)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    ours = [color for color in DEFAULT_PALETTE if color not in chosen]
    if not chosen:
        chosen = [tuple(color) for color in ours[:count]]
    candidates = np.concatenate([np.array(ours).reshape(-1, 3), grid]).astype(np.uint8)
    spaced = _to_lab(candidates)
    distance = np.full(len(candidates), np.inf)
    if chosen:
        apart = spaced[:, None] - _to_lab(np.array(chosen, np.uint8))
        distance = np.linalg.norm(apart, axis=-1).min(axis=1)
    while len(chosen) < count:
        best = int(distance.argmax())
        chosen.append(tuple(candidates[best].tolist()))
        distance = np.minimum(distance, np.linalg.norm(spaced - spaced[best], axis=-1))
    return np.array(chosen, np.uint8).reshape(-1, 3)


def _to_lab(colors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 3) RGB in a space where distances are those that the eye sees."""
    rgb = colors.astype(np.float32)[None] / np.float32(255)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[0].astype(np.float32)
