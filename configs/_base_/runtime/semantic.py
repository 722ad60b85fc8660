"""What every run of semantic segmentation shares."""

_base_ = './default.py'

default_scope = 'mmseg'

default_hooks = dict(
    checkpoint=dict(save_best='mIoU', rule='greater'),
    visualization=dict(_delete_=True, type='SegVisualizationHook'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(_delete_=True, type='SegLocalVisualizer', vis_backends=vis_backends)
