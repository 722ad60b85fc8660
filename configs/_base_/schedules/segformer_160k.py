"""SegFormer's schedule: 160000 steps of 16 images, rates that fall in a line behind 1500 steps of warm-up.

Source: https://arxiv.org/abs/2105.15203, section 4.1. The decoder learns ten times as fast as the pre-trained encoder.
"""

max_iters = 160000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'head': dict(lr_mult=10.0)}),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=max_iters, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)

custom_hooks = [
    dict(type='mmext.PreflightHook'),
    # The papers score the last weights. An average over some 5000 steps is scored here; it costs nothing.
    dict(
        type='mmext.StepEMAHook',
        ema_type='mmdet.ExpMomentumEMA',
        momentum=2e-4,
        gamma=2000,
        update_buffers=True,
        priority=49,
    ),
]
