"""First of two steps to magnetic tiles: YOLOv8n-seg learns from drawn tiles what a defect is, five epochs of 160 steps.

Data: `tools/make_synthetic.py data/tiles --preset tile --num-train 800 --num-val 40 --size 320` (a minute; classes and looks of the photos).

    python tools/train.py configs/yolo/segment_v8n_1xb8-5e_drawn-tiles.py
    python tools/test.py configs/yolo/segment_v8n_1xb8-5e_drawn-tiles.py work_dirs/segment_v8n_1xb8-5e_drawn-tiles/epoch_5.pth

Then `segment_v8n_1xb8-15e_magnetic-tile.py` goes on with the photos. On these alone a run from random weights waits, for hundreds of steps or for
good, until it sees its first defects (README.md has the curves); drawn ones are easier to see, and cost nothing.
"""

# A third level of configs, on purpose: model, augmentation and hooks are those of the run from scratch, word for word.
_base_ = ['./segment_v8n_1xb8-20e_magnetic-tile.py']

data_root = 'data/tiles/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(ann_file=data_root + 'val.json')
test_dataloader = dict(dataset=dict(data_root=data_root, ann_file='val.json'))
test_evaluator = dict(ann_file=data_root + 'val.json')

max_epochs = 5
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=2.8e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=200, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        # Not to zero: the photos are still to come.
        eta_min=2e-4,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
