"""Parts that two systems or more use."""

from mmext.models.common.instance_tta import InstanceTTAModel

__all__ = ['InstanceTTAModel']
