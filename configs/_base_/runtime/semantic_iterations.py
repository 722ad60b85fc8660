"""What every run of semantic segmentation shares that counts iterations."""

_base_ = './semantic.py'

default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000),
)
log_processor = dict(by_epoch=False, window_size=50)
