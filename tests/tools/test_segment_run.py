"""Runs of `Segment` through the tools: raw photos to scores, and a resumed run with all of our own parts."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mmext.datasets.converters.magnetic_tile import CLASSES
from mmext.tools import convert_dataset, train
from mmext.tools import test as test_tool
from tests.datasets.raw_data import write_image, write_mask
from tests.tiny import IMAGE_SIZE, make_tiny_coco, tiny_segment_config
from tests.tools.test_train import assert_same_bits, run_training, start_training
from tests.tools.test_train_distributed import coco_scores

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# The shipped recipe on other files, for two steps.
SHORT_RUN = """
_base_ = '{base}'
data_root = '{data}'
train_dataloader = dict(
    batch_size=2, sampler=dict(num_samples=4), dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(ann_file=data_root + '/val.json')
test_evaluator = dict(ann_file=data_root + '/test.json')
train_cfg = dict(max_epochs=1, val_interval=1)
"""

NUM_EPOCHS, NUM_CLOSED_EPOCHS, NUM_STEPS = 5, 2, 4
SIZE = (IMAGE_SIZE, IMAGE_SIZE)
LOADING = [
    dict(type='mmext.LoadImage'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
]
MIXING = [
    dict(type='mmext.Mosaic', scale=SIZE),
    dict(type='mmext.RandomAffine', size=SIZE),
    dict(type='mmext.HSV'),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_shape')),
]


def write_raw_tiles(raw: Path) -> None:
    """Three photos of each class, each of a tile of its own, with one defect of 20 x 40 pixels."""
    rng = np.random.default_rng(0)
    # Numbers more than 500 apart are different tiles.
    for index, category in enumerate([*CLASSES, 'Free'] * 3):
        mask = np.zeros((96, 128), np.uint8)
        x, y = rng.integers(0, (80, 70))
        mask[y : y + 20, x : x + 40] = 255 * (category != 'Free')
        photo = raw / f'MT_{category}' / 'Imgs' / f'exp1_num_{600 * index}.jpg'
        write_image(photo, 128, 96, seed=index)
        write_mask(photo.with_suffix('.png'), mask)


@pytest.fixture(scope='module')
def tile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set `tiles`, the run `work`, the test `tested`, its `out.pkl` and `pictures`."""
    root = tmp_path_factory.mktemp('tile_run')
    write_raw_tiles(root / 'raw')
    shares = ['--fractions', '0.34', '0.33', '0.33']
    arguments = ['magnetic_tile', root / 'raw', root / 'tiles', *shares]
    assert convert_dataset.main([*map(str, arguments)]) == 0
    config = root / 'tile_run.py'
    base = CONFIGS / 'yolo' / 'segment_v8n_1xb8-20e_magnetic-tile.py'
    config.write_text(SHORT_RUN.format(base=base, data=root / 'tiles'))
    assert train.main([str(config), '--work-dir', str(root / 'work')]) == 0
    arguments = [config, root / 'work' / 'epoch_1.pth', '--work-dir', root / 'tested']
    arguments += ['--out', root / 'out.pkl', '--show-dir', root / 'pictures']
    # After two steps no pixel is likely to be an object; this low, every mask fills its box.
    arguments += ['--cfg-options', 'model.test_cfg.mask_thr_binary=1e-6']
    assert test_tool.main([*map(str, arguments)]) == 0
    return root


def images_of_the_test(root: Path) -> dict[int, dict]:
    return {i['id']: i for i in json.loads((root / 'tiles' / 'test.json').read_text())['images']}


@pytest.mark.slow
def test_tile_run__scores_by_class_and_by_size(tile_run: Path) -> None:
    (log,) = (tile_run / 'tested').glob('*/*.json')
    scores = coco_scores(log)
    kinds = ('bbox', 'segm', 'boundary')
    assert {f'coco/{kind}_mAP_{size}' for kind in kinds for size in 'sml'} <= scores.keys()
    # Every class is in the test split, so every class has a score.
    for kind in kinds:
        assert all(0 <= scores[f'coco/{kind}_{name}_mAP'] <= 1 for name in CLASSES)


@pytest.mark.slow
def test_tile_run__masks_lie_in_the_photo_where_their_boxes_do(tile_run: Path) -> None:
    results = pickle.loads((tile_run / 'out.pkl').read_bytes())
    images = images_of_the_test(tile_run)
    assert sorted(result['img_id'] for result in results) == sorted(images)
    for result in results:
        image, found = images[result['img_id']], result['pred_instances']
        assert len(found['masks']) == len(found['scores']) == len(found['labels']) > 0
        masks = np.stack([coco_mask.decode(mask) for mask in found['masks']])
        assert masks.shape[1:] == (image['height'], image['width'])
        bboxes = found['bboxes'].numpy()
        for mask, (x1, y1, x2, y2) in zip(masks, bboxes, strict=True):
            filled = np.zeros_like(mask)
            filled[round(y1) : round(y2), round(x1) : round(x2)] = 1
            # Both round half a pixel, maybe to different sides: one row or column more or less.
            # At the border of the photo as well: OpenCV would not erode there.
            border = dict(borderType=cv2.BORDER_CONSTANT, borderValue=0)
            inner = cv2.erode(filled, np.ones((3, 3)), **border)
            outer = cv2.dilate(filled, np.ones((3, 3)))
            assert (inner <= mask).all() and (mask <= outer).all()
        assert masks.any()


@pytest.mark.slow
def test_tile_run__pictures_show_the_truth_beside_the_predictions(tile_run: Path) -> None:
    images = {
        Path(image['file_name']).name: image for image in images_of_the_test(tile_run).values()
    }
    drawn = {path.name: cv2.imread(str(path)) for path in (tile_run / 'pictures').iterdir()}
    assert drawn.keys() == images.keys()
    for name, picture in drawn.items():
        height, width = images[name]['height'], images[name]['width']
        assert picture.shape == (height, 2 * width, 3)


@pytest.mark.slow
def test_tile_run__views_of_all_sizes_and_flips_are_merged_with_their_masks(
    tile_run: Path, tmp_path: Path
) -> None:
    arguments = [tile_run / 'tile_run.py', tile_run / 'work' / 'epoch_1.pth', '--tta']
    arguments += ['--out', tmp_path / 'out.pkl', '--work-dir', tmp_path / 'tested']
    arguments += ['--cfg-options', 'model.test_cfg.mask_thr_binary=1e-6']
    assert test_tool.main([*map(str, arguments)]) == 0
    (log,) = (tmp_path / 'tested').glob('*/*.json')
    assert 0 <= coco_scores(log)['coco/segm_mAP'] <= 1
    results = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    images = images_of_the_test(tile_run)
    assert sorted(result['img_id'] for result in results) == sorted(images)
    for result in results:
        image, found = images[result['img_id']], result['pred_instances']
        assert len(found['masks']) == len(found['scores']) > 0
        assert {tuple(mask['size']) for mask in found['masks']} == {
            (image['height'], image['width'])
        }
        assert found['scores'].tolist() == sorted(found['scores'].tolist(), reverse=True)
        # Where exactly is shown with a model that finds something (tests/models/test_instance_tta.py).
        boxes = found['bboxes'].numpy().astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        overlaps = coco_mask.iou(coco_mask.toBbox(found['masks']), boxes, [0] * len(boxes))
        is_filled = np.array([coco_mask.area(mask) for mask in found['masks']]) > 0
        assert is_filled.any() and (overlaps.diagonal()[is_filled] > 0).all()


def write_mosaic_config(folder: Path) -> Path:
    """A tiny training with every part of ours that holds a state or draws random numbers."""
    make_tiny_coco(folder, 10, empty=(8, 9))
    make_tiny_coco(folder, 4, split='val', seed=1)
    cfg = tiny_segment_config(folder, folder / 'work', max_epochs=NUM_EPOCHS)
    loader = cfg.train_dataloader
    loader.num_workers, loader.persistent_workers = 1, True
    loader.sampler = dict(type='mmext.ClassBalancedSampler', num_samples=2 * NUM_STEPS)
    single = dict(loader.dataset, type='mmext.InstanceDataset', pipeline=LOADING)
    loader.dataset = dict(type='mmdet.MultiImageMixDataset', dataset=single, pipeline=MIXING)
    cfg.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, fused=True),
        constructor='mmext.YOLOOptimWrapperConstructor',
        clip_grad=dict(max_norm=10.0),
    )
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, end=6, by_epoch=False),
        dict(type='CosineAnnealingLR', T_max=NUM_EPOCHS, convert_to_iter_based=True),
    ]
    average = dict(
        type='mmext.StepEMAHook', ema_type='ExpMomentumEMA', momentum=0.1, update_buffers=True
    )
    cfg.custom_hooks = [
        dict(type='mmext.PreflightHook'),
        dict(type='mmext.ChannelsLastHook'),
        dict(type='mmext.CloseMosaicHook', num_last_epochs=NUM_CLOSED_EPOCHS),
        average,
    ]
    cfg.log_level = 'INFO'
    path = folder / 'mosaic_run.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The config; beside it `whole`, the uninterrupted run, with a checkpoint of every epoch."""
    folder = tmp_path_factory.mktemp('mosaic_run')
    config = write_mosaic_config(folder)
    num_threads = torch.get_num_threads()
    # As many as `start_training` uses: the order of sums depends on it.
    torch.set_num_threads(1)
    run_training(config, '--work-dir', folder / 'whole', '--deterministic')
    yield config
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize('epoch', [2, 4], ids=['before mosaic closes', 'behind it'])
def test_train__resumed_segment_ends_with_the_same_bits(whole_run: Path, epoch: int) -> None:
    whole, resumed = whole_run.parent / 'whole', whole_run.parent / f'resumed_{epoch}'
    options = ['--resume', whole / f'epoch_{epoch}.pth', '--deterministic']
    # In a fresh process: nothing can be left over from the whole run.
    process = start_training([whole_run, '--work-dir', resumed, *options])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    assert f'resumed epoch: {epoch}, iter: {epoch * NUM_STEPS}' in output
    assert f'The last {NUM_CLOSED_EPOCHS} epochs do without' in output
    last = f'epoch_{NUM_EPOCHS}.pth'
    assert_same_bits(whole / last, resumed / last)
