"""Parts that two systems or more use."""

from mmext.models.common.instance_tta import InstanceTTAModel
from mmext.models.common.masked_attention import MaskedCrossAttention

__all__ = ['InstanceTTAModel', 'MaskedCrossAttention']
