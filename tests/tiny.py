"""A tiny COCO data set, drawn by code, and tiny models to train on it within seconds.

The data: white squares and grey discs on a dark, noisy ground, 64x64 px. The models: RTMDet shrunk to about
0.1 M parameters, a stock mmdet detector, so that the engine is tested without our own models; and our `Segment`
and `DEIM`, for what the two must do together.
"""

import json
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

from tests.systems import deim_atto, deim_s

CLASSES = ('square', 'disc')
IMAGE_SIZE = 64


def _draw_square(image: np.ndarray, x: int, y: int, size: int) -> list[float]:
    cv2.rectangle(image, (x, y), (x + size - 1, y + size - 1), (255, 255, 255), -1)
    return [x, y, x + size, y, x + size, y + size, x, y + size]


def _draw_disc(image: np.ndarray, x: int, y: int, size: int) -> list[float]:
    radius = size / 2
    cv2.circle(image, (x + size // 2, y + size // 2), size // 2, (140, 140, 140), -1)
    angles = np.arange(16) * 2 * np.pi / 16
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radius + (x + radius, y + radius)
    return points.round(2).reshape(-1).tolist()


def _draw_object(
    image: np.ndarray, category: int, corner: tuple[int, int], size: int
) -> dict[str, object]:
    """Draws one object and returns its annotation without the ids."""
    draw = _draw_square if category == 0 else _draw_disc
    polygon = draw(image, *corner, size)
    xs, ys = np.array(polygon[::2]), np.array(polygon[1::2])
    area = 0.5 * abs(float(xs @ np.roll(ys, 1) - ys @ np.roll(xs, 1)))
    return dict(
        category_id=category + 1,
        bbox=[*corner, size, size],
        area=area,
        iscrowd=0,
        segmentation=[polygon],
    )


def make_tiny_coco(
    root: Path,
    num_images: int = 8,
    *,
    split: str = 'train',
    seed: int = 0,
    empty: Collection[int] = (),
    classes: tuple[str, str] = CLASSES,
) -> Path:
    """Draws a data set: `root/images/<split>_<i>.png` and `root/<split>.json`.

    Each image holds one square in its left half and one disc in its right half, 14 to 24 px wide.

    Args:
        root: folder, made if it is missing.
        num_images: number of images, ids 0, 1, ...
        split: name of the split, part of all file names.
        seed: seed of positions, sizes and noise.
        empty: ids of the images without objects.
        classes: names of the categories with the ids 1 and 2.

    Returns:
        the annotation file.
    """
    rng = np.random.default_rng(seed)
    (root / 'images').mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image_id in range(num_images):
        image = rng.integers(0, 60, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        for category in (0, 1):
            size = int(rng.integers(14, 25))
            x = int(rng.integers(1, 32 - size)) + 32 * category
            y = int(rng.integers(1, IMAGE_SIZE - size))
            if image_id not in empty:
                annotation = _draw_object(image, category, (x, y), size)
                annotations.append(dict(id=len(annotations) + 1, image_id=image_id, **annotation))
        name = f'{split}_{image_id}.png'
        cv2.imwrite(str(root / 'images' / name), image)
        images.append(dict(id=image_id, file_name=name, height=IMAGE_SIZE, width=IMAGE_SIZE))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(classes)]
    path = root / f'{split}.json'
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path


def tiny_model(num_classes: int = 2) -> dict:
    """Config of the detector; see the module docstring."""
    norm, act = dict(type='BN'), dict(type='SiLU', inplace=True)
    return dict(
        type='RTMDet',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], pad_size_divisor=32
        ),
        backbone=dict(
            type='CSPNeXt',
            arch='P5',
            deepen_factor=0.167,
            widen_factor=0.125,
            norm_cfg=norm,
            act_cfg=act,
        ),
        neck=dict(
            type='CSPNeXtPAFPN',
            in_channels=[32, 64, 128],
            out_channels=32,
            num_csp_blocks=1,
            norm_cfg=norm,
            act_cfg=act,
        ),
        bbox_head=dict(
            type='RTMDetSepBNHead',
            num_classes=num_classes,
            in_channels=32,
            feat_channels=32,
            stacked_convs=1,
            anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
            bbox_coder=dict(type='DistancePointBBoxCoder'),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
            with_objectness=False,
            exp_on_reg=False,
            norm_cfg=norm,
            act_cfg=act,
        ),
        train_cfg=dict(
            assigner=dict(type='DynamicSoftLabelAssigner', topk=13),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=dict(
            nms_pre=100,
            min_bbox_size=0,
            score_thr=0.001,
            nms=dict(type='nms', iou_threshold=0.65),
            max_per_img=20,
        ),
    )


def tiny_dataloader(
    root: Path,
    split: str = 'train',
    *,
    batch_size: int = 2,
    num_workers: int = 0,
    persistent_workers: bool = False,
    random: bool = True,
) -> dict:
    """Config of a data loader over the data set of `make_tiny_coco`.

    Args:
        root: folder of the data set.
        split: which annotation file.
        batch_size: images per batch.
        num_workers: worker processes.
        persistent_workers: whether they live on between epochs.
        random: for training: shuffle and flip; False: in order, without augmentation.
    """
    train = split == 'train' and random
    packed = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    pipeline: list[dict] = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=False),
        *([dict(type='RandomFlip', prob=0.5)] if train else []),
        *([dict(type='PhotoMetricDistortion')] if train else []),
        dict(type='Resize', scale=(IMAGE_SIZE, IMAGE_SIZE)),
        dict(type='PackDetInputs', meta_keys=packed),
    ]
    return dict(
        batch_size=batch_size,
        num_workers=num_workers,
        persistent_workers=persistent_workers,
        sampler=dict(type='DefaultSampler', shuffle=train),
        dataset=dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file=f'{split}.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=CLASSES),
            test_mode=split != 'train',
            pipeline=pipeline,
        ),
    )


