"""A semantic model of mmseg that takes a millisecond: one convolution, and a stock head with one more."""

from mmengine.config import Config
from torch import Tensor, nn

from mmext.registry import MODELS

CLASSES = ('wall', 'floor', 'sky', 'Straße')


@MODELS.register_module()
class PatchBackbone(nn.Module):
    """Patches of `stride` pixels, one map of 8 channels. With stride 1 every pixel is seen by itself."""

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, stride, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.conv(x).tanh(),)


def patch_config(
    *, stride: int = 4, num_logits: int = 4, divisor: int = 0, **head: object
) -> Config:
    """Config of the model; `head` are further settings of the head."""
    decode_head = dict(
        type='mmseg.FCNHead',
        in_channels=8,
        channels=8,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0,
        num_classes=max(num_logits, 2),
        norm_cfg=dict(type='BN'),
        loss_decode=dict(type='mmseg.CrossEntropyLoss'),
    )
    if num_logits == 1:
        decode_head |= dict(out_channels=1, threshold=0.3)
    preprocessor = dict(
        type='mmseg.SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    )
    if divisor:
        preprocessor |= dict(size_divisor=divisor, test_cfg=dict(size_divisor=divisor))
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(128, 48), keep_ratio=True),
        dict(type='PackSegInputs'),
    ]
    dataset = dict(
        type='BaseSegDataset',
        metainfo=dict(classes=CLASSES[: max(num_logits, 2)]),
        pipeline=pipeline,
    )
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(
                type='EncoderDecoder',
                data_preprocessor=preprocessor,
                backbone=dict(type='mmext.PatchBackbone', stride=stride),
                decode_head=decode_head | head,
                test_cfg=dict(mode='whole'),
            ),
            test_dataloader=dict(dataset=dataset),
            # mmseg's `inference_model` reads this.
            test_pipeline=pipeline,
        )
    )
