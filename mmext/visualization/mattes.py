"""Pictures of mattes: photo, truth, prediction and cut-out side by side."""

from pathlib import Path

import cv2
import numpy as np
from mmengine.dist import master_only
from mmengine.visualization import Visualizer
from numpy.typing import NDArray

from mmext.registry import VISUALIZERS

# Side of a square of the checkerboard in pixels, and its two greys.
CHECKER_SIDE = 16
CHECKER_GREYS = (255, 204)
GAP = 4


@VISUALIZERS.register_module()
class MatteVisualizer(Visualizer):
    """Paints predicted mattes into files or the backends of the run; goes with `mmext.InstanceVisualizationHook`.

    Args:
        name: as in mmengine.
        vis_backends: configs of backends, such as `dict(type='LocalVisBackend')`.
        save_dir: folder of the backends.
        max_side: the photo's longer side in the picture, in pixels; larger ones are shrunk.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        vis_backends: list[dict] | None = None,
        save_dir: str | None = None,
        *,
        max_side: int = 640,
    ) -> None:
        super().__init__(name, vis_backends=vis_backends, save_dir=save_dir)
        if max_side < 1:
            raise ValueError(f'MatteVisualizer: got max_side={max_side}, expected 1 pixel or more')
        self.max_side = max_side

    @master_only
    def add_datasample(
        self,
        name: str,
        image: NDArray[np.uint8],
        data_sample: object,
        *,
        pred_score_thr: float | None = None,
        out_file: str | None = None,
        step: int = 0,
    ) -> None:
        """Paint one photo.

        Args:
            name: of the picture in the backends.
            image: (H, W, 3) uint8 RGB, the photo as it is on disk.
            data_sample: `pred_alpha` (1, H, W), and `gt_alpha` where the truth is known.
            pred_score_thr: not used; mattes have no scores.
            out_file: where the picture goes; None gives it to the backends.
            step: its number in the backends.
        """
        found = {
            key: getattr(data_sample, key).data[0].float().cpu().numpy()
            for key in ('pred_alpha', 'gt_alpha')
            if key in data_sample  # type: ignore[operator]
        }
        panel = matte_panel(
            image, found['pred_alpha'], truth=found.get('gt_alpha'), max_side=self.max_side
        )
        self.set_image(panel)
        if out_file is None:
            self.add_image(name, panel, step)
            return
        Path(out_file).parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(out_file, cv2.cvtColor(panel, cv2.COLOR_RGB2BGR)):
            raise ValueError(f'{out_file} cannot be written, expected the name of an image file')


def matte_panel(
    image: NDArray[np.uint8],
    alpha: NDArray[np.float32],
    *,
    truth: NDArray[np.float32] | None = None,
    max_side: int = 640,
) -> NDArray[np.uint8]:
    """Photo, truth (where it is known), prediction, and the photo cut out on a checkerboard.

    Args:
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) in [0, 1].
        truth: the same, or None.
        max_side: of the photo in the picture; larger ones are shrunk.

    Returns:
        (h, 4w + 3 gaps, 3) uint8 RGB, or 3w + 2 gaps without truth.

    Raises:
        ValueError: alpha or truth has another size than the image.
    """
    mattes = [alpha] if truth is None else [truth, alpha]
    for matte in mattes:
        if matte.shape != image.shape[:2]:
            raise ValueError(
                f'got a matte of {matte.shape} (h, w) for a photo of {image.shape[:2]}, expected the same: both are '
                'painted at the size of the file'
            )
    cut_out = over_checkerboard(image, alpha)
    greys = [np.repeat(np.rint(matte * 255).astype(np.uint8)[..., None], 3, 2) for matte in mattes]
    tiles = [_shrunk(tile, max_side) for tile in (image, *greys, cut_out)]
    gap = np.full((tiles[0].shape[0], GAP, 3), 255, np.uint8)
    spaced = [part for tile in tiles for part in (gap, tile)][1:]
    return np.concatenate(spaced, axis=1)


def over_checkerboard(image: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The photo (H, W, 3) seen through alpha (H, W) on a checkerboard."""
    y, x = np.indices(alpha.shape, dtype=np.int32) // CHECKER_SIDE
    board = np.take(CHECKER_GREYS, (x + y) % 2).astype(np.float32)[..., None]
    weight = alpha[..., None]
    return np.rint(weight * image + (1 - weight) * board).astype(np.uint8)


def _shrunk(tile: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    scale = max_side / max(tile.shape[:2])
    if scale >= 1:
        return tile
    height, width = (max(round(side * scale), 1) for side in tile.shape[:2])
    return cv2.resize(tile, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