def tiny_config(root: Path, work_dir: Path, *, max_epochs: int = 2, num_workers: int = 0) -> Config:
    """Config of a whole training on the data set of `make_tiny_coco`, validated on the training images.

    Args:
        root: folder of the data set with the splits 'train' and 'val'.
        work_dir: folder for logs and checkpoints.
        max_epochs: number of epochs; validation follows the last.
        num_workers: worker processes of the training loader.
    """
    evaluator = dict(
        type='CocoMetric', ann_file=str(root / 'val.json'), metric='bbox', format_only=False
    )
    return Config(
        dict(
            default_scope='mmdet',
            work_dir=str(work_dir),
            model=tiny_model(),
            train_dataloader=tiny_dataloader(root, 'train', num_workers=num_workers),
            val_dataloader=tiny_dataloader(root, 'val'),
            test_dataloader=tiny_dataloader(root, 'val'),
            val_evaluator=evaluator,
            test_evaluator=evaluator,
            train_cfg=dict(
                type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs
            ),
            val_cfg=dict(type='ValLoop'),
            test_cfg=dict(type='TestLoop'),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05)
            ),
            param_scheduler=[
                dict(type='LinearLR', start_factor=1.0, end_factor=0.1, end=max_epochs)
            ],
            default_hooks=dict(
                timer=dict(type='IterTimerHook'),
                logger=dict(type='LoggerHook', interval=2),
                param_scheduler=dict(type='ParamSchedulerHook'),
                checkpoint=dict(type='CheckpointHook', interval=1),
                sampler_seed=dict(type='DistSamplerSeedHook'),
            ),
            custom_hooks=[],
            env_cfg=dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0)),
            randomness=dict(seed=0),
            log_level='WARNING',
        )
    )


def tiny_segment_model(num_classes: int = 2) -> dict:
    """Config of YOLOv8's `Segment` at an eighth of the widths, with the losses of the small-data configs."""
    return dict(
        type='SingleStageDetector',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[0, 0, 0],
            std=[255, 255, 255],
            bgr_to_rgb=True,
            pad_mask=True,
            pad_size_divisor=32,
        ),
        backbone=dict(type='mmext.CSPBackbone', deepen_factor=0.33, widen_factor=0.125),
        neck=dict(
            type='mmext.CSPPAN',
            in_channels=[32, 64, 128],
            out_channels=[32, 64, 128],
            deepen_factor=0.33,
        ),
        bbox_head=dict(
            type='mmext.Segment',
            num_classes=num_classes,
            in_channels=[32, 64, 128],
            num_prototypes=8,
            proto=dict(type='mmext.Proto', hidden_channels=16),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
            loss_bbox=dict(type='mmext.CIoULoss', loss_weight=7.5),
            loss_dfl=dict(type='mmext.BoxDistributionLoss', loss_weight=1.5),
            loss_mask=dict(type='mmext.PointMaskLoss', loss_weight=7.5),
            loss_scale='mean',
            class_prior=0.01,
            box_prior=2.0,
        ),
        train_cfg=dict(assigner=dict(type='mmext.BatchTALAssigner')),
        test_cfg=dict(score_thr=0.001, max_per_img=20, mask_format='rle'),
    )


def tiny_segment_config(
    root: Path, work_dir: Path, *, max_epochs: int = 2, num_workers: int = 0
) -> Config:
    """`tiny_config` with `tiny_segment_model`, trained and scored with masks; same arguments."""
    cfg = tiny_config(root, work_dir, max_epochs=max_epochs, num_workers=num_workers)
    cfg.model = tiny_segment_model()
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline[1].with_mask = True
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.metric = ['bbox', 'segm']
    return cfg


def tiny_deim_config(
    root: Path, work_dir: Path, *, max_epochs: int = 2, num_workers: int = 0
) -> Config:
    """`tiny_config` with DEIM Atto and the losses of the larger sizes, which are more; same arguments."""
    cfg = tiny_config(root, work_dir, max_epochs=max_epochs, num_workers=num_workers)
    model = deim_atto() | dict(criterion=deim_s()['criterion'])
    model['decoder']['num_classes'] = len(CLASSES)
    cfg.model = model
    return cfg
