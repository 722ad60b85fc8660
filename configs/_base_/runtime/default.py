"""What every run shares: logging, checkpoints, pictures."""

default_scope = 'mmdet'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='mmext.InstanceVisualizationHook'),
    # Checkpoints are read without executing anything from them, by any train script, and what fits is said.
    checkpoint_report=dict(type='mmext.CheckpointReportHook'),
    # On a terminal only.
    progress=dict(type='mmext.ProgressBarHook'),
)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='mmext.InstanceVisualizer', vis_backends=vis_backends, line_width=1, alpha=0.45
)
log_processor = dict(type='LogProcessor', window_size=20, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
