"""What every run of semantic segmentation shares that counts iterations."""

_base_ = './default.py'

default_scope = 'mmseg'

default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000, save_best='mIoU', rule='greater'),
    visualization=dict(_delete_=True, type='SegVisualizationHook'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(_delete_=True, type='SegLocalVisualizer', vis_backends=vis_backends)
log_processor = dict(by_epoch=False, window_size=50)
