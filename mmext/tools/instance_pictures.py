"""Pictures of the objects that `predict` found."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.structures import InstanceData

from mmext.apis import Prediction
from mmext.datasets.localization_csv import Box
from mmext.evaluation.coco_results import class_name
from mmext.tools.single_objects import draw_single
from mmext.visualization.instances import class_colors, draw_instances


def write_picture(
    prediction: Prediction,
    path: Path,
    classes: Sequence[str],
    palette: Sequence | str | None,
    true: tuple[Box, str] | None = None,
) -> None:
    """Draw what was found over the photo, and the true box and class where they are given.

    Raises:
        OSError: the file cannot be written.
    """
    found = prediction.sample.pred_instances
    if true is None:
        drawn = draw_found(prediction.image, found, classes, palette)
    else:
        drawn = draw_single(prediction.image, found, true, classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), drawn):
        raise OSError(f'cannot write the picture {path}')


def draw_found(
    image: np.ndarray, found: InstanceData, classes: Sequence[str], palette: Sequence | str | None
) -> np.ndarray:
    """The objects over their photo, (H, W, 3) uint8 BGR, in the colours of their classes."""
    labels = found.labels.tolist()
    names = [
        f'{class_name(classes, label)} {score:.2f}'
        for label, score in zip(labels, found.scores.tolist(), strict=True)
    ]
    # Palettes are RGB, the photo is BGR.
    colors = [color[::-1] for color in class_colors(palette, max(labels, default=0) + 1)]
    return draw_instances(
        image,
        found.bboxes.numpy(),
        names=names,
        colors=[colors[label] for label in labels],
        masks=found.get('masks'),
    )
