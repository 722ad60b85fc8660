"""`SemanticMetric`: scores of maps of classes in validation and test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_dist_info, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from numpy.typing import NDArray
from terminaltables import AsciiTable
from torch import Tensor

from mmext.evaluation.boundary import DILATION_RATIO
from mmext.evaluation.confusion import draw_confusion, write_confusion_csv
from mmext.evaluation.label_maps import LabelCounts, count_labels, label_scores, no_counts
from mmext.registry import METRICS

RUN_FOLDER = 'run'
NAME = 'confusion'


@METRICS.register_module()
class SemanticMetric(BaseMetric):
    """mIoU, boundary IoU and confusion matrix of `pred_sem_seg` against `gt_sem_seg`.

    Results, in percent and not rounded: `aAcc` and the means over classes `mIoU`, `mAcc`, `mDice`, equal to those of
    mmseg's IoUMetric; `mBoundaryIoU`; with `classwise` also `IoU/<class>` and `BoundaryIoU/<class>`. A class that neither
    truth nor prediction shows has no score and is left out of the means. A table of all classes goes to the log.

    Only sums are kept, so that memory does not grow with the data set, and processes add theirs up.

    Args:
        boundary_ratio: width of boundaries as a share of the picture's diagonal; None for no boundary IoU.
        classwise: also the results of each class.
        save_to: folder for confusion.csv (pixels) and confusion.png (shares of the true class): 'run' for the folder of
            this run's log, None for no files.
        ignore_index: label of pixels without truth.
        collect_device: 'cpu' or 'gpu', see mmengine's BaseMetric.
        prefix: see mmengine's BaseMetric; None for none.

    Raises:
        ValueError: a ratio that is no share.
    """

    def __init__(
        self,
        *,
        boundary_ratio: float | None = DILATION_RATIO,
        classwise: bool = False,
        save_to: str | None = None,
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if boundary_ratio is not None and not 0 < boundary_ratio < 1:
            raise ValueError(
                f'SemanticMetric: got boundary_ratio={boundary_ratio}; expected a share of the diagonal such as '
                f'{DILATION_RATIO}, or None'
            )
        self.boundary_ratio = boundary_ratio
        self.classwise = classwise
        self.save_to = save_to
        self.ignore_index = ignore_index
        self._forget()

    def _forget(self) -> None:
        self._earlier: LabelCounts | None = None
        # The last picture of a process may repeat one that another process has.
        self._last: LabelCounts | None = None
        self._num_pictures = 0

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes.

        Raises:
            ValueError: the data set has none.
        """
        classes = (self.dataset_meta or {}).get('classes')
        if not classes:
            raise ValueError(
                'SemanticMetric: got a data set without class names; set metainfo=dict(classes=(...)) of the dataset'
            )
        return classes

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count a batch.

        Args:
            data_batch: not looked at.
            data_samples: dicts with `pred_sem_seg` and `gt_sem_seg`, (1, H, W) each, and perhaps `img_path`.

        Raises:
            ValueError: the truth is missing, or values and sizes do not fit; the message names the picture.
        """
        for sample in data_samples:
            name = sample.get('img_path', 'a picture')
            predicted = _plane(sample, 'pred_sem_seg', name)
            truth = _plane(sample, 'gt_sem_seg', name)
            try:
                counts = count_labels(
                    predicted,
                    truth,
                    len(self.classes),
                    ignore_index=self.ignore_index,
                    ratio=self.boundary_ratio,
                )
            except ValueError as error:
                raise ValueError(f'SemanticMetric: {name}: {error}') from error
            if self._last is not None:
                self._earlier = self._last if self._earlier is None else self._earlier + self._last
            self._last = counts
            self._num_pictures += 1

    def evaluate(self, size: int) -> dict[str, float]:
        """Add up what all processes counted, and score it.

        Samplers fill the last round with repeated pictures so that every process has as many. As in mmengine's own way
        of collecting, picture i of a process is number i * processes + rank of all, and numbers from `size` on repeat.

        Args:
            size: pictures of the data set.

        Returns:
            See the class.
        """
        rank, world_size = get_dist_info()
        counts = self._earlier or no_counts(len(self.classes))
        is_repeated = (self._num_pictures - 1) * world_size + rank >= size
        if self._last is not None and not is_repeated:
            counts = counts + self._last
        self._forget()
        summed = []
        for own in counts:
            tensor = torch.from_numpy(own)
            all_reduce(tensor)
            summed.append(tensor.cpu().numpy())
        scores = self.compute_metrics([LabelCounts(*summed)])
        if self.prefix:
            scores = {f'{self.prefix}/{name}': value for name, value in scores.items()}
        return scores

    def compute_metrics(self, results: list[LabelCounts]) -> dict[str, float]:
        """See the class.

        Args:
            results: counts to be added up.
        """
        counts = results[0]
        for own in results[1:]:
            counts = counts + own
        if not counts.confusion.any():
            print_log(
                'SemanticMetric: not one pixel has a truth; all scores are NaN', 'current', 30
            )
        by_class = label_scores(counts)
        if self.boundary_ratio is None:
            del by_class['BoundaryIoU']
        scores = {'aAcc': float(by_class.pop('aAcc')[0])}
        for name in ('IoU', 'Acc', 'Dice', 'BoundaryIoU'):
            if name in by_class:
                scores[f'm{name}'] = mean_of_known(by_class[name])
        if self.classwise:
            for name in ('IoU', 'BoundaryIoU'):
                for label, value in zip(self.classes, by_class.get(name, ()), strict=False):
                    scores[f'{name}/{label}'] = float(value)
        MMLogger.get_current_instance().info('\n' + score_table(by_class, counts, self.classes))
        if is_main_process():
            self._save(counts.confusion)
        return scores

    def _save(self, confusion: NDArray[np.int64]) -> None:
        """Write the confusion matrix, if wanted."""
        folder = run_folder() if self.save_to == RUN_FOLDER else self.save_to
        if folder is None:
            if self.save_to is not None:
                print_log(
                    'SemanticMetric: this run writes no log, so no confusion matrix either',
                    'current',
                    30,
                )
            return
        write_confusion_csv(Path(folder) / f'{NAME}.csv', confusion, self.classes)
        draw_confusion(Path(folder) / f'{NAME}.png', confusion, self.classes)
        print_log(f'confusion matrix: {Path(folder) / NAME}.csv and .png', 'current')


def run_folder() -> Path | None:
    """The folder of the current run's log: WORK_DIR/<time>; None where no file is written."""
    logger = MMLogger.get_current_instance()
    files = [
        handler.baseFilename for handler in logger.handlers if hasattr(handler, 'baseFilename')
    ]
    return Path(files[0]).parent if files else None


