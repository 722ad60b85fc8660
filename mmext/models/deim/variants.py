"""The twelve published sizes of DEIMv2 as one table, which configs, weight conversion and tests read.

Sources: DEIMv2 (https://arxiv.org/abs/2509.20787) and its released configurations. The four sizes
`hgs` .. `hgx` have configurations only, no published weights and no published AP.
"""

from typing import NamedTuple

# The same in every size.
NUM_HEADS = 8
REG_MAX = 32
NUM_COCO_CLASSES = 80


class Variant(NamedTuple):
    """One size of DEIMv2. The defaults are those of the sizes n and above.

    Attributes:
        backbone: 'hgnetv2' or 'dinov3_sta'.
        arch: Which of the two: 'atto' .. 'b5' or 'vit_tiny', 'vit_tiny_plus', 'vits', 'vits_plus'.
        backbone_channels: Channels of each map the backbone hands on, the finest first.
        encoder: 'hybrid' or 'lite'.
        block: Fusion block of the encoder, 'e4' or 'e5'.
        encoder_channels: Channels of each map the encoder hands on.
        csp_channels: Channels inside the fusion blocks.
        num_csp_blocks: Convolution blocks of each chain inside the fusion blocks.
        encoder_ffn_channels: Hidden channels of the attention layer's feed-forward network, 0 in
            the lite encoder, which has no attention.
        decoder_channels: Channels d of the queries.
        num_decoder_layers: Layers of the decoder.
        decoder_ffn_channels: Twice the hidden channels of the decoder's SwiGLU network.
        num_params: Parameters of the training form with 80 classes, shared ones counted once; of hgx
            without the 93_920 scales and biases of its frozen norms.
        num_keys: State-dict entries of the training form, aliases and counters included; of hgx
            without the 130 counters of its frozen norms.
        coco_ap: Published AP on COCO val2017 in percent, None where nothing is published.
        num_queries: Queries, without the denoising ones.
        num_points: Sampling points of a head in each level.
        strides: Pixels of the image per cell of each map of encoder and decoder. Below n the backbone
            hands on the first only; the lite encoder makes the second.
        input_size: Side of the square image.
        gated: Whether a gate joins the queries with what they gathered from the image, or a sum.
        shares_bbox_head: Whether all decoder layers have one and the same box head.
        reg_scale: s, the reach of the box distributions in halves of the box.
        sta_channels: First width p of the spatial tuning adapter, 0 where the backbone has none.
    """

    backbone: str
    arch: str
    backbone_channels: tuple[int, ...]
    encoder: str
    block: str
    encoder_channels: int
    csp_channels: int
    num_csp_blocks: int
    encoder_ffn_channels: int
    decoder_channels: int
    num_decoder_layers: int
    decoder_ffn_channels: int
    num_params: int
    num_keys: int
    coco_ap: float | None = None
    num_queries: int = 300
    num_points: tuple[int, ...] = (3, 6, 3)
    strides: tuple[int, ...] = (8, 16, 32)
    input_size: int = 640
    gated: bool = True
    shares_bbox_head: bool = False
    reg_scale: float = 4.0
    sta_channels: int = 0


