"""`MatteMetric`: scores of mattes in validation and test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from mmext.evaluation.matte_scores import (
    DEFAULT_METRICS,
    TRIMAP_RADII,
    ImageScores,
    MatteScorer,
)
from mmext.evaluation.matte_table import check_table_name, write_score_table
from mmext.registry import METRICS


@METRICS.register_module()
class MatteMetric(BaseMetric):
    """Scores `pred_alpha` against `gt_alpha` where `gt_valid` says that the truth is known.

    Results, under the prefix 'matte': see `matte_scores.METRICS` and `MatteScorer.summarise`. The names carry the scale:
    `_k` counts thousands, `_x1e3` is a thousand times the mean, `_x1e2` a hundred times; all others lie in [0, 1].

    Args:
        measures: some of 'region', 'trimap', 'error', 'grad', 'grad_l1', 'conn', 'ssim', 'boundary', 'lpips', 'dtssd'.
            'region' and 'error' take a tenth of the time of all.
        threshold: see `MatteScorer`.
        trimap_radii: see `MatteScorer`.
        unknown_radius: see `MatteScorer`.
        lpips_files: see `MatteScorer`.
        table: CSV file for the scores of every image, the worst first, written anew by every evaluation; None for none.
        collect_device: 'cpu' or 'gpu', see mmengine's BaseMetric.
        prefix: see mmengine's BaseMetric; None is 'matte'.

    Raises:
        ValueError: see `MatteScorer`; or a name of the table that does not end in .csv.
    """

    default_prefix = 'matte'

    def __init__(
        self,
        # Not `metrics`: mmengine takes an evaluator with that key for a list of metrics.
        measures: Sequence[str] = DEFAULT_METRICS,
        *,
        threshold: float = 0.5,
        trimap_radii: Sequence[int] = TRIMAP_RADII,
        unknown_radius: int = 10,
        lpips_files: dict[str, str] | None = None,
        table: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_table_name(table)
        self.table = table
        self.scorer = MatteScorer(
            measures,
            threshold=threshold,
            trimap_radii=trimap_radii,
            unknown_radius=unknown_radius,
            lpips_files=lpips_files,
        )

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score a batch.

        Args:
            data_batch: not looked at.
            data_samples: dicts with `pred_alpha`, or the `seg_logits` (2, H, W) of a model of mmseg with the classes
                background and foreground; `gt_alpha` (1, H, W); perhaps `gt_valid` (1, H, W) bool, `img_path`, and `clip`, the video of a frame (without it, the folder of `img_path`).

        Raises:
            ValueError: something is missing, of another size, or no alpha; or dtSSD on several processes.
        """
        if 'dtssd' in self.scorer.metrics and get_world_size() > 1:
            raise ValueError(
                'MatteMetric: dtSSD compares neighbouring frames, which several processes divide among them. Test on one.'
            )
        for sample in data_samples:
            scores = self._score(sample)
            if scores is not None:
                self.results.append(scores)

    def compute_metrics(self, results: list[ImageScores]) -> dict[str, float]:
        """See the class."""
        # The first frame of the next evaluation does not follow the last one of this.
        self.scorer.forget_frame()
        if self.table is not None:
            write_score_table(self.table, [(own.name, self.scorer.row(own)) for own in results])
        return self.scorer.summarise(results)

    def _score(self, sample: dict) -> ImageScores | None:
        path = sample.get('img_path')
        name = str(path or 'image')
        valid = _plane(sample, 'gt_valid', name) if 'gt_valid' in sample else None
        if valid is not None and not valid.any():
            print_log(f'{name} is not scored: its truth is known nowhere', 'current', level=30)
            return None
        image = None
        if self.scorer.lpips is not None:
            image = _read_rgb(path)
        return self.scorer.score(
            name,
            _prediction(sample, name),
            _plane(sample, 'gt_alpha', name),
            valid=None if valid is None or valid.all() else valid.astype(bool),
            clip=sample.get('clip') or (str(Path(path).parent) if path else ''),
            image=image,
        )


def _prediction(sample: Mapping[str, Any], name: str) -> NDArray:
    """The predicted alpha (H, W): `pred_alpha`, or the probability of the second of two classes."""
    if 'pred_alpha' in sample or 'seg_logits' not in sample:
        return _plane(sample, 'pred_alpha', name)
    logits = _plane(sample, 'seg_logits', name)
    if logits.ndim != 3 or len(logits) != 2:
        raise ValueError(
            f'MatteMetric: {name} has seg_logits of shape {logits.shape} and no pred_alpha; expected two classes, '
            'background and foreground'
        )
    return expit(logits[1] - logits[0])


def _plane(sample: Mapping[str, Any], key: str, name: str) -> NDArray:
    """A field (1, H, W) or (H, W) as an array (H, W)."""
    if key not in sample:
        raise ValueError(
            f'MatteMetric: {name} has no {key}; expected pred_alpha, as mmext.MatteEncoderDecoder predicts it, and '
            'gt_alpha, as mmext.LoadAlpha and mmext.PackMatteInputs bring it'
        )
    field = sample[key]
    if isinstance(field, Mapping):
        field = field['data']
    elif not isinstance(field, (Tensor, np.ndarray)):
        field = field.data  # PixelData
    if isinstance(field, Tensor):
        field = field.detach().cpu()
        field = field.float().numpy() if field.is_floating_point() else field.numpy()
    return field[0] if field.ndim == 3 and len(field) == 1 else field


def _read_rgb(path: str | None) -> NDArray[np.uint8]:
    # Bytes first: OpenCV cannot open every path that Python can.
    data = None if path is None else np.fromfile(path, np.uint8)
    image = None if data is None or not data.size else cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'MatteMetric: the image {path} cannot be read; LPIPS needs it')
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
