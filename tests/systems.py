"""A small config of every system, for the promises that all of them keep (tests/test_contract.py)."""

from mmext.models.yolo.variants import SCALES, scale_channels


def yolo_segment(version: str) -> dict:
    """The smallest published size at three classes, as `mmdet.SingleStageDetector`."""
    scale = SCALES[version]['n']
    widths = [scale_channels(width, *scale[1:]) for width in (256, 512, 1024)]
    finest = scale_channels(512 if version == 'v11' else 256, *scale[1:])
    return dict(
        type='mmdet.SingleStageDetector',
        data_preprocessor=dict(
            type='mmdet.DetDataPreprocessor',
            mean=[0.0, 0.0, 0.0],
            std=[255.0, 255.0, 255.0],
            bgr_to_rgb=True,
            pad_mask=True,
            pad_size_divisor=32,
        ),
        backbone=dict(type='mmext.CSPBackbone', version=version, **scale._asdict()),
        neck=dict(
            type='mmext.CSPPAN',
            version=version,
            in_channels=[finest, *widths[1:]],
            out_channels=widths,
            deepen_factor=scale.deepen_factor,
        ),
        bbox_head=dict(
            type='mmext.Segment',
            version=version,
            num_classes=3,
            in_channels=widths,
            proto=dict(type='mmext.Proto', hidden_channels=widths[0]),
            loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
            loss_bbox=dict(type='mmext.CIoULoss', loss_weight=7.5),
            loss_dfl=dict(type='mmext.BoxDistributionLoss', loss_weight=1.5),
            loss_mask=dict(type='mmext.DenseMaskLoss', loss_weight=7.5),
        ),
        train_cfg=dict(assigner=dict(type='mmext.BatchTALAssigner')),
        test_cfg=dict(score_thr=0.001, max_per_img=20),
    )


SYSTEMS = {
    'yolo-segment-v8': yolo_segment('v8'),
    'yolo-segment-v11': yolo_segment('v11'),
}
