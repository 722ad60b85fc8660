"""Boxes of the network input placed in the image they came from."""

from collections.abc import Sequence

from torch import Tensor


def place_in_original(
    boxes: Tensor,
    *,
    input_size: tuple[int, int],
    scale_factor: Sequence[float],
    offset: tuple[float, float],
) -> Tensor:
    """Boxes in pixels of the image before it was resized and padded.

    Args:
        boxes: (k, 4) xyxy, normalised to the network input.
        input_size: height and width of the network input, paddings included.
        scale_factor: pixels of the network input per pixel of the original, along x and along y.
        offset: columns at the left and rows at the top of the network input that are padding.

    Returns:
        (k, 4) xyxy.
    """
    height, width = input_size
    (scale_x, scale_y), (left, top) = scale_factor, offset
    # The product first: 640 px at a factor of 640 / 500 are 500 px, and not nearly.
    pixels = boxes * boxes.new_tensor([width, height, width, height])
    pixels = pixels - boxes.new_tensor([left, top, left, top])
    return pixels / boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
