"""Pictures of predictions on photos that are stored turned: in the frame in which the model saw them."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from PIL import Image

from mmext.datasets.image_files import ORIENTATION_TAG
from mmext.engine.hooks import InstanceVisualizationHook
from mmext.visualization import InstanceVisualizer

STORED, UPRIGHT = (20, 30), (30, 20)  # (h, w)


@pytest.fixture
def visualizer() -> InstanceVisualizer:
    made = InstanceVisualizer(name='turned')
    made.dataset_meta = dict(classes=('chip',))
    return made


def write_photo(path: Path) -> None:
    """A black photo with a white top left corner as stored, to be turned right by 90 degrees to be upright."""
    pixels = np.zeros((*STORED, 3), dtype=np.uint8)
    pixels[:6, :6] = 255
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    Image.fromarray(pixels).save(path, exif=exif)


def make_sample(path: Path, size: tuple[int, int], score: float = 0.9) -> DetDataSample:
    """One object, which fills the lower right corner of a photo of a size (h, w)."""
    masks = torch.zeros(1, *size, dtype=torch.bool)
    masks[0, -8:, -8:] = True
    height, width = size
    found = InstanceData(
        bboxes=torch.tensor([[width - 8.0, height - 8.0, width, height]]),
        labels=torch.zeros(1, dtype=torch.long),
        scores=torch.tensor([score]),
        masks=masks,
    )
    return DetDataSample(
        pred_instances=found, metainfo=dict(img_path=str(path), ori_shape=size, img_id=0)
    )


def paint_test(folder: Path, sample: DetDataSample, visualizer: InstanceVisualizer) -> np.ndarray:
    hook = InstanceVisualizationHook(draw=True, test_out_dir='pictures')
    runner = SimpleNamespace(work_dir=str(folder), timestamp='now', visualizer=visualizer)
    hook.after_test_iter(runner, 0, None, [sample])
    return cv2.imread(str(folder / 'now' / 'pictures' / 'photo.png'))


@pytest.mark.parametrize(
    ('size', 'corner'), [(STORED, (0, 0)), (UPRIGHT, (0, -1))], ids=['stored', 'upright']
)
def test_hook__paints_in_the_frame_of_the_annotation(tmp_path, visualizer, size, corner):
    write_photo(tmp_path / 'photo.png')
    picture = paint_test(tmp_path, make_sample(tmp_path / 'photo.png', size), visualizer)
    # Left is the place of the truth, right that of the predictions.
    assert picture.shape == (size[0], 2 * size[1], 3)
    photo, painted = np.split(picture, 2, axis=1)
    assert photo[corner].min() > 200
    assert photo[-4, -4].max() == 0
    assert painted[-4, -4].max() > 50


def test_hook__names_of_photos_with_relative_paths():
    hook = InstanceVisualizationHook(draw=True, test_out_dir='pictures')
    photos = [Path('a/1.jpg'), Path('b/1.jpg'), Path('2.jpg'), Path('a/1.jpg')]
    names = [hook._free_name(photo) for photo in photos]
    assert names == ['1.jpg', 'b_1.jpg', '2.jpg', '1.jpg']


def test_hook__photos_of_one_name_have_a_picture_each(tmp_path, visualizer):
    hook = InstanceVisualizationHook(draw=True, test_out_dir='pictures')
    runner = SimpleNamespace(work_dir=str(tmp_path), timestamp='now', visualizer=visualizer)
    photos = [tmp_path / own / '1.png' for own in ('a', 'b', 'x/b')]
    for photo in photos:
        photo.parent.mkdir(parents=True)
        write_photo(photo)
    hook.after_test_iter(runner, 0, None, [make_sample(photo, STORED) for photo in photos])
    found = sorted(path.name for path in (tmp_path / 'now' / 'pictures').iterdir())
    assert found == ['1.png', 'b_1.png', 'x_b_1.png']


def test_hook__paints_one_photo_of_every_second_batch_in_validation(tmp_path):
    write_photo(tmp_path / 'photo.png')
    painted = []

    def add_datasample(name: str, image: np.ndarray, **options: object) -> None:
        painted.append((name, image.shape, options['step']))

    runner = SimpleNamespace(iter=10, visualizer=SimpleNamespace(add_datasample=add_datasample))
    hook = InstanceVisualizationHook(draw=True, interval=2)
    for batch_idx in range(3):
        samples = [make_sample(tmp_path / 'photo.png', STORED) for _ in range(2)]
        hook.after_val_iter(runner, batch_idx, None, samples)
    assert painted == [('val_img', (*STORED, 3), 10), ('val_img', (*STORED, 3), 12)]


def test_hook__does_nothing_unless_told_to_draw(tmp_path):
    hook = InstanceVisualizationHook()
    hook.after_val_iter(SimpleNamespace(iter=0), 0, None, [make_sample(tmp_path, STORED)])
    hook.after_test_iter(SimpleNamespace(), 0, None, [make_sample(tmp_path, STORED)])
    assert list(tmp_path.iterdir()) == []
