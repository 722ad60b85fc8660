"""Windows that slide over an image, by mmseg's rule."""

from dataclasses import dataclass

from mmext.apis.tiling import Window


@dataclass(frozen=True)
class Slide:
    """Size and stride of windows.

    Args:
        size: height and width of a window in pixels, one number for both.
        stride: from one window to the next, downwards and to the right, at most `size`; None for two thirds of it.

    Raises:
        ValueError: a number outside its range.
    """

    size: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        size = _pair('size', self.size)
        stride = tuple(max(side * 2 // 3, 1) for side in size)
        if self.stride is not None:
            stride = _pair('stride', self.stride)
        if stride[0] > size[0] or stride[1] > size[1]:
            raise ValueError(
                f'Slide: got stride {stride} for windows of {size} (h, w), which leaves gaps; expected at most the size'
            )
        object.__setattr__(self, 'size', size)
        object.__setattr__(self, 'stride', stride)

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """The windows of an image, row by row: a full grid. The last ones are moved inwards instead of padded.

        Args:
            size: (height, width) of the image; where it is shorter than a window, so are the windows.
        """
        rows, columns = (
            [(start, min(start + side, length)) for start in _starts(length, side, step)]
            for length, side, step in zip(size, self.size, self.stride, strict=True)  # type: ignore[arg-type]
        )
        return [Window(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]


def _starts(length: int, side: int, step: int) -> list[int]:
    last = max(length - side, 0)
    return [*range(0, last, step), last]


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(side, int) and side >= 1 for side in pair):
        raise ValueError(f'Slide: got {name}={value!r}, expected pixels above 0, as 512 or (h, w)')
    return pair  # type: ignore[return-value]
