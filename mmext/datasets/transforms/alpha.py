"""Soft mattes in a pipeline: load them beside the image, turn them into classes, pack them for the network.

A sample carries `gt_alpha`, (H, W) float32 in [0, 1], and where part of the truth is unknown `gt_valid`, (H, W)
bool. Their names are listed in `alpha_fields`; the transforms of alpha_geometry.py move all that is listed there.
"""

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from numpy.typing import NDArray

from mmext.datasets.checks import checked_fraction
from mmext.datasets.image_files import orientation
from mmext.datasets.transforms.alpha_files import decode_alpha, read_bytes, turned
from mmext.datasets.transforms.loading import LoadImage
from mmext.registry import TRANSFORMS
from mmext.structures.label_maps import NOT_LABELLED

PACKED_META = ('img_path', 'alpha_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip')


@TRANSFORMS.register_module()
class LoadAlpha(BaseTransform):
    """Load `alpha_path` as `gt_alpha` and, where the sample names one, `foreground_path` as `foreground`.

    What the values of a file mean is said in alpha_files.py. The matte must have the size of the image as it was
    loaded, `ori_shape`: in training the transform comes right after `LoadImage`, in validation after the resizing,
    since predictions are scored at the original size.

    An image with an EXIF tag is turned upright by `LoadImage`. A matte of the upright size is taken as it is; one of
    the size as stored was drawn on the image without the tag, and is turned as the image was. Where both sizes are
    the same (half a turn, mirrored, square) nothing can be told, and the matte counts as upright.

    Required keys: `img_path`, `alpha_path`, `ori_shape` (h, w).
    Added keys: `gt_alpha`, (h, w) float32 in [0, 1]; `alpha_fields`; `foreground`, (h, w, 3) uint8 BGR.

    Args:
        backend_args: Of mmengine's file backend; None for local files.

    Raises:
        ValueError: The file is missing, damaged, no matte or of another size than the image. Every message names
            the file.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args
        self.load_foreground = LoadImage(backend_args)

    def transform(self, results: dict) -> dict:
        """See the class."""
        if not results.get('alpha_path'):
            raise ValueError(
                f'The sample of {results.get("img_path")} names no alpha_path, so there is no matte to load. Use '
                'mmext.MatteDataset, or take LoadAlpha out of the pipeline.'
            )
        path, shape = results['alpha_path'], tuple(results['ori_shape'][:2])
        data = read_bytes(path, self.backend_args)
        alpha = self._in_frame(turned(decode_alpha(data, path), orientation(data)), shape, results)
        results['gt_alpha'] = alpha
        results['alpha_fields'] = [*results.get('alpha_fields', []), 'gt_alpha']
        if results.get('foreground_path'):
            results['foreground'] = self._foreground(results['foreground_path'], shape, results)
        return results

    def _in_frame(
        self, alpha: NDArray[np.float32], shape: tuple[int, ...], results: dict
    ) -> NDArray[np.float32]:
        if alpha.shape == shape:
            return alpha
        if alpha.shape[::-1] == shape:
            # The image is read again only in this rare case.
            exif = orientation(read_bytes(results['img_path'], self.backend_args))
            if exif >= 5:
                return turned(alpha, exif)
        raise ValueError(_other_size('alpha', results['alpha_path'], alpha.shape, shape, results))

    def _foreground(self, path: str, shape: tuple[int, ...], results: dict) -> NDArray[np.uint8]:
        image = self.load_foreground.transform({'img_path': path})['img']
        if image.shape[:2] != shape:
            raise ValueError(_other_size('foreground', path, image.shape, shape, results))
        return image

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'


@TRANSFORMS.register_module()
class AlphaToSegMap(BaseTransform):
    """Make two classes of a soft matte, `gt_seg_map`, for the models and metrics of mmseg that know no matte.

    Required keys: `gt_alpha`; `gt_valid` where part of the truth is unknown.
    Added keys: `gt_seg_map`, (h, w) uint8: 1 where alpha >= threshold, else 0; 255 (ignored) where not valid. It comes
    right before the packing: the geometric transforms of mmext leave it behind.

    Args:
        threshold: In (0, 1].
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = checked_fraction(threshold, 'threshold')

    def transform(self, results: dict) -> dict:
        """See the class."""
        classes = (results['gt_alpha'] >= self.threshold).astype(np.uint8)
        if 'gt_valid' in results:
            classes[~results['gt_valid']] = NOT_LABELLED
        results['gt_seg_map'] = classes
        results['seg_fields'] = [*results.get('seg_fields', []), 'gt_seg_map']
        return results


@TRANSFORMS.register_module()
class PackMatteInputs(BaseTransform):
    """Turn a sample into what the model takes.

    Result: `inputs`, (3, H, W) uint8 tensor BGR; `data_samples`, a `SegDataSample` whose fields are, as far as the
    sample has them, `gt_alpha`, PixelData of (1, h, w) float32 in [0, 1], `gt_valid`, (1, h, w) bool, and
    `gt_sem_seg`, (1, h, w) int64. (h, w) is (H, W) in training and the original size in validation.

    Args:
        meta_keys: What of the sample becomes metainfo, as far as it is there.

    Raises:
        ValueError: Image or matte are of the wrong type, or the matte has neither the size of the image nor the
            original one.
    """

    def __init__(self, meta_keys: tuple[str, ...] = PACKED_META) -> None:
        self.meta_keys = meta_keys

    def transform(self, results: dict) -> dict:
        """See the class."""
        image = results['img']
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f'{results.get("img_path")}: got an image of shape {image.shape} and type {image.dtype}; expected '
                '(h, w, 3) uint8. The preprocessor of the model normalises, no transform does.'
            )
        sample = SegDataSample(
            metainfo={key: results[key] for key in self.meta_keys if key in results}
        )
        for name, dtype in (('gt_alpha', np.float32), ('gt_valid', np.bool_)):
            if name in results:
                _check_plane(name, results, dtype)
                sample.set_field(_pixels(results[name]), name)
        if 'gt_seg_map' in results:
            sample.gt_sem_seg = _pixels(results['gt_seg_map'].astype(np.int64))
        inputs = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return {'inputs': inputs, 'data_samples': sample}


def _pixels(plane: NDArray) -> PixelData:
    """(h, w) as PixelData of (1, h, w)."""
    return PixelData(data=torch.from_numpy(np.ascontiguousarray(plane))[None])


def _check_plane(name: str, results: dict, dtype: type) -> None:
    plane, sizes = results[name], (results['img'].shape[:2], tuple(results['ori_shape'][:2]))
    if plane.dtype != dtype or plane.shape not in sizes:
        raise ValueError(
            f'{results.get("img_path")}: got {name} of shape {plane.shape} and type {plane.dtype}; expected '
            f'{np.dtype(dtype)} of the size of the image {sizes[0]} (training) or the original one {sizes[1]} (LoadAlpha '
            'after the resizing). Move image and matte with the transforms of mmext.'
        )


def _other_size(
    kind: str, path: str, got: tuple[int, ...], expected: tuple[int, ...], results: dict
) -> str:
    """The message about a file that does not fit its image, sizes as (h, w)."""
    return (
        f'The {kind} file {path} has {got[1]} x {got[0]} pixels, its image {results["img_path"]} has {expected[1]} x '
        f'{expected[0]} (width x height). Every matte needs the size of its image: check that the two belong '
        'together, and resize one of them once, on disk.'
    )