VARIANTS: dict[str, Variant] = {
    'atto': Variant(
        backbone='hgnetv2',
        arch='atto',
        backbone_channels=(256,),
        encoder='lite',
        block='e4',
        encoder_channels=64,
        csp_channels=10,
        num_csp_blocks=2,
        encoder_ffn_channels=0,
        decoder_channels=64,
        num_decoder_layers=3,
        decoder_ffn_channels=160,
        num_params=508_985,
        num_keys=493,
        coco_ap=23.8,
        num_queries=100,
        num_points=(4, 2),
        strides=(16, 32),
        input_size=320,
        gated=False,
        shares_bbox_head=True,
    ),
    'femto': Variant(
        backbone='hgnetv2',
        arch='femto',
        backbone_channels=(512,),
        encoder='lite',
        block='e4',
        encoder_channels=96,
        csp_channels=16,
        num_csp_blocks=2,
        encoder_ffn_channels=0,
        decoder_channels=96,
        num_decoder_layers=3,
        decoder_ffn_channels=256,
        num_params=983_945,
        num_keys=493,
        coco_ap=31.0,
        num_queries=150,
        num_points=(4, 2),
        strides=(16, 32),
        input_size=416,
        gated=False,
        shares_bbox_head=True,
    ),
    'pico': Variant(
        backbone='hgnetv2',
        arch='pico',
        backbone_channels=(512,),
        encoder='lite',
        block='e4',
        encoder_channels=112,
        csp_channels=19,
        num_csp_blocks=2,
        encoder_ffn_channels=0,
        decoder_channels=112,
        num_decoder_layers=3,
        decoder_ffn_channels=320,
        num_params=1_539_539,
        num_keys=551,
        coco_ap=38.5,
        num_queries=200,
        num_points=(4, 2),
        strides=(16, 32),
        gated=False,
        shares_bbox_head=True,
    ),
    'n': Variant(
        backbone='hgnetv2',
        arch='b0',
        backbone_channels=(512, 1024),
        encoder='hybrid',
        block='e4',
        encoder_channels=128,
        csp_channels=21,
        num_csp_blocks=2,
        encoder_ffn_channels=512,
        decoder_channels=128,
        num_decoder_layers=3,
        decoder_ffn_channels=512,
        num_params=3_600_421,
        num_keys=639,
        coco_ap=43.0,
        num_points=(6, 6),
        strides=(16, 32),
    ),
    's': Variant(
        backbone='dinov3_sta',
        arch='vit_tiny',
        backbone_channels=(192, 192, 192),
        encoder='hybrid',
        block='e5',
        encoder_channels=192,
        csp_channels=32,
        num_csp_blocks=2,
        encoder_ffn_channels=512,
        decoder_channels=192,
        num_decoder_layers=4,
        decoder_ffn_channels=512,
        num_params=9_779_838,
        num_keys=673,
        coco_ap=50.9,
        sta_channels=16,
    ),
    'm': Variant(
        backbone='dinov3_sta',
        arch='vit_tiny_plus',
        backbone_channels=(256, 256, 256),
        encoder='hybrid',
        block='e5',
        encoder_channels=256,
        csp_channels=85,
        num_csp_blocks=3,
        encoder_ffn_channels=512,
        decoder_channels=256,
        num_decoder_layers=4,
        decoder_ffn_channels=512,
        num_params=18_357_750,
        num_keys=769,
        coco_ap=53.0,
        sta_channels=16,
    ),
    'l': Variant(
        backbone='dinov3_sta',
        arch='vits',
        backbone_channels=(224, 224, 224),
        encoder='hybrid',
        block='e5',
        encoder_channels=224,
        csp_channels=112,
        num_csp_blocks=3,
        encoder_ffn_channels=896,
        decoder_channels=224,
        num_decoder_layers=4,
        decoder_ffn_channels=1792,
        num_params=32_551_214,
        num_keys=809,
        coco_ap=56.0,
        sta_channels=32,
    ),
    'x': Variant(
        backbone='dinov3_sta',
        arch='vits_plus',
        backbone_channels=(256, 256, 256),
        encoder='hybrid',
        block='e5',
        encoder_channels=256,
        csp_channels=160,
        num_csp_blocks=4,
        encoder_ffn_channels=1024,
        decoder_channels=256,
        num_decoder_layers=6,
        decoder_ffn_channels=2048,
        num_params=51_211_736,
        num_keys=989,
        coco_ap=57.8,
        sta_channels=64,
    ),
    'hgs': Variant(
        backbone='hgnetv2',
        arch='b0',
        backbone_channels=(256, 512, 1024),
        encoder='hybrid',
        block='e4',
        encoder_channels=256,
        csp_channels=64,
        num_csp_blocks=1,
        encoder_ffn_channels=1024,
        decoder_channels=256,
        num_decoder_layers=3,
        decoder_ffn_channels=2048,
        num_params=10_451_413,
        num_keys=729,
    ),
    'hgm': Variant(
        backbone='hgnetv2',
        arch='b2',
        backbone_channels=(384, 768, 1536),
        encoder='hybrid',
        block='e5',
        encoder_channels=256,
        csp_channels=128,
        num_csp_blocks=2,
        encoder_ffn_channels=1024,
        decoder_channels=256,
        num_decoder_layers=4,
        decoder_ffn_channels=2048,
        num_params=18_866_352,
        num_keys=943,
    ),
    'hgl': Variant(
        backbone='hgnetv2',
        arch='b4',
        backbone_channels=(512, 1024, 2048),
        encoder='hybrid',
        block='e5',
        encoder_channels=256,
        csp_channels=128,
        num_csp_blocks=3,
        encoder_ffn_channels=1024,
        decoder_channels=256,
        num_decoder_layers=6,
        decoder_ffn_channels=2048,
        num_params=31_090_936,
        num_keys=1137,
    ),
    'hgx': Variant(
        backbone='hgnetv2',
        arch='b5',
        backbone_channels=(512, 1024, 2048),
        encoder='hybrid',
        block='e5',
        encoder_channels=384,
        csp_channels=192,
        num_csp_blocks=3,
        encoder_ffn_channels=2048,
        decoder_channels=256,
        num_decoder_layers=6,
        decoder_ffn_channels=2048,
        num_params=60_291_704,
        num_keys=1325,
        reg_scale=8.0,
    ),
}
