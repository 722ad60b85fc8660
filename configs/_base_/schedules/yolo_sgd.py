"""The schedule of the published YOLOv8 and YOLO11 models: SGD, 3 epochs of warm-up, linear decay, EMA.

YOLOv5/v8: lr 0.01 -> 0.0001, momentum 0.937, weight decay 5e-4 (at 64 images a step) on kernels only, clip at 10. The rate is
meant for the summed loss of `loss_scale='batch'`: there the gradient grows with the batch, so the rate must not, and
there is no `auto_scale_lr`. A leaf states `max_epochs` and the schedule.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.937, nesterov=True, weight_decay=5e-4),
    constructor='mmext.YOLOOptimWrapperConstructor',
    paramwise_cfg=dict(batch_size_per_gpu=16),
    clip_grad=dict(max_norm=10.0),
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

custom_hooks = [
    # Compares annotations, metainfo and heads before the first step; a wrong set-up stops here.
    dict(type='mmext.PreflightHook'),
    dict(type='mmext.YOLOWarmupHook', warmup_epochs=3, bias_lr=0.1, momentum=0.8),
    dict(type='mmext.CloseMosaicHook', num_last_epochs=10),
    # 0.9999 (1 - e^(-t / 2000)), buffers too; before the checkpoint and the validation.
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=1e-4,
        gamma=2000,
        update_buffers=True,
        priority=49,
    ),
]
