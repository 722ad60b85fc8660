"""`InstanceInferencer`: tiled and whole photos against connected components, and against mmdet on a real model."""

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from mmdet.apis import inference_detector
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

import mmext.apis.timing as timing
from mmext.apis import InstanceInferencer, Tiling, init_model
from mmext.apis.image_inputs import find_images, relative_names
from mmext.models.common.instance_tta import InstanceTTAModel
from tests.apis.square_finder import PIPELINE, SquareFinder, draw_objects, find_objects
from tests.tiny import make_tiny_coco, tiny_segment_config


def crowded_photo(seed):
    """Squares of 3 to 40 pixels, bars through many tiles and a block larger than a tile; nothing touches."""
    rng = np.random.default_rng(seed)
    size = (260, 330)
    boxes = [(5, 100, 320, 112), (200, 2, 209, 95), (150, 125, 290, 250)]
    labels = [1, 0, 1]
    taken = np.zeros(size, dtype=bool)
    for x1, y1, x2, y2 in boxes:
        taken[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
    for side in rng.integers(3, 41, 150).tolist():
        x, y = (int(rng.integers(0, limit - side)) for limit in size[::-1])
        if not taken[y : y + side, x : x + side].any():
            taken[max(y - 1, 0) : y + side + 1, max(x - 1, 0) : x + side + 1] = True
            boxes.append((x, y, x + side, y + side))
            labels.append(int(rng.integers(0, 2)))
    return draw_objects(size, boxes, labels)


def as_set(instances: InstanceData):
    """Objects that can be compared whatever their order."""
    masks = instances.get('masks')
    boxes = [tuple(map(int, box)) for box in instances.bboxes.tolist()]
    codes = [code['counts'] for code in masks] if masks is not None else [b''] * len(boxes)
    return sorted(zip(boxes, instances.labels.tolist(), codes, strict=True))


def true_set(image, with_masks=True):
    objects = find_objects(image)
    codes = [coco_mask.encode(np.asfortranarray(m.astype(np.uint8)))['counts'] for *_, m in objects]
    return sorted(
        (tuple(bbox), label, code if with_masks else b'')
        for (bbox, label, _), code in zip(objects, codes, strict=True)
    )


def predict(finder, image, **settings):
    (prediction,) = InstanceInferencer(finder, **settings)(image)
    return prediction.sample.pred_instances


@pytest.mark.parametrize(
    ('tiling', 'mask_format'),
    [
        (None, 'bitmap'),
        (Tiling(100), 'rle'),
        (Tiling(100), 'none'),
        (Tiling(64, overlap=0.5), 'rle'),
        (Tiling(128, overlap=0.05, whole=True), 'bitmap'),
    ],
    ids=['untiled', 'tiles', 'boxes only', 'half overlap', 'with the whole'],
)
def test_call__finds_what_connected_components_are(tiling, mask_format):
    image = crowded_photo(seed=0)
    found = predict(SquareFinder(mask_format), image, tiling=tiling, batch_size=4)
    expected = true_set(image, with_masks=mask_format != 'none')
    assert len(expected) > 30
    assert as_set(found) == expected


@pytest.mark.parametrize('tiling', [None, Tiling(100)], ids=['untiled', 'tiles'])
def test_call__views_of_photos_and_tiles_are_turned_back(tiling):
    image = crowded_photo(seed=1)
    model = InstanceTTAModel(SquareFinder(), max_per_img=300)
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'flip', 'flip_direction')
    views = [
        [
            dict(type='mmdet.RandomFlip', prob=0.0),
            dict(type='mmdet.RandomFlip', prob=1.0, direction='horizontal'),
            dict(type='mmdet.RandomFlip', prob=1.0, direction='diagonal'),
        ],
        [dict(type='mmdet.PackDetInputs', meta_keys=keys)],
    ]
    model.cfg = model.module.cfg
    model.cfg.tta_pipeline = [PIPELINE[0], dict(type='TestTimeAug', transforms=views)]
    model.dataset_meta = model.module.dataset_meta
    found = predict(model, image, tiling=tiling, batch_size=4)
    # Means of equal boxes, to within rounding.
    torch.testing.assert_close(found.bboxes, found.bboxes.round(), atol=1e-3, rtol=0)
    found.bboxes = found.bboxes.round()
    expected = true_set(image)
    assert len(expected) > 30
    assert as_set(found) == expected
    assert model.module.batch_sizes[:3] == [1 if tiling is None else 4] * 3


