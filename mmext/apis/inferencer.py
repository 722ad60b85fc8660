"""`InstanceInferencer`: images in, objects in the frame of each image out.

mmdet's `DetInferencer` cannot do it: it refuses a test pipeline without `LoadImageFromFile` (ours reads 16-bit and
turned photos), fails on the run-length masks that our heads return, reads the annotation files for the class
names, stops at the first damaged file, and has no tiles.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from torch import nn

from mmext.apis.image_inputs import UNREADABLE, OnError, find_images
from mmext.apis.model import deploy, init_model, read_config
from mmext.apis.pipelines import build_pipeline, test_pipeline
from mmext.apis.tile_merging import merge_tiles
from mmext.apis.tiling import Tiling, Window, place
from mmext.apis.timing import Seconds, timed_test_step

Source: TypeAlias = Path | NDArray[np.uint8]


class Prediction(NamedTuple):
    """What was found in one image.

    Attributes:
        image: (H, W, 3) BGR uint8, as the pipeline loaded it.
        sample: `pred_instances` with `bboxes` (N, 4) xyxy within the image, `scores` (N,), `labels` (N,) and, for
            models with masks, `masks`, a list of N COCO run-length dicts: on the CPU, in the frame of `image`. Meta
            data: `img_path` (None for an array), `img_id` (the position among the inputs), `ori_shape`.
        seconds: the time it took; of a batch, its share.
    """

    image: NDArray[np.uint8]
    sample: DetDataSample
    seconds: Seconds


class InstanceInferencer:
    """Detects and segments objects in images.

        inferencer = InstanceInferencer('config.py', 'epoch_20.pth', tiling=Tiling(640, whole=True))
        for image, sample, seconds in inferencer('photos/'):
            sample.pred_instances.masks

    Images pass through the test pipeline of the config, without its steps that load annotations, and in order
    through the network. In memory are one batch and the images it belongs to.

    Args:
        config: a config file, a Config, or a model that `init_model` or `init_tta_model` made, which is used as it is.
            Of a config, the model is brought into its deploy form (`mmext.apis.model.deploy`) where it has one.
        checkpoint: weights; None keeps those of a given model, or what the constructors drew.
        device: 'cpu', 'cuda:0', ...; of a given model its own counts.
        score_thr: lowest score of an object. For a config, `test_cfg` is set to it as well, with one class per
            place and run-length masks where the head knows these settings: masks of objects that nobody sees would
            cost most of the time.
        batch_size: images, or tiles, that pass through the network together.
        tiling: how large photos are cut; None for whole photos.

    Attributes:
        model: in evaluation, on its device.
        dataset_meta: `classes` and `palette` where they are known.

    Raises:
        ValueError: a number outside its range; the config has no test pipeline; otherwise as `init_model`.
        FileNotFoundError: as `init_model`.
    """

    def __init__(
        self,
        config: str | Path | Config | nn.Module,
        checkpoint: str | Path | None = None,
        device: str = 'cpu',
        *,
        score_thr: float = 0.25,
        batch_size: int = 1,
        tiling: Tiling | None = None,
    ) -> None:
        if not 0 <= score_thr < 1:
            raise ValueError(f'score_thr: got {score_thr}, expected 0 <= score_thr < 1')
        if batch_size < 1:
            raise ValueError(f'batch_size: got {batch_size}, expected at least 1')
        if isinstance(config, nn.Module):
            if checkpoint is not None:
                raise ValueError('got a model and a checkpoint; load it with init_model first')
            self.model = config
        else:
            cfg = prediction_config(read_config(config), score_thr)
            self.model = init_model(cfg, checkpoint, device)
            deploy(self.model)
        self.score_thr = score_thr
        self.batch_size = batch_size
        self.tiling = tiling
        self.dataset_meta: dict[str, Any] = dict(self.model.dataset_meta)  # type: ignore[arg-type]
        self._has_views = isinstance(self.model, BaseTTAModel)
        model_cfg: Any = self.model.cfg
        steps = model_cfg.tta_pipeline if self._has_views else test_pipeline(model_cfg)
        self.loader, self.transforms = build_pipeline(steps, model_cfg)

    def __call__(
        self,
        inputs: Source | str | Iterable[Source | str],
        *,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """Predict images one after the other, as the iterator is asked for them.

        Args:
            inputs: one or several of: image file, folder, pattern (see `find_images`), or (H, W, 3) BGR uint8
                array, as cv2.imread gives it.
            on_error: called with path and error for an image that cannot be read, which is then left out.
                None: the error is raised.

        Raises:
            ValueError: an input is not there; an array of another kind; an image cannot be read.
        """
        photos: deque[_Photo] = deque()
        views = self._views(list_sources(inputs), photos, on_error)
        while batch := list(islice(views, self.batch_size)):
            self._predict(batch)
            # The last photo of the batch may have more tiles to come.
            while photos and photos[0].is_done:
                yield self._finish(photos.popleft())

    def _views(
        self, sources: Iterable[Source], photos: deque['_Photo'], on_error: OnError | None
    ) -> Iterator['_View']:
        """Every window of every readable image; images join `photos` as they are loaded."""
        for index, source in enumerate(sources):
            start = time.perf_counter()
            path = source if isinstance(source, Path) else None
            try:
                image = self._load(source)
            except UNREADABLE as error:
                if on_error is None:
                    raise
                on_error(path, error)
                continue
            height, width = image.shape[:2]
            whole = [Window(0, 0, width, height)]
            windows = whole if self.tiling is None else self.tiling.windows((height, width))
            photo = _Photo(index, path, image, (height, width), windows)
            photo.seconds = Seconds(pre=time.perf_counter() - start)
            photos.append(photo)
            for window in windows:
                yield self._view(photo, window)

    def _load(self, source: Source) -> NDArray[np.uint8]:
        if isinstance(source, Path):
            results = self.loader({'img_path': str(source)})
            # mmcv's loader gives None where it was told to pass over what it cannot read.
            if results is None or 'img' not in results:
                raise ValueError(f'{type(self.loader).__name__} gave no image for {source}')
            return results['img']
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
            raise ValueError(
                f'got an array of shape {source.shape} and type {source.dtype}, expected (H, W, 3) uint8 in BGR; '
                'convert it, for example grey with cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)'
            )
        return source

    def _view(self, photo: '_Photo', window: Window) -> '_View':
        start = time.perf_counter()
        tile = photo.image[window.y1 : window.y2, window.x1 : window.x2]
        results = self.transforms(
            dict(
                # A step of the pipeline may write into the image.
                img=tile.copy(),
                img_shape=tile.shape[:2],
                ori_shape=tile.shape[:2],
                img_path=None if photo.path is None else str(photo.path),
                img_id=photo.index,
            )
        )
        if results is None:
            raise ValueError('the test pipeline dropped an image; remove its step that filters')
        photo.seconds = photo.seconds.plus(Seconds(pre=time.perf_counter() - start))
        return _View(photo, window, results)

    def _predict(self, views: list['_View']) -> None:
        """Run a batch and add what it finds to the photos of its views."""
        data: dict = {
            key: [view.packed[key] for view in views] for key in ('inputs', 'data_samples')
        }
        if self._has_views:
            # From the augmented views of each image to the images of each augmented view.
            data = {key: [*map(list, zip(*own, strict=True))] for key, own in data.items()}
        samples, seconds = timed_test_step(self.model, data)
        for view, sample in zip(views, samples, strict=True):
            start = time.perf_counter()
            found = sample.pred_instances
            found = found[found.scores >= self.score_thr]
            view.photo.found.append(place(found, view.window, view.photo.size))
            own = seconds.divided(len(views)).plus(Seconds(post=time.perf_counter() - start))
            view.photo.seconds = view.photo.seconds.plus(own)

    def _finish(self, photo: '_Photo') -> Prediction:
        start = time.perf_counter()
        (*_, instances) = photo.found
        if len(photo.windows) > 1:
            assert self.tiling is not None
            instances = merge_tiles(
                photo.found, photo.windows, photo.size, threshold=self.tiling.threshold
            )
        path = None if photo.path is None else str(photo.path)
        sample = DetDataSample(
            metainfo=dict(img_id=photo.index, img_path=path, ori_shape=photo.size)
        )
        sample.pred_instances = instances
        merging = Seconds(post=time.perf_counter() - start)
        return Prediction(photo.image, sample, photo.seconds.plus(merging))


@dataclass
class _Photo:
    """An image on its way; `found` fills in the order of `windows`."""

    index: int
    path: Path | None
    image: NDArray[np.uint8]
    size: tuple[int, int]  # height, width
    windows: list[Window]
    found: list[InstanceData] = field(default_factory=list)
    seconds: Seconds = Seconds()

    @property
    def is_done(self) -> bool:
        return len(self.found) == len(self.windows)


class _View(NamedTuple):
    """One window of a photo, packed for the network."""

    photo: _Photo
    window: Window
    packed: dict


def list_sources(inputs: Source | str | Iterable[Source | str]) -> list[Source]:
    """Files and arrays that are meant, in order; see `InstanceInferencer.__call__`."""
    entries = [inputs] if isinstance(inputs, (str, Path, np.ndarray)) else list(inputs)
    sources: list[Source] = []
    for entry in entries:
        sources += [entry] if isinstance(entry, np.ndarray) else find_images(entry)
    return sources


def prediction_config(cfg: Config, score_thr: float | None) -> Config:
    """Set `model.test_cfg` for looking at objects instead of scoring them, where the config names the setting.

    A score threshold before the suppression gives the same objects as one behind it: nothing is suppressed by a
    lower score.

    Args:
        cfg: is changed.
        score_thr: lowest score of an object; None leaves the config's, for views whose scores are averaged.
    """
    test_cfg = cfg.model.get('test_cfg') or {}
    wanted: dict[str, Any] = dict(multi_label=False, mask_format='rle')
    if score_thr is not None:
        wanted['score_thr'] = score_thr
    test_cfg.update({key: value for key, value in wanted.items() if key in test_cfg})
    return cfg
