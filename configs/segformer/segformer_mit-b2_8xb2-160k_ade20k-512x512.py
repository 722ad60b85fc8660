"""SegFormer B2 on ADE20K, 150 classes, 8 GPUs x 2 images of 512 x 512, 160000 steps; 27.5 million weights.

Data: ADE20K in data/ade/. Published mIoU on its validation set, one scale: 46.5 (the paper), 45.58 (mmseg, whose
decoder is 256 wide and has more norms). This config has not been trained here: no GPU and no ADE20K at hand.

    tools/dist_train.sh configs/segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512.py 8

The encoder starts from ImageNet: a file of NVlabs (mit_b2.pth), OpenMMLab or transformers (nvidia/mit-b2) as
`checkpoint` of the backbone. Published weights of the whole model become a checkpoint and a config by

    python tools/convert_weights.py SRC segformer.pth --source segformer-nvlabs    # or segformer-hf, segformer-mmseg
"""

_base_ = [
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/segformer_160k.py',
    '../_base_/runtime/semantic_iterations.py',
]

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(
        type='mmext.MixVisionTransformer',
        embed_dims=64,
        num_layers=(3, 4, 6, 3),
        num_heads=(1, 2, 5, 8),
        sr_ratios=(8, 4, 2, 1),
        drop_path_rate=0.1,
        # Those of NVlabs; see the backbone for other sources.
        patch_eps=1e-5,
        block_eps=1e-6,
        stage_eps=1e-6,
        checkpoint=None,
    ),
    decode_head=dict(
        type='mmext.SegformerMLPHead',
        in_channels=(64, 128, 320, 512),
        channels=768,
        num_classes=150,
        dropout_ratio=0.1,
        dropout_type='Dropout2d',
        norm_cfg=dict(type='SyncBN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    test_cfg=dict(mode='whole'),
)