def mean_of_known(values: NDArray[np.float64]) -> float:
    """Mean of the values that are numbers; NaN of none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float('nan')


def score_table(
    by_class: Mapping[str, NDArray[np.float64]], counts: LabelCounts, classes: Sequence[str]
) -> str:
    """The scores of each class, its share of the true pixels, and what it is mistaken for most."""
    names = list(by_class)
    shares = counts.confusion.sum(axis=1) / max(int(counts.confusion.sum()), 1)
    rows = [['class', 'pixels', *names, 'most often taken for']]
    for index, name in enumerate(classes):
        values = [f'{by_class[own][index]:.2f}' for own in names]
        rows.append([name, f'{shares[index]:.2%}', *values, mistaken_for(counts, classes, index)])
    rows.append(['mean', '', *(f'{mean_of_known(by_class[own]):.2f}' for own in names), ''])
    return AsciiTable(rows).table


def mistaken_for(counts: LabelCounts, classes: Sequence[str], index: int) -> str:
    """The wrong class that most pixels of a class were given, with their share; '' where there is none."""
    row = counts.confusion[index].copy()
    total = row.sum()
    row[index] = 0
    return f'{classes[int(row.argmax())]} {row.max() / total:.1%}' if row.any() else ''


def _plane(sample: Mapping[str, Any], key: str, name: str) -> NDArray:
    """A field (1, H, W) as whole numbers (H, W)."""
    if key not in sample:
        raise ValueError(
            f'SemanticMetric: {name} has no {key}; expected pred_sem_seg of a semantic segmentor of mmseg, and gt_sem_seg, '
            'as LoadAnnotations and PackSegInputs bring it'
        )
    field = sample[key]
    data = field['data'] if isinstance(field, Mapping) else getattr(field, 'data', field)
    if isinstance(data, Tensor):
        # Of 255 classes and less a byte a pixel travels from the device; thresholded logits are 0.0 and 1.0.
        data = data.detach().short().cpu().numpy()
    plane = np.asarray(data)
    return plane.reshape(plane.shape[-2:])
