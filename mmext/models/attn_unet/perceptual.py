"""`PerceptualLoss`: distance of what a frozen network sees in the cut-out, not of the alphas themselves.

Idea: Johnson et al., https://arxiv.org/abs/1603.08155. The network sees the photo on a plain background, cut out with the
predicted and with the true alpha.

Shape letters: N images, H W the network input.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.attn_unet.losses import MatteLoss
from mmext.models.attn_unet.vgg_features import load_vgg_features
from mmext.registry import MODELS

ENCODER = 'encoder'
MODES = ('composite', 'mask')
RANDOM_BACKGROUND = 'random'
# Two poolings of VGG need 4 pixels; more keeps some area in the features of strips.
MIN_SIDE = 16
_NUM_ENCODER_LEVELS = 3


class EncoderFeatures(nn.Module):
    """The first levels of an encoder.

    Args:
        backbone: gives a sequence of maps, the finest first. It is taken over, not copied.
        mean: of the network's input, RGB in 0..255.
        std: of the network's input, RGB in 0..255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        device = next(backbone.parameters()).device
        for name, values in (('mean', mean), ('std', std)):
            numbers = torch.as_tensor(values, dtype=torch.float32, device=device)
            self.register_buffer(name, numbers.reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) RGB in [0, 1] to at most three maps."""
        return list(self.backbone((255 * images - self.mean) / self.std))[:_NUM_ENCODER_LEVELS]


class Frozen:
    """Holds a network that is no part of the model.

    A module that is an attribute of another appears in its state, its parameters and its copies. This one does not:
    checkpoints stay small, the optimiser and moving averages do not see it, and copies share it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.float().eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> 'Frozen':
        return self


@MODELS.register_module()
class PerceptualLoss(MatteLoss):
    """Mean squared distance of the features of two cut-outs, averaged over the levels of the feature network.

    Args:
        loss_weight: factor of the term.
        feature_net: file of VGG16's weights under torchvision's names; or 'encoder' for the first levels of the model's
            own encoder as it is once initialised, with the weights of its `checkpoint` or random ones, and before
            `load_from` is read. That needs no file. Nothing is downloaded.
        mode: 'composite' shows the network the cut-out on a plain background; 'mask' the alpha as a grey image.
        background: grey value in [0, 1] of that background, or 'random' for a random colour for each image and step.
        max_size: images whose long side is larger are shrunk to it.

    Raises:
        ValueError: a setting is wrong, or the file is missing, damaged or another network's.
    """

    loss_name = 'loss_perceptual'

    def __init__(
        self,
        loss_weight: float = 0.5,
        *,
        feature_net: str | None = ENCODER,
        mode: str = 'composite',
        background: str | float = RANDOM_BACKGROUND,
        max_size: int = 256,
    ) -> None:
        super().__init__(loss_weight)
        if mode not in MODES:
            raise ValueError(f'PerceptualLoss: got mode={mode!r}, expected one of {MODES}')
        is_grey = not isinstance(background, (str, bool)) and 0 <= background <= 1
        if background != RANDOM_BACKGROUND and not is_grey:
            raise ValueError(
                f"PerceptualLoss: got background={background!r}, expected 'random' or a number in [0, 1]"
            )
        if max_size < MIN_SIDE:
            raise ValueError(
                f'PerceptualLoss: got max_size={max_size}, expected at least {MIN_SIDE}'
            )
        self.feature_net = feature_net
        self.mode = mode
        self.background = background
        self.max_size = max_size
        self._frozen: Frozen | None = None
        if loss_weight > 0 and feature_net != ENCODER:
            self._frozen = Frozen(self._read_file())

    def bind_encoder(
        self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Take a frozen copy of the encoder, if the loss is to use it.

        Args:
            backbone: the encoder of the model, initialised.
            mean: of the network's input, RGB in 0..255.
            std: of the network's input, RGB in 0..255.
        """
        if self.feature_net != ENCODER or self.loss_weight == 0:
            return
        self._frozen = Frozen(EncoderFeatures(first_levels(backbone), mean, std))
        print_log(
            f'PerceptualLoss: features of the {type(backbone).__name__} as it is now, frozen; for those of VGG16 set '
            'feature_net to a file of its weights',
            'current',
        )

    def term(self, logits: Tensor, alpha: Tensor, valid: Tensor, images: Tensor) -> Tensor:
        """See `MatteLoss.term`."""
        network = self._network(logits.device)
        # Unknown pixels count as right.
        prediction = valid * logits.sigmoid()
        backdrop = self._backdrop(images)
        seen = network(self._view(prediction, images, backdrop))
        with torch.no_grad():
            wanted = network(self._view(alpha, images, backdrop))
        pairs = zip(seen, wanted, strict=True)
        return torch.stack([functional.mse_loss(own, other) for own, other in pairs]).mean()

    def _network(self, device: torch.device) -> nn.Module:
        if self._frozen is None:
            raise ValueError(
                "PerceptualLoss: feature_net='encoder' and no encoder is bound; expected model.init_weights() before the "
                'first loss, as the Runner calls it. Or call bind_encoder(backbone, mean, std).'
            )
        # No part of the module tree, hence it follows its inputs.
        return self._frozen.network.to(device)

    def _backdrop(self, images: Tensor) -> Tensor:
        """One colour for each image, (N, 3, 1, 1) in [0, 1]."""
        if self.background == RANDOM_BACKGROUND:
            return torch.rand_like(images[:, :, :1, :1])
        return torch.full_like(images[:, :, :1, :1], float(self.background))

    def _view(self, alpha: Tensor, images: Tensor, backdrop: Tensor) -> Tensor:
        """What the network sees, (N, 3, h, w) in [0, 1], from alpha (N, 1, H, W)."""
        if self.mode == 'mask':
            view = alpha.expand_as(images)
        else:
            view = backdrop + alpha * (images - backdrop)
        height, width = view.shape[-2:]
        scale = self.max_size / max(height, width)
        if scale < 1:
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            view = functional.interpolate(view, size, mode='area')
        missing = [max(0, MIN_SIDE - side) for side in view.shape[-2:]]
        if any(missing):
            view = functional.pad(view, (0, missing[1], 0, missing[0]), mode='replicate')
        return view.float()

    def _read_file(self) -> nn.Module:
        try:
            if not self.feature_net:
                raise ValueError(f'got feature_net={self.feature_net!r}')
            return load_vgg_features(self.feature_net)
        except (ValueError, OSError) as error:
            raise ValueError(
                f'PerceptualLoss: {error}. Expected a file of VGG16 such as vgg16-397923af.pth. Give its path as '
                "feature_net; or set feature_net='encoder', which needs no file, or loss_weight=0, which switches the "
                'loss off.'
            ) from error


def first_levels(backbone: nn.Module) -> nn.Module:
    """A copy of an encoder; of a ResNet without the stages that are not looked at."""
    found: Any = copy.deepcopy(backbone)
    names = getattr(found, 'res_layers', None)
    if isinstance(names, list):
        # mmseg's ResNets run the stages of this list; the late ones have most of the weights.
        for name in names[2:]:
            delattr(found, name)
        found.res_layers = names[:2]
        found.frozen_stages = min(found.frozen_stages, 2)
    return found
