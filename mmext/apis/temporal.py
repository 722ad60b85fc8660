"""Alpha of successive frames without flicker, and without ghosts of what has moved."""

import cv2
import numpy as np
from numpy.typing import NDArray

STRENGTH = 0.6
# A colour that changes by this share of the full range has moved; noise of a camera stays below it.
TOLERANCE = 0.05


class TemporalSmoother:
    """Running mean of alpha, wherever the picture stays what it was.

    What is kept of the past is `strength` where the colour of a pixel is the same, less where it differs, and nothing
    where it differs by `tolerance`. Compared is not with the frame before but with a mean of colours that runs with the
    same weights as alpha's: slow movement, too little between two frames, adds up and is seen. A cut starts anew.

    Args:
        strength: share of the past, 0 <= strength < 1; 0 changes nothing.
        tolerance: change of colour, in (0, 1], from which on the past is forgotten.

    Raises:
        ValueError: a number outside its range.
    """

    def __init__(self, strength: float = STRENGTH, tolerance: float = TOLERANCE) -> None:
        if not 0 <= strength < 1:
            raise ValueError(f'smoothing: got {strength}, expected 0 <= strength < 1')
        if not 0 < tolerance <= 1:
            raise ValueError(f'tolerance: got {tolerance}, expected 0 < tolerance <= 1')
        self.strength = strength
        self.tolerance = tolerance
        self._colors: NDArray | None = None
        self._alpha: NDArray[np.float32] | None = None

    def __call__(self, image: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
        """The smoothed alpha of the next frame.

        Args:
            image: (H, W, 3) RGB, what alpha belongs to, at its size or larger.
            alpha: (h, w) in [0, 1].

        Returns:
            (h, w) in [0, 1].
        """
        height, width = alpha.shape
        colors: NDArray = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        # The mean of 3 x 3 pixels has a third of their noise.
        blurred: NDArray = cv2.blur(colors.astype(np.float32) / 255, (3, 3))
        if self._colors is None or self._alpha is None or self._alpha.shape != alpha.shape:
            self._colors, self._alpha = blurred, alpha
            return alpha
        change = np.abs(blurred - self._colors).max(axis=2)
        kept = self.strength * (1 - change / self.tolerance).clip(0, 1)
        self._alpha = alpha + kept * (self._alpha - alpha)
        self._colors = blurred + kept[..., None] * (self._colors - blurred)
        return self._alpha
