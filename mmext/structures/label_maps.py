"""Maps of classes: one value a pixel."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

# The value of pixels without truth, in files and behind mmseg's loaders.
NOT_LABELLED = 255


def count_values(values: NDArray) -> Counter[int]:
    """Value -> pixels, of an array of any shape with whole numbers of 0 or more."""
    counts = np.bincount(values.ravel())
    return Counter({value: int(counts[value]) for value in np.flatnonzero(counts).tolist()})
