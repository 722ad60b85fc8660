"""Pictures of predictions, painted into the photo as the model saw it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner

from mmext.registry import HOOKS


@HOOKS.register_module()
class InstanceVisualizationHook(Hook):
    """Paints what a detector found in validation and test, with the visualizer of the run.

    mmdet's `DetVisualizationHook` reads each photo as OpenCV turns it. Where the annotations were made on a turned photo
    as it is stored, `mmext.LoadImage` leaves it so, and boxes and masks would not fit the picture. Here the photo is
    read by `LoadImage` too, in the frame that the sample's `ori_shape` tells.

    Args:
        draw: whether to paint at all.
        interval: validation steps between two pictures, each of the first photo of its batch. Tests paint every photo.
        score_thr: lowest score of an object that is painted.
        test_out_dir: folder for the pictures of a test, named like their photos, with folders of the photo before the
            name where that is taken (`b_1.jpg`); below the run's own folder where it is relative. None leaves them to the visualizer's backends.
        backend_args: of mmengine's file backend for the photos; None for local files.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        *,
        score_thr: float = 0.3,
        test_out_dir: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        self.draw = draw
        self.interval = interval
        self.score_thr = score_thr
        self.test_out_dir = test_out_dir
        self.num_tested = 0
        self._taken: dict[str, Path] = {}
        self._load = TRANSFORMS.build(dict(type='mmext.LoadImage', backend_args=backend_args))

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Paints the first photo of every `interval`-th batch."""
        step = runner.iter + batch_idx
        if self.draw and outputs and step % self.interval == 0:
            self._paint(runner, 'val_img', outputs[0], step)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Paints every photo of the batch."""
        if not self.draw:
            return
        for sample in outputs or ():
            self.num_tested += 1
            out_file = None
            if self.test_out_dir is not None:
                folder = Path(runner.work_dir, runner.timestamp, self.test_out_dir)
                out_file = str(folder / self._free_name(Path(sample.img_path)))
            self._paint(runner, 'test_img', sample, self.num_tested, out_file)

    def _free_name(self, photo: Path) -> str:
        """The name of a photo; of photos of one name in several folders, so much of the path that none is lost."""
        parts = photo.absolute().parts[1:]
        names = ['_'.join(parts[-count:]) for count in range(1, len(parts) + 1)]
        # a_b/1.jpg and a/b_1.jpg: the last resort is a number.
        names.append(f'{len(self._taken)}_{names[-1]}')
        return next(name for name in names if self._taken.setdefault(name, photo) == photo)

    def _paint(
        self, runner: Runner, name: str, sample: Any, step: int, out_file: str | None = None
    ) -> None:
        runner.visualizer.add_datasample(
            name,
            self._read(sample),
            data_sample=sample,
            pred_score_thr=self.score_thr,
            out_file=out_file,
            step=step,
        )

    def _read(self, sample: Any) -> np.ndarray:
        """The photo of a sample, (H, W, 3) RGB uint8, in the frame of its boxes."""
        height, width = sample.ori_shape
        photo = self._load(dict(img_path=sample.img_path, height=height, width=width))['img']
        return cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)
