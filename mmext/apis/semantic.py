"""`SemanticSegmenter`: images in, the class of every pixel out."""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from torch import nn

from mmext.apis.image_inputs import UNREADABLE, OnError
from mmext.apis.model import deploy, init_model
from mmext.apis.semantic_inputs import Source, find_sources, read_source
from mmext.apis.semantic_network import (
    ConfigPreparation,
    Preparation,
    PresetPreparation,
    SemanticNetwork,
)
from mmext.apis.semantic_passes import ImageOnWay, Passes
from mmext.apis.semantic_presets import Preset, find_preset
from mmext.apis.semantic_result import Segmentation, describe_classes
from mmext.apis.semantic_rows import RowSource, decide
from mmext.apis.semantic_windows import Slide
from mmext.apis.timing import Seconds


class SemanticSegmenter:
    """Says the class of every pixel of images.

        segmenter = SemanticSegmenter('config.py', 'iter_160000.pth')
        for result in segmenter('photos/'):
            result.class_map, result.forward_ms, result.overlay()

    Logits of the head's resolution, H/4 x W/4 of the network's input for most, are enlarged to the size of the image a
    few rows at a time, and the greatest decides. In memory are one batch of images with these logits and a few pieces of
    16 MB of enlarged ones. With `windows`, the place of a batch's logits is taken by those of the rows of windows that
    reach a row of pixels, two at most places: they grow with the width of the image, not with its height. 150 classes,
    30000 pixels wide, windows of 512 every 384: 1.5 GB.

    Args:
        config: a config file, a Config, or a model that `init_model` made, which is used as it is. Of a config, the
            model is brought into its deploy form (`mmext.apis.model.deploy`) where it has one.
        checkpoint: weights; None keeps those of a given model, or what the constructors drew.
        device: 'cpu', 'cuda:0', ...; of a given model its own counts.
        preset: how images are prepared: 'hf', 'mmseg' or 'nvlabs', or a `Preset` of one's own (see
            `semantic_presets`). None: by the test pipeline of the config and the data preprocessor of the model.
        batch_size: images, or windows, that pass through the network together; only those of one size there do.
        windows: cut images into these, each prepared as if it were an image; their logits are blended where they
            overlap. None for whole images. (`test_cfg=dict(mode='slide')` of the model is another matter and is always
            done: it cuts the prepared image, and takes the plain mean, as mmseg does.)
        keep_logits: give the logits of the head as well.
        keep_confidence: give the probability of the chosen class as well.

    Attributes:
        network: the model and what is known of its logits.
        classes: names by label.
        palette: RGB colours by label, (K, 3) uint8.

    Raises:
        ValueError: a model of another kind or in training mode; another number of class names than of classes; an
            argument outside its range, or one that the model cannot do; otherwise as `init_model`.
        FileNotFoundError: as `init_model`.
    """

    def __init__(
        self,
        config: str | Path | Config | nn.Module,
        checkpoint: str | Path | None = None,
        device: str = 'cpu',
        *,
        preset: str | Preset | None = None,
        batch_size: int = 1,
        windows: Slide | None = None,
        keep_logits: bool = False,
        keep_confidence: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f'batch_size: got {batch_size}, expected at least 1')
        # A wrong name shall not cost the time of building a model.
        preset = find_preset(preset) if isinstance(preset, str) else preset
        model = _model(config, checkpoint, device)
        self.network = SemanticNetwork(model)
        preparation: Preparation = (
            ConfigPreparation(model) if preset is None else PresetPreparation(preset)
        )
        self._passes = Passes(self.network, preparation, _slide_of(model), batch_size)
        meta: dict[str, Any] = getattr(model, 'dataset_meta', None) or {}
        self.classes, self.palette = describe_classes(meta, self.network.num_logits)
        self.batch_size = batch_size
        self.windows = windows
        self.keep_logits = keep_logits
        self.keep_confidence = keep_confidence
        self._check_wishes()

    def __call__(
        self,
        inputs: Source | str | Iterable[Source | str],
        *,
        on_error: OnError | None = None,
    ) -> Iterator[Segmentation]:
        """Segment images one after the other, as the iterator is asked for them.

        Args:
            inputs: one or several of: image file, folder, pattern (see `find_images`), image of Pillow, or (H, W, 3)
                BGR uint8 array, as cv2.imread gives it. Of a generator, no more are held than pass together.
            on_error: called with path (None for images in memory) and error for an image that cannot be read, that
                the network cannot take, or whose logits are no numbers; it is then left out. None: the error is raised.

        Raises:
            ValueError: an input is not there; an array of another kind; an image comes to nothing, which is named.
        """
        images = self._load(find_sources(inputs), on_error)
        while batch := list(islice(images, self.batch_size)):
            for image, source in self._passed(batch, on_error):
                try:
                    result = self._finish(image, source)
                except UNREADABLE as error:
                    _tell(image.path, image.index, error, on_error)
                    continue
                yield result

    def _check_wishes(self) -> None:
        if self.keep_logits and (self.windows or self._passes.slide):
            raise ValueError(
                'keep_logits: got windows, whose logits lie on no common grid; expected whole images'
            )
        if self.keep_confidence and not self.network.has_logits:
            raise ValueError(
                f'keep_confidence: got a {type(self.network.model.decode_head).__name__}, whose scores are no logits; '
                'expected a head with logits'
            )

    def _load(self, sources: Iterable[Source], on_error: OnError | None) -> Iterator[ImageOnWay]:
        for index, source in enumerate(sources):
            start = time.perf_counter()
            path = source if isinstance(source, Path) else None
            try:
                pixels = read_source(source, self._passes.preparation.load)
                image = ImageOnWay(index, path, pixels, pre=time.perf_counter() - start)
                if self.windows is None:
                    image.prepared = self._passes.prepare(image)
            except UNREADABLE as error:
                _tell(path, index, error, on_error)
                continue
            yield image

    def _passed(
        self, batch: Sequence[ImageOnWay], on_error: OnError | None
    ) -> Sequence[tuple[ImageOnWay, RowSource | None]]:
        """Images with their logits, or with None for windows, which pass through the network row by row.

        Where a batch fails, its images pass one by one: what is wrong belongs to one of them.
        """
        if self.windows is not None:
            return [(image, None) for image in batch]
        try:
            return list(zip(batch, self._passes.whole(batch), strict=True))
        except UNREADABLE as error:
            if len(batch) == 1:
                _tell(batch[0].path, batch[0].index, error, on_error)
                return []
        return [pair for image in batch for pair in self._passed([image], on_error)]

    def _finish(self, image: ImageOnWay, source: RowSource | None) -> Segmentation:
        start, before = time.perf_counter(), image.pre + image.net
        if source is None:
            assert self.windows is not None
            source = self._passes.blended(image, self.windows)
        decision = decide(
            source,
            self.network.num_logits,
            threshold=self.network.threshold,
            with_confidence=self.keep_confidence,
        )
        # Windows are prepared and pass through the network when their rows are asked for.
        inner = image.pre + image.net - before
        post = time.perf_counter() - start - inner
        logits = None
        if self.keep_logits:
            assert image.logits is not None
            logits = np.ascontiguousarray(image.logits[0].cpu().numpy())
        return Segmentation(
            class_map=decision.class_map,
            classes=self.classes,
            palette=self.palette,
            image=image.pixels,
            index=image.index,
            path=image.path,
            seconds=Seconds(image.pre, image.net, post),
            logits=logits,
            confidence=decision.confidence,
        )


def _model(
    config: str | Path | Config | nn.Module, checkpoint: str | Path | None, device: str
) -> nn.Module:
    if isinstance(config, nn.Module):
        if checkpoint is not None:
            raise ValueError('got a model and a checkpoint; load it with init_model first')
        return config
    model = init_model(config, checkpoint, device)
    deploy(model)
    return model


def _tell(path: Path | None, index: int, error: Exception, on_error: OnError | None) -> None:
    """Pass on what is wrong with an image, in words that name it.

    Raises:
        ValueError: there is nobody to pass it on to.
    """
    name, text = str(path or f'image {index} of the inputs'), str(error)
    named = ValueError(text if name in text else f'{name}: {text}')
    named.__cause__ = error
    if on_error is None:
        raise named
    on_error(path, named)


def _slide_of(model: Any) -> Slide | None:
    """The windows that the config of a model asks for."""
    test_cfg = model.test_cfg or {}
    if test_cfg.get('mode') != 'slide':
        return None
    return Slide(tuple(test_cfg['crop_size']), tuple(test_cfg['stride']))
