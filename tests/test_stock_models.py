"""Models of mmdet and mmseg, from their own configs, learn and predict with the torch ops.

Depths and sizes are cut so that each takes about a second; weights are random.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

# First of all: it offers the ops that the imports below ask for.
import mmext  # noqa: F401

# isort: split
import mmdet.models
import mmseg.models
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

SIZE = (64, 96)


def load_config(package: str, name: str) -> Config:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Config.fromfile(Path(spec.origin).parent / '.mim' / 'configs' / name)


def rtmdet() -> Config:
    return load_config('mmdet', 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py')


def mask_rcnn(name: str = 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py') -> Config:
    config = load_config('mmdet', name)
    config.model.train_cfg.rpn_proposal.max_per_img = 30
    config.model.train_cfg.rcnn.sampler.num = 30
    config.model.test_cfg.rpn.max_per_img = 30
    config.model.test_cfg.rcnn.max_per_img = 5
    config.model.test_cfg.rcnn.score_thr = 0.01  # random weights score every class about 1 / 81
    return config


def mask_rcnn_with_deformable_convolutions() -> Config:
    return mask_rcnn('dcn/mask-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py')


def deformable_detr() -> Config:
    config = load_config('mmdet', 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py')
    config.model.num_queries = 20
    config.model.encoder.num_layers = config.model.decoder.num_layers = 1
    return config


def segformer() -> Config:
    return load_config('mmseg', 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py')


def pspnet() -> Config:
    return load_config('mmseg', 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py')


def build(config: Config, scope: str, registry: object) -> nn.Module:
    """The model of a config with random weights, normalised without other processes."""
    config.model.backbone.init_cfg = None
    config.model.pop('pretrained', None)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        model = revert_sync_batchnorm(registry.build(config.model))
    # Until `init_weights`, which sets heads to zero, this one of Deformable DETR holds whatever was in memory before.
    if hasattr(model, 'level_embed'):
        nn.init.normal_(model.level_embed)
    return model


def images(num: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)
        for _ in range(num)
    ]


def det_samples(with_masks: bool) -> list[DetDataSample]:
    """Two objects in the first image, none in the second."""
    samples = []
    for boxes in ([[10.0, 12, 50, 60], [40, 8, 90, 50]], []):
        masks = np.zeros((len(boxes), *SIZE), dtype=np.uint8)
        for mask, box in zip(masks, boxes, strict=True):
            x1, y1, x2, y2 = map(int, box)
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(
            metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0), img_id=0)
        )
        sample.set_metainfo(dict(batch_input_shape=SIZE, pad_shape=SIZE))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes).view(-1, 4),
            labels=torch.arange(len(boxes)),
        )
        if with_masks:
            sample.gt_instances.masks = BitmapMasks(masks, *SIZE)
        sample.ignored_instances = InstanceData(
            bboxes=torch.empty(0, 4), labels=torch.empty(0, dtype=torch.long)
        )
        samples.append(sample)
    return samples


def seg_samples() -> list[SegDataSample]:
    samples = []
    for label in (0, 5):
        sample = SegDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE))
        sample.gt_sem_seg = PixelData(data=torch.full((1, *SIZE), label))
        samples.append(sample)
    return samples


def assert_learns(model: nn.Module, samples: list) -> None:
    """The losses are finite, and their gradient reaches the first stages of the backbone."""
    model.train()
    data = model.data_preprocessor(dict(inputs=images(len(samples)), data_samples=samples), True)
    total, log = model.parse_losses(model(**data, mode='loss'))
    assert all(torch.isfinite(torch.as_tensor(value)) for value in log.values()), log
    total.backward()
    grads = [p.grad for p in model.backbone.parameters() if p.requires_grad]
    assert grads and all(grad is not None for grad in grads)
    assert any(grad.abs().max() > 0 for grad in grads[:3])


def predict(model: nn.Module, samples: list) -> list:
    model.eval()
    with torch.no_grad():
        return model.test_step(dict(inputs=images(len(samples)), data_samples=samples))


@pytest.mark.parametrize(
    ('make_config', 'has_masks'),
    [
        (rtmdet, False),
        (mask_rcnn, True),
        pytest.param(mask_rcnn_with_deformable_convolutions, True, marks=pytest.mark.slow),
        (deformable_detr, False),
    ],
    ids=['rtmdet', 'mask_rcnn', 'mask_rcnn_dconv', 'deformable_detr'],
)
def test_mmdet__computes_losses_and_predicts(
    make_config: Callable[[], Config], has_masks: bool
) -> None:
    model = build(make_config(), 'mmdet', mmdet.registry.MODELS)
    assert_learns(model, det_samples(has_masks))
    predictions = [sample.pred_instances for sample in predict(model, det_samples(has_masks))]
    assert sum(len(instances) for instances in predictions) > 0
    for instances in predictions:
        num = len(instances)
        assert instances.bboxes.shape == (num, 4)
        assert (instances.bboxes[:, 2:] >= instances.bboxes[:, :2]).all()
        assert instances.scores.shape == (num,)
        assert ((instances.scores >= 0) & (instances.scores <= 1)).all()
        assert ((instances.labels >= 0) & (instances.labels < 80)).all()
        assert not has_masks or instances.masks.shape == (num, *SIZE)


@pytest.mark.parametrize(
    'make_config',
    [segformer, pytest.param(pspnet, marks=pytest.mark.slow)],
    ids=['segformer', 'pspnet'],
)
def test_mmseg__computes_losses_and_predicts(make_config: Callable[[], Config]) -> None:
    config = make_config()
    num_classes = config.model.decode_head.num_classes
    # The config's crop of 512 pixels would pad the small images up to it.
    config.model.data_preprocessor.size = SIZE
    model = build(config, 'mmseg', mmseg.registry.MODELS)
    assert_learns(model, seg_samples())
    for sample in predict(model, seg_samples()):
        labels = sample.pred_sem_seg.data
        assert labels.shape == (1, *SIZE)
        assert sample.seg_logits.data.shape == (num_classes, *SIZE)
        assert 0 <= labels.min() and labels.max() < num_classes
