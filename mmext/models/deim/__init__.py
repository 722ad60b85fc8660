"""DEIMv2, a real-time detector with queries (https://arxiv.org/abs/2509.20787)."""

from mmext.models.deim.clip_fusion import MultimodalFusion
from mmext.models.deim.criterion import DEIMCriterion
from mmext.models.deim.decoder import DEIMTransformer
from mmext.models.deim.detector import DEIM
from mmext.models.deim.hybrid_encoder import HybridEncoder
from mmext.models.deim.lite_encoder import LiteEncoder
from mmext.models.deim.matcher import DEIMMatcher, DEIMUnionMatcher
from mmext.models.deim.multimodal import DEIMMultimodal
from mmext.models.deim.softmax_fusion import SoftmaxMultimodalFusion

__all__ = [
    'DEIM',
    'DEIMCriterion',
    'DEIMMatcher',
    'DEIMMultimodal',
    'DEIMTransformer',
    'DEIMUnionMatcher',
    'HybridEncoder',
    'LiteEncoder',
    'MultimodalFusion',
    'SoftmaxMultimodalFusion',
]
