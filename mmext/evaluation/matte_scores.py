"""`MatteScorer`: all scores of mattes, image by image, and their summary. Nothing of an image is kept but numbers."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmext.evaluation.lpips import LPIPS
from mmext.evaluation.matte_errors import (
    Matte,
    connectivity_error,
    flicker,
    gradient_errors,
    structural_similarity,
)
from mmext.evaluation.matte_regions import (
    NO_COUNTS,
    Counts,
    Mask,
    count,
    count_bands,
    edge_distance,
    outcomes,
    outline_score,
)

# What may be asked for -> what it gives; the names carry their scales. r runs through the radii.
METRICS = {
    'region': 'IoU Dice accuracy sensitivity specificity precision F1, and each with _per_image',
    'trimap': 'trimap_accuracy_<r>px trimap_IoU_<r>px',
    'error': 'SAD_k SAD_T_k MAD_x1e3 MSE_x1e3',
    'grad': 'Grad_k',
    'grad_l1': 'Grad_l1_k',
    'conn': 'Conn_k',
    'ssim': 'SSIM',
    'boundary': 'boundary_F',
    'lpips': 'LPIPS',
    'dtssd': 'dtSSD_x1e2',
}
DEFAULT_METRICS = ('region', 'trimap', 'error', 'grad', 'conn', 'ssim', 'boundary')
TRIMAP_RADII = (1, 3, 5, 10, 20)
FLICKER_NAME = 'dtSSD_x1e2'
# Rounding of interpolation; anything beyond is no alpha.
RANGE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ImageScores:
    """Numbers of one image. No NamedTuple: mmengine makes plain tuples of those before it computes the metrics.

    Attributes:
        name: of the image.
        clip: of the video that it is a frame of; '' for a photo.
        counts: of all pixels.
        bands: of each trimap radius.
        values: scores by name; a score that the image cannot have is absent.
    """

    name: str
    clip: str
    counts: Counts
    bands: list[Counts]
    values: dict[str, float]


class MatteScorer:
    """Scores mattes against the truth.

    Args:
        metrics: some of `METRICS`.
        threshold: alphas above are foreground, for all that counts pixels.
        trimap_radii: pixels, of the bands of 'trimap'.
        unknown_radius: pixels, of the trimap of SAD_T; 10 is the benchmark's.
        lpips_files: `backbone` and `linear`, see `LPIPS`; None leaves LPIPS out and says so.

    Raises:
        ValueError: an unknown metric, a number that cannot be, or unusable files.
    """

    def __init__(
        self,
        metrics: Sequence[str] = DEFAULT_METRICS,
        *,
        threshold: float = 0.5,
        trimap_radii: Sequence[int] = TRIMAP_RADII,
        unknown_radius: int = 10,
        lpips_files: dict[str, str] | None = None,
    ) -> None:
        metrics = [metrics] if isinstance(metrics, str) else list(metrics)
        unknown = [name for name in metrics if name not in METRICS]
        if unknown or not metrics:
            raise ValueError(f'mattes: got metrics={metrics}, expected some of {list(METRICS)}')
        if not 0 <= threshold < 1:
            raise ValueError(f'mattes: got threshold={threshold}, expected a number in [0, 1)')
        if min([unknown_radius, *trimap_radii]) < 1:
            raise ValueError(
                f'mattes: got trimap_radii={trimap_radii}, unknown_radius={unknown_radius}, expected pixels of at least 1'
            )
        self.metrics = set(metrics)
        self.threshold = threshold
        self.trimap_radii = sorted(set(trimap_radii))
        self.unknown_radius = unknown_radius
        self.lpips = self._load_lpips(lpips_files)
        self._last: tuple[str, tuple[Matte, Matte]] | None = None

    def score(
        self,
        name: str,
        prediction: NDArray,
        truth: NDArray,
        *,
        valid: Mask | None = None,
        clip: str = '',
        image: NDArray[np.uint8] | None = None,
    ) -> ImageScores:
        """Score one image.

        Args:
            name: for messages and tables.
            prediction: (H, W) in [0, 1].
            truth: (H, W) in [0, 1].
            valid: (H, W), where the truth is known; at least once. Elsewhere both count as 0 for what looks at neighbours.
            clip: the video of the frame. Frames of a clip must come one after another in their order.
            image: (H, W, 3) RGB, for LPIPS.

        Raises:
            ValueError: different sizes, or numbers that are no alphas.
        """
        prediction, truth = as_matte(prediction, f'{name}: prediction'), as_matte(truth, name)
        shapes = {prediction.shape, truth.shape, truth.shape if valid is None else valid.shape}
        if len(shapes) > 1:
            raise ValueError(
                f'{name}: got a prediction of {prediction.shape[1]} x {prediction.shape[0]} pixels, expected '
                f'{truth.shape[1]} x {truth.shape[0]} as its truth. Write mattes of the size of the image.'
            )
        if valid is not None:
            prediction, truth = prediction * valid, truth * valid
        outcome = outcomes(prediction, truth, self.threshold)
        counts = count(outcome if valid is None else outcome[valid])
        values, bands = self._errors(prediction, truth, sum(counts)), []
        if self.metrics & {'trimap', 'error'}:
            distance = edge_distance(truth)
            bands = count_bands(outcome, distance, self.trimap_radii, valid)
            if 'error' in self.metrics:
                difference = np.abs(prediction - truth)
                values['SAD_T_k'] = _sum(difference[distance <= self.unknown_radius]) / 1000
        values |= self._structure(prediction, truth)
        if self.lpips is not None and image is not None:
            values['LPIPS'] = self.lpips.of_cut_outs(image, prediction, truth)
        if 'dtssd' in self.metrics and clip:
            values |= self._flicker(clip, (prediction, truth))
        return ImageScores(name, clip, counts, bands, values)

    def forget_frame(self) -> None:
        """The next frame has no predecessor: the one before it is missing."""
        self._last = None

    def row(self, scores: ImageScores) -> dict[str, float]:
        """All numbers of one image, under the names of the summary."""
        values = scores.counts.scores() if 'region' in self.metrics else {}
        return values | self._band_scores(scores.bands) | scores.values

    def summarise(self, images: Sequence[ImageScores]) -> dict[str, float]:
        """Scores of a data set.

        Counts are summed over all images first; what ends in `_per_image` and all errors are means over the images;
        the flicker is the mean over the clips of the means over their frames.

        Args:
            images: at least one.

        Raises:
            ValueError: there is none.
        """
        if not images:
            raise ValueError('mattes: got no image to score, expected at least one')
        summary: dict[str, float] = {}
        if 'region' in self.metrics:
            summary |= _total(own.counts for own in images).scores()
            each = [own.counts.scores() for own in images]
            summary |= {f'{key}_per_image': _mean(own[key] for own in each) for key in each[0]}
        bands = [_total(own) for own in zip(*(own.bands for own in images), strict=True)]
        summary |= self._band_scores(bands)
        for name in dict.fromkeys(name for own in images for name in own.values):
            groups: dict[str, list[float]] = {}
            for own in images:
                if name in own.values:
                    group = own.clip if name == FLICKER_NAME else ''
                    groups.setdefault(group, []).append(own.values[name])
            summary[name] = _mean(map(_mean, groups.values()))
        return summary

    def _errors(self, prediction: Matte, truth: Matte, num_known: int) -> dict[str, float]:
        if 'error' not in self.metrics:
            return {}
        difference = np.abs(prediction - truth)
        absolute = _sum(difference)
        return {
            'SAD_k': absolute / 1000,
            'SAD_T_k': 0.0,  # keeps its place in tables
            'MAD_x1e3': 1000 * absolute / num_known,
            'MSE_x1e3': 1000 * _sum(np.square(difference)) / num_known,
        }

    def _structure(self, prediction: Matte, truth: Matte) -> dict[str, float]:
        values = {}
        if self.metrics & {'grad', 'grad_l1'}:
            errors = gradient_errors(prediction, truth)
            if 'grad' in self.metrics:
                values['Grad_k'] = errors.squared / 1000
            if 'grad_l1' in self.metrics:
                values['Grad_l1_k'] = errors.absolute / 1000
        if 'conn' in self.metrics:
            values['Conn_k'] = connectivity_error(prediction, truth) / 1000
        if 'ssim' in self.metrics:
            values['SSIM'] = structural_similarity(prediction, truth)
        if 'boundary' in self.metrics:
            masks = (prediction > self.threshold, truth > self.threshold)
            values['boundary_F'] = outline_score(*masks)
        return values

    def _flicker(self, clip: str, frame: tuple[Matte, Matte]) -> dict[str, float]:
        last, self._last = self._last, (clip, frame)
        if last is None or last[0] != clip:
            return {}
        if last[1][0].shape != frame[0].shape:
            raise ValueError(
                f'the clip {clip} has frames of different sizes; expected one size for dtSSD'
            )
        return {FLICKER_NAME: 100 * flicker(last[1], frame)}

    def _band_scores(self, bands: Sequence[Counts]) -> dict[str, float]:
        if 'trimap' not in self.metrics:
            return {}
        scores = {}
        for radius, counts in zip(self.trimap_radii, bands, strict=True):
            own = counts.scores()
            scores[f'trimap_accuracy_{radius}px'] = own['accuracy']
            scores[f'trimap_IoU_{radius}px'] = own['IoU']
        return scores

    def _load_lpips(self, files: dict[str, str] | None) -> LPIPS | None:
        if 'lpips' not in self.metrics:
            return None
        if files is None:
            print_log(
                'LPIPS is skipped: no lpips_files=dict(backbone=..., linear=...), and nothing is downloaded',
                'current',
                level=30,
            )
            return None
        if set(files) != {'backbone', 'linear'}:
            raise ValueError(
                f'mattes: got lpips_files={files}, expected the files `backbone` and `linear`'
            )
        return LPIPS(**files)


def as_matte(values: NDArray, name: str) -> Matte:
    """Float32 (H, W) in [0, 1]; what rounding leaves beyond is cut off.

    Raises:
        ValueError: another number of axes, no pixels, or values that are no alphas.
    """
    matte = np.asarray(values, np.float32)
    if matte.ndim != 2 or matte.size == 0:
        raise ValueError(f'{name}: got an alpha of shape {matte.shape}, expected (height, width)')
    low, high = float(matte.min()), float(matte.max())
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise ValueError(
            f'{name}: got alphas from {low} to {high}, expected finite numbers in [0, 1]'
        )
    return np.ascontiguousarray(matte.clip(0, 1))


def _sum(values: NDArray) -> float:
    return float(values.sum(dtype=np.float64))


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


def _total(counts: Iterable[Counts]) -> Counts:
    total = NO_COUNTS
    for own in counts:
        total = total.plus(own)
    return total