def test_call__batches_reach_over_photos_and_results_keep_the_order():
    images = [crowded_photo(seed)[: 60 + 60 * seed] for seed in range(3)]
    finder = SquareFinder()
    tiling = Tiling(100)
    num_tiles = sum(len(tiling.windows(image.shape[:2])) for image in images)
    found = list(InstanceInferencer(finder, tiling=tiling, batch_size=5)(images))
    assert finder.batch_sizes == [5] * (num_tiles // 5) + [num_tiles % 5] * (num_tiles % 5 > 0)
    for index, (prediction, image) in enumerate(zip(found, images, strict=True)):
        assert prediction.image is image
        assert prediction.sample.img_id == index and prediction.sample.img_path is None
        assert prediction.sample.ori_shape == image.shape[:2]
        assert as_set(prediction.sample.pred_instances) == true_set(image)


def test_call__is_lazy():
    finder = SquareFinder()
    predictions = InstanceInferencer(finder)([crowded_photo(0)] * 3)
    next(predictions)
    assert finder.batch_sizes == [1]


def test_call__low_scores_are_left_out():
    # A square of a quarter of the photo has a score of 0.625, one of a sixteenth 0.53.
    image = draw_objects((40, 40), [(0, 0, 20, 20), (25, 25, 35, 35)], [0, 0])
    found = predict(SquareFinder(), image, score_thr=0.6)
    assert as_set(found) == [item for item in true_set(image) if item[0] == (0, 0, 20, 20)]


def test_call__bad_files_are_reported_and_the_others_go_on(tmp_path):
    image = draw_objects((20, 30), [(5, 5, 9, 9)], [0])
    for name in ('a', 'b', 'c'):
        cv2.imwrite(str(tmp_path / f'{name}.png'), image)
    data = (tmp_path / 'b.png').read_bytes()
    (tmp_path / 'b.png').write_bytes(data[: len(data) // 2])
    inferencer = InstanceInferencer(SquareFinder(), batch_size=2)
    with pytest.raises(ValueError, match=r'b\.png is truncated'):
        list(inferencer(tmp_path))
    failures = []
    found = list(inferencer(tmp_path, on_error=lambda *failure: failures.append(failure)))
    assert [prediction.sample.img_path[-5:] for prediction in found] == ['a.png', 'c.png']
    assert [prediction.sample.img_id for prediction in found] == [0, 2]
    ((path, error),) = failures
    assert path.name == 'b.png' and 'truncated' in str(error)


@pytest.mark.parametrize(
    'array',
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
    ids=['grey', 'float', 'empty'],
)
def test_call__array_of_another_kind(array):
    with pytest.raises(ValueError, match=r'expected \(H, W, 3\) uint8 in BGR'):
        list(InstanceInferencer(SquareFinder())(array))


def test_init__wrong_numbers_and_configs():
    with pytest.raises(ValueError, match='score_thr: got 1'):
        InstanceInferencer(SquareFinder(), score_thr=1)
    with pytest.raises(ValueError, match='batch_size: got 0'):
        InstanceInferencer(SquareFinder(), batch_size=0)
    with pytest.raises(ValueError, match=r'no test_dataloader\.dataset\.pipeline'):
        InstanceInferencer(SquareFinder(pipeline=[]))
    with pytest.raises(ValueError, match='load it with init_model'):
        InstanceInferencer(SquareFinder(), 'a.pth')


def test_pipeline__annotations_are_not_loaded(tmp_path):
    annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    finder = SquareFinder(pipeline=[PIPELINE[0], annotations, PIPELINE[1]])
    image = draw_objects((20, 30), [(5, 5, 9, 9)], [0])
    # With them the sample would have ground truth, and the mask of an image without a file would fail.
    names = [type(step).__name__ for step in InstanceInferencer(finder).transforms.transforms]
    assert names == ['PackDetInputs']
    assert as_set(predict(finder, image)) == true_set(image)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Config of a tiny `Segment`, its untrained checkpoint and a folder of photos."""
    root = tmp_path_factory.mktemp('tiny')
    make_tiny_coco(root, 3, split='val')
    cfg = tiny_segment_config(root, root / 'work')
    torch.manual_seed(0)
    model = init_model(cfg)
    for branch in model.bbox_head.cls_branches:
        torch.nn.init.normal_(branch[-1].weight, std=0.5)
    torch.save({'state_dict': model.state_dict()}, root / 'model.pth')
    return cfg, root / 'model.pth', root / 'images'


@pytest.mark.parametrize('batch_size', [1, 2])
def test_call__real_model_as_mmdet_predicts_it(tiny, batch_size):
    cfg, checkpoint, images = tiny
    inferencer = InstanceInferencer(cfg, checkpoint, score_thr=0.02, batch_size=batch_size)
    paths = sorted(map(str, images.iterdir()))
    with DefaultScope.overwrite_default_scope('mmdet'):
        expected = inference_detector(init_model(cfg, checkpoint), paths)
    for prediction, sample in zip(inferencer(images), expected, strict=True):
        kept = sample.pred_instances[sample.pred_instances.scores > 0.02]
        found = prediction.sample.pred_instances
        assert len(kept) > 0
        for key in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(found[key], kept[key], rtol=1e-4, atol=1e-4)
        assert len(found.masks) == len(kept.masks)
        overlaps = coco_mask.iou(found.masks, kept.masks, [0] * len(kept)).diagonal()
        empty = coco_mask.area(kept.masks) == 0
        assert (overlaps[~empty] > 0.99).all()


def test_init__config_itself_is_left_alone(tiny):
    cfg, checkpoint, _ = tiny
    before = cfg.model.test_cfg.to_dict()
    assert InstanceInferencer(cfg, checkpoint).model.cfg.model.test_cfg.score_thr == 0.25
    assert cfg.model.test_cfg.to_dict() == before


@pytest.mark.parametrize(
    ('parts', 'seconds'),
    [
        ((), (0, 1, 0)),
        (('backbone', 'bbox_head'), (1, 1, 1)),
        (('backbone', 'decoder'), (1, 1, 1)),
        (('backbone',), (1, 1, 0)),
    ],
    ids=['no parts', 'one-stage', 'DEIM', 'no head'],
)
def test_timed_test_step__split_at_backbone_and_head(parts, seconds, monkeypatch):
    class Model(torch.nn.Module):
        def test_step(self, data):
            assert not torch.is_grad_enabled()
            return [part(data) for part in self.children()]

    model = Model()
    for name in parts:
        setattr(model, name, torch.nn.Identity())
    ticks = iter(range(9))
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: next(ticks))
    step = timing.timed_test_step(model, {'inputs': 1})
    assert step.seconds == seconds
    assert len(step.samples) == len(parts)
    assert not any(p._forward_hooks or p._forward_pre_hooks for p in model.children())


def test_find_images__order_patterns_and_doubles(tmp_path):
    for name in ('b/y.JPG', 'b/x.png', 'a/x.png', 'notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inputs = [tmp_path / 'b', str(tmp_path / '**' / 'x.png'), tmp_path / 'b' / 'x.png']
    found = find_images(inputs)
    assert relative_names(found) == ['b/x.png', 'b/y.JPG', 'a/x.png']
    assert find_images(tmp_path / 'a') == [tmp_path / 'a' / 'x.png']


def test_find_images__brackets_in_a_name_are_no_pattern(tmp_path):
    (tmp_path / 'x[1].png').touch()
    assert find_images(tmp_path / 'x[1].png') == [tmp_path / 'x[1].png']


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('empty', 'has no images'),
        ('gone.png', 'does not exist'),
        ('*.png', 'no image matches'),
        ('notes.txt', 'is no image file'),
    ],
    ids=['empty folder', 'missing', 'pattern', 'other kind'],
)
def test_find_images__nothing_there(tmp_path, name, message):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path / name)
