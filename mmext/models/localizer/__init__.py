"""One object an image: its class and its box."""

from mmext.models.localizer.head import LocalizerHead
from mmext.models.localizer.localizer import SingleObjectLocalizer
from mmext.models.localizer.losses import LocalizationLoss
from mmext.models.localizer.vote_head import VoteHead

__all__ = ['LocalizationLoss', 'LocalizerHead', 'SingleObjectLocalizer', 'VoteHead']
