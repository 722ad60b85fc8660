"""Second of two steps to magnetic tiles: goes on with the photos where `segment_v8n_1xb8-5e_drawn-tiles.py` ended.

Together they take the 3200 steps of `segment_v8n_1xb8-20e_magnetic-tile.py`, which starts from random weights; README.md has the scores of both.

    python tools/train.py configs/yolo/segment_v8n_1xb8-15e_magnetic-tile.py
    python tools/test.py configs/yolo/segment_v8n_1xb8-15e_magnetic-tile.py work_dirs/segment_v8n_1xb8-15e_magnetic-tile/epoch_15.pth
"""

# A third level of configs, on purpose: model, data and hooks are those of the run from scratch, word for word.
_base_ = ['./segment_v8n_1xb8-20e_magnetic-tile.py']

load_from = 'work_dirs/segment_v8n_1xb8-5e_drawn-tiles/epoch_5.pth'

max_epochs = 15
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
# Twice the rate that runs from random weights bear.
optim_wrapper = dict(optimizer=dict(lr=2.8e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=200, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        eta_min=2e-5,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
