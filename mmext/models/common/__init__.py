"""Parts that two systems or more use."""

from mmext.models.common.batch_augments import BatchCopyBlend, BatchFirstOf, BatchMixUp
from mmext.models.common.batch_resize import BatchRandomSize
from mmext.models.common.instance_tta import InstanceTTAModel
from mmext.models.common.masked_attention import MaskedCrossAttention

__all__ = [
    'BatchCopyBlend',
    'BatchFirstOf',
    'BatchMixUp',
    'BatchRandomSize',
    'InstanceTTAModel',
    'MaskedCrossAttention',
]
