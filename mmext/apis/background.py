"""`BackgroundRemover`: photos in, cut-outs of exactly their size out.

Network at its own size, guided upsampling to the photo's size, estimate of the foreground's colours. What is made of a
cut-out, and how, stands in compositing.py.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray
from torch import nn

from mmext.apis.cutout import Cutout, PartSeconds
from mmext.apis.foreground import METHODS, estimate_foreground
from mmext.apis.guided import check_image, guided_upsample
from mmext.apis.image_inputs import find_images
from mmext.apis.matte_network import FunctionNetwork, MatteNetwork, ModelNetwork, PredictAlpha
from mmext.apis.model import deploy, init_model
from mmext.apis.photo_files import Photo, read_photo

Clock: TypeAlias = Callable[[], float]
# Alpha this near to 0 or 1 is taken for it: networks are seldom quite sure.
SNAP = 0.01


class BackgroundRemover:
    """Cuts the foreground out of photos.

        remover = BackgroundRemover('config.py', 'epoch_100.pth')
        for cutout in remover('photos/'):
            write_png(f'{cutout.path.stem}.png', cutout.rgba(), cutout.profile)

    In memory are the photos of one batch; the work on each adds about 20 bytes for each of its pixels, however large.

    Args:
        model: config of a matting model, as file or Config; a model from `init_model`; or any function from
            (H, W, 3) uint8 RGB to an alpha, float32 in [0, 1] of any size.
        checkpoint: weights, of a config.
        device: of a config.
        foreground: how its colours are estimated: 'blur', 'ml' or 'none', see `estimate_foreground`.
        tta: mean of the alphas of the image and of its mirror image, for twice the time.
        snap: alphas below `snap` become 0, those above 1 - `snap` become 1.
        clock: what times the parts, in seconds.

    Raises:
        ValueError: an unknown method, a number outside its range, or a checkpoint that nothing is to be done with;
            otherwise as `init_model`.
        FileNotFoundError: as `init_model`.
    """

    def __init__(
        self,
        model: str | Path | Config | nn.Module | PredictAlpha,
        checkpoint: str | Path | None = None,
        device: str = 'cpu',
        *,
        foreground: str = 'blur',
        tta: bool = False,
        snap: float = SNAP,
        clock: Clock = time.perf_counter,
    ) -> None:
        if foreground not in METHODS:
            raise ValueError(
                f'foreground: got {foreground!r}, expected one of {", ".join(METHODS)}'
            )
        if not 0 <= snap < 0.5:
            raise ValueError(f'snap: got {snap}, expected 0 <= snap < 0.5')
        self.network = _network(model, checkpoint, device)
        self.foreground = foreground
        self.tta = tta
        self.snap = snap
        self.clock = clock

    def __call__(
        self,
        inputs: str | Path | NDArray[np.uint8] | Iterable[str | Path | NDArray[np.uint8]],
        *,
        batch_size: int = 1,
        on_error: Callable[[Path, Exception], None] | None = None,
    ) -> Iterator[Cutout]:
        """Cut-outs one after the other, as the iterator is asked for them.

        Args:
            inputs: one or several of: image file, folder, pattern (see `find_images`), or (H, W, 3) uint8 RGB array.
            batch_size: photos that are read together; those of one size at the network pass through it together.
            on_error: called with path and error for a file that cannot be read, which is then left out. None: the
                error is raised.

        Raises:
            ValueError: an input is not there, is of another kind, or cannot be read.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size: got {batch_size}, expected at least 1')
        loaded = self._load(_sources(inputs), on_error)
        while batch := list(islice(loaded, batch_size)):
            photos = [photo for _, photo, _ in batch]
            for (path, photo, decode), matte in zip(batch, self.mattes(photos), strict=True):
                yield self.finish(photo, matte, path=path, decode=decode)

    def mattes(self, photos: Sequence[Photo]) -> list['Matte']:
        """Alphas of several photos at the size of the network."""
        clock = self.clock
        prepared, groups, pre = [], defaultdict(list), []
        for index, photo in enumerate(photos):
            start = clock()
            prepared.append(self.network.prepare(photo.pixels))
            groups[prepared[-1].shape].append(index)
            pre.append(clock() - start)
        mattes: dict[int, Matte] = {}
        for indices in groups.values():
            start = clock()
            alphas = self._views_mean([prepared[index] for index in indices])
            net = (clock() - start) / len(indices)
            for index, alpha in zip(indices, alphas, strict=True):
                mattes[index] = Matte(prepared[index], alpha, pre[index], net)
        return [mattes[index] for index in range(len(photos))]

    def finish(
        self, photo: Photo, matte: 'Matte', *, path: Path | None = None, decode: float = 0.0
    ) -> Cutout:
        """The cut-out of a photo from its small alpha.

        Args:
            photo: as it was read.
            matte: of `mattes`.
            path: for the result.
            decode: seconds that reading took, for the result.
        """
        clock = self.clock
        start = clock()
        alpha = snap_alpha(guided_upsample(matte.alpha, photo.pixels), self.snap)
        if photo.alpha is not None:
            # What was transparent stays so.
            alpha = np.minimum(alpha, photo.alpha)
        upsampled = clock()
        colors = estimate_foreground(photo.pixels, alpha, self.foreground)
        times = PartSeconds(decode, matte.pre, matte.net, upsampled - start, clock() - upsampled)
        return Cutout(photo.pixels, alpha, colors, photo.profile, path, times)

    def _views_mean(self, images: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        alphas = self.network.predict(images)
        if not self.tta:
            return alphas
        mirrored = self.network.predict([np.ascontiguousarray(image[:, ::-1]) for image in images])
        return [
            (alpha + other[:, ::-1]) / np.float32(2)
            for alpha, other in zip(alphas, mirrored, strict=True)
        ]

    def _load(
        self,
        sources: Iterable[Path | NDArray[np.uint8]],
        on_error: Callable[[Path, Exception], None] | None,
    ) -> Iterator[tuple[Path | None, Photo, float]]:
        """Path, photo and the seconds that reading took, of all that can be read."""
        for source in sources:
            if not isinstance(source, Path):
                check_image(source)
                yield None, Photo(source), 0.0
                continue
            start = self.clock()
            try:
                photo = read_photo(source)
            except (ValueError, OSError) as error:
                if on_error is None:
                    raise
                on_error(source, error)
                continue
            yield source, photo, self.clock() - start


class Matte(NamedTuple):
    """What the network says about a photo.

    Attributes:
        image: (h, w, 3) uint8 RGB, what it saw.
        alpha: (h, w) float32 in [0, 1].
        pre: seconds for making the image.
        net: seconds for the network.
    """

    image: NDArray[np.uint8]
    alpha: NDArray[np.float32]
    pre: float
    net: float


def snap_alpha(alpha: NDArray[np.float32], snap: float) -> NDArray[np.float32]:
    """(H, W): 0 below `snap`, 1 above 1 - `snap`; all between stays. Never stretched: a photo of nobody stays empty."""
    alpha = np.where(alpha < snap, np.float32(0), alpha)
    alpha[alpha > 1 - snap] = 1
    return alpha


def _network(
    model: str | Path | Config | nn.Module | PredictAlpha,
    checkpoint: str | Path | None,
    device: str,
) -> MatteNetwork:
    if isinstance(model, (str, Path, Config)):
        built = init_model(model, checkpoint, device)
        deploy(built)
        return ModelNetwork(built)
    if checkpoint is not None:
        raise ValueError('got a model and a checkpoint; load it with init_model first')
    return ModelNetwork(model) if isinstance(model, nn.Module) else FunctionNetwork(model)


def _sources(
    inputs: str | Path | NDArray[np.uint8] | Iterable[str | Path | NDArray[np.uint8]],
) -> Iterator[Path | NDArray[np.uint8]]:
    entries = [inputs] if isinstance(inputs, (str, Path, np.ndarray)) else inputs
    for entry in entries:
        yield from [entry] if isinstance(entry, np.ndarray) else find_images(entry)
