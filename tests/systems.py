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


def yolo_segment_nms_free() -> dict:
    """`yolo_segment('v11')` with a second set of branches that predicts without suppression."""
    model = yolo_segment('v11')
    model['bbox_head']['nms_free'] = True
    # With weights from a formula, most cells score alike to the last bit: the order of more would be chance.
    model['test_cfg'] = dict(model['test_cfg'], max_per_img=3)
    return model


def yolo_segment_enhanced() -> dict:
    """`yolo_segment('v8')` with prototypes of all levels, a small refiner and a semantic branch."""
    model = yolo_segment('v8')
    model['bbox_head'].update(
        type='mmext.SegmentEnhanced',
        num_prototypes=64,
        proto=dict(
            type='mmext.MultiScaleProto', common_channels=16, hidden_channels=32, hr_channels=16
        ),
        refiner=dict(
            type='mmext.MaskRefiner',
            context_channels=8,
            hidden_channels=8,
            train_size=14,
            test_size=14,
        ),
        loss_refine=dict(type='mmext.RefineLoss', max_positives=16),
        semantic=dict(type='mmext.SemanticBranch', hidden_channels=16),
        loss_sem=dict(type='mmext.SemanticLoss', loss_weight=1.0),
    )
    return model


def yolo_segment_attention(mode: str, **changes: object) -> dict:
    """`yolo_segment('v8')` with a small query decoder next to its head."""
    model = yolo_segment('v8')
    model['bbox_head'] = dict(
        type='mmext.SegmentAttention',
        det=dict(model['bbox_head'], loss_scale='mean'),
        decoder=dict(
            type='mmext.QueryMaskDecoder',
            embed_dims=40,
            num_heads=4,
            num_layers=3,
            feedforward_channels=64,
        ),
        criterion=dict(type='mmext.QueryCriterion', num_points=64),
        **changes,
    )
    model['test_cfg'] = dict(model['test_cfg'], mode=mode)
    return model


SYSTEMS = {
    'yolo-segment-v8': yolo_segment('v8'),
    'yolo-segment-v11': yolo_segment('v11'),
    'yolo-segment-nms-free': yolo_segment_nms_free(),
    'yolo-segment-enhanced': yolo_segment_enhanced(),
    'yolo-segment-attention': yolo_segment_attention('matched'),
    'yolo-segment-attention-seeded': yolo_segment_attention('seeded', num_seeds=4),
}
