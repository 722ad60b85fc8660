"""What `BackgroundRemover` asks for an alpha: a matting model of mmext, or any function."""

from collections.abc import Callable, Sequence
from typing import Protocol

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from numpy.typing import NDArray
from torch import nn

from mmext.apis.pipelines import build_pipeline, test_pipeline
from mmext.datasets.transforms.alpha import LoadAlpha

PredictAlpha = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class MatteNetwork(Protocol):
    """Alphas of images, in two steps so that equal sizes can go together."""

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w, 3) RGB, what the network will see of (H, W, 3) RGB."""

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """An alpha in [0, 1] for each of several prepared images of one size; of any size, usually theirs."""


class FunctionNetwork:
    """A function from the whole image to its alpha, called for one image at a time.

    Args:
        predict_alpha: (H, W, 3) uint8 RGB -> (h, w) float32 in [0, 1], of any size.
    """

    def __init__(self, predict_alpha: PredictAlpha) -> None:
        self.predict_alpha = predict_alpha

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image itself: the function prepares it."""
        return image

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """See `MatteNetwork`."""
        return [self.predict_alpha(image) for image in images]


class ModelNetwork:
    """A model such as `mmext.MatteEncoderDecoder` with the test pipeline of its config.

    The pipeline makes the network's image of the photo; from there on that counts as the original, so that the model
    gives its alpha at that size and not enlarged without the photo's edges.

    Args:
        model: from `init_model`: in evaluation, with `cfg`.

    Raises:
        ValueError: the config has no test pipeline.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        cfg: object = model.cfg
        _, steps = build_pipeline(test_pipeline(cfg), cfg)  # type: ignore[arg-type]
        own = [step for step in steps.transforms if not isinstance(step, LoadAlpha)]
        self._geometry, self._pack = Compose(own[:-1]), own[-1]
        self._scope = cfg.get('default_scope', 'mmseg')  # type: ignore[attr-defined]

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `MatteNetwork`."""
        shape = image.shape[:2]
        # The loaders give BGR.
        own = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        results = self._geometry(dict(img=own, img_shape=shape, ori_shape=shape, img_path=None))
        if results is None:
            raise ValueError('the test pipeline dropped an image; remove its step that filters')
        return cv2.cvtColor(results['img'], cv2.COLOR_BGR2RGB)

    @torch.no_grad()
    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """See `MatteNetwork`."""
        packed = [self._pack(self._results(image)) for image in images]
        with DefaultScope.overwrite_default_scope(self._scope):
            samples = self.model.test_step(pseudo_collate(packed))  # type: ignore[operator]
        missing = [sample for sample in samples if 'pred_alpha' not in sample]
        if missing:
            raise ValueError(
                f'{type(self.model).__name__} predicts no alpha: got {sorted(missing[0].keys())}, expected '
                '`pred_alpha`, as mmext.MatteEncoderDecoder gives it'
            )
        return [sample.pred_alpha.data[0].float().cpu().numpy() for sample in samples]

    @staticmethod
    def _results(image: NDArray[np.uint8]) -> dict:
        shape = image.shape[:2]
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        return dict(
            img=bgr, img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_path=None
        )
