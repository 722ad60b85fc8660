"""New backgrounds behind a foreground of which the matte is known."""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from numpy.typing import NDArray

from mmext.datasets.checks import checked_fraction
from mmext.datasets.converters.files import find_images
from mmext.datasets.transforms.alpha_geometry import plane_names
from mmext.datasets.transforms.loading import LoadImage
from mmext.registry import TRANSFORMS

Image = NDArray[np.uint8]


@TRANSFORMS.register_module()
class CompositeBackground(BaseTransform):
    """Put the foreground on another background: img = alpha * F + (1 - alpha) * B, in 8-bit sRGB values.

    F is the straight colour of the foreground, (h, w, 3) uint8: `foreground` where the sample has it (see
    `MatteDataset`), else the image itself. With the image, soft edges keep the colour of the old background, a halo:
    right for hard edges, or a small share of the samples, and the reason to estimate the foreground once, on disk,
    for hair. `foreground` is taken out of the sample afterwards, whether it was used or not.

    It comes behind `LoadAlpha`; behind the resizing it is cheapest. Required keys: `img`, `gt_alpha`, of one size.

    Args:
        prob: Probability.
        kinds: Where backgrounds come from, each as likely: 'plain' (one colour), 'gradient' (between two colours, in
            any direction), 'noise' (soft blotches of several sizes in three colours), 'folder'.
        folder: All images below it are backgrounds; needed for, and only for, 'folder'. A random window of a random
            one is stretched over the picture.
        min_window: Smallest share of a background's sides that the window covers.
    """

    def __init__(
        self,
        prob: float = 0.5,
        *,
        kinds: Sequence[str] = ('plain', 'gradient', 'noise'),
        folder: str | None = None,
        min_window: float = 0.5,
    ) -> None:
        self.makers = {
            'plain': plain,
            'gradient': gradient,
            'noise': noise,
            'folder': self._from_folder,
        }
        strange = [kind for kind in kinds if kind not in self.makers]
        if strange or not kinds:
            raise ValueError(f'got kinds={list(kinds)}; expected some of {list(self.makers)}')
        if ('folder' in kinds) != (folder is not None):
            raise ValueError(
                f"got kinds={list(kinds)} and folder={folder!r}; the kind 'folder' and the folder go together"
            )
        self.prob = checked_fraction(prob, 'prob')
        self.kinds = list(kinds)
        self.min_window = checked_fraction(min_window, 'min_window')
        self.backgrounds = (
            [] if folder is None else [str(path) for path in find_images(Path(folder))]
        )
        if folder is not None and not self.backgrounds:
            raise ValueError(
                f'got folder={folder!r}, which holds no images. Give a folder of photos.'
            )
        self.load = LoadImage()

    @cache_randomness
    def draw_seed(self) -> int | None:
        """Draw the seed of the background, None for none."""
        return int(np.random.randint(2**31)) if np.random.rand() < self.prob else None

    def transform(self, results: dict) -> dict:
        """See the class."""
        if 'gt_alpha' not in plane_names(results):
            raise ValueError(
                f'{results.get("img_path")}: got no gt_alpha; put LoadAlpha before CompositeBackground'
            )
        foreground = results.pop('foreground', results['img'])
        seed = self.draw_seed()
        if seed is None:
            return results
        rng = np.random.default_rng(seed)
        make = self.makers[self.kinds[rng.integers(len(self.kinds))]]
        background = make(rng, results['img'].shape[:2])
        results['img'] = composite(foreground, background, results['gt_alpha'])
        return results

    def _from_folder(self, rng: np.random.Generator, shape: tuple[int, int]) -> Image:
        """A window of one of the photos, mirrored in every second case."""
        path = self.backgrounds[rng.integers(len(self.backgrounds))]
        image = self.load.transform({'img_path': path})['img']
        sides = np.array(image.shape[:2])
        window = np.maximum(sides * rng.uniform(self.min_window, 1, 2), 1).astype(int)
        top, left = rng.integers(0, sides - window + 1).tolist()
        image = image[top : top + window[0], left : left + window[1]]
        image = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
        return cv2.flip(image, 1) if rng.random() < 0.5 else image


def composite(foreground: Image, background: Image, alpha: NDArray[np.float32]) -> Image:
    """alpha * F + (1 - alpha) * B, rounded.

    Args:
        foreground: (h, w, 3), straight colours.
        background: (h, w, 3).
        alpha: (h, w) in [0, 1].
    """
    # OpenCV blends bytes with float weights; it adds 1e-5 to their sum, which cannot reach the next whole value.
    return np.asarray(cv2.blendLinear(foreground, background, alpha, 1 - alpha), dtype=np.uint8)


def plain(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """One colour, (h, w, 3)."""
    return np.broadcast_to(_colours(rng, 1)[0].astype(np.uint8), (*shape, 3)).copy()


def gradient(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """From one colour to another along a line of random direction, (h, w, 3)."""
    first, second = _colours(rng, 2)
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in shape)
    across, down = np.cos(angle), np.sin(angle)
    position = columns * across + rows[:, None] * down
    share = 0.5 + position / np.float32(abs(across) + abs(down))
    image = first + share[..., None] * (second - first)
    return image.astype(np.uint8)


def noise(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """Blotches of several sizes between three colours, with fine grain, (h, w, 3)."""
    image = np.broadcast_to(_colours(rng, 1)[0], (*shape, 3))
    for colour in _colours(rng, 2):
        cells = int(rng.integers(2, 12))
        coarse = rng.uniform(-0.5, 1.5, (cells, cells)).astype(np.float32)
        share = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
        image = image + share[..., None] * (colour - image)
    grain = rng.normal(0, rng.uniform(0, 8), shape).astype(np.float32)
    return (image + grain[..., None]).clip(0, 255).astype(np.uint8)


def _colours(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """(count, 3) random colours, 0..255."""
    return rng.integers(0, 256, (count, 3)).astype(np.float32)
