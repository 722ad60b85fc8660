"""Parts that two systems or more use."""

from mmext.models.common.batch_augments import BatchCopyBlend, BatchFirstOf, BatchMixUp
from mmext.models.common.batch_resize import BatchRandomSize
from mmext.models.common.class_dice import ClassDiceLoss
from mmext.models.common.instance_tta import InstanceTTAModel
from mmext.models.common.masked_attention import MaskedCrossAttention
from mmext.models.common.query_criterion import QueryCriterion
from mmext.models.common.query_decoder import QueryMaskDecoder
from mmext.models.common.text_encoder import TextEncoder

__all__ = [
    'BatchCopyBlend',
    'BatchFirstOf',
    'BatchMixUp',
    'BatchRandomSize',
    'ClassDiceLoss',
    'InstanceTTAModel',
    'MaskedCrossAttention',
    'QueryCriterion',
    'QueryMaskDecoder',
    'TextEncoder',
]
