"""`PerceptualLoss`: what its network sees, and that it is no part of the model."""

import copy
import socket

import pytest
import torch
from mmseg.models.backbones import ResNet
from torch import nn
from torch.nn import functional

from mmext.models.attn_unet.perceptual import PerceptualLoss
from mmext.models.attn_unet.vgg_features import VGGFeatures, load_vgg_features
from tests.models.test_matte_losses import Encoder, with_encoder

# Index of each convolution in torchvision's vgg16().features that is read, and its channels.
VGG_CONVS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256)}
VGG_CONVS |= {12: (256, 256), 14: (256, 256)}


@pytest.fixture(scope='module')
def vgg_state():
    """Small random weights under the names of torchvision, with a later layer and the classifier."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for index, (inputs, outputs) in VGG_CONVS.items():
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / (9 * inputs) ** 0.5
        state[f'features.{index}.weight'] = weight
        state[f'features.{index}.bias'] = torch.randn(outputs, generator=generator) / 10
    return state | {'features.17.weight': torch.zeros(2), 'classifier.6.bias': torch.zeros(2)}


@pytest.fixture(scope='module')
def vgg_file(vgg_state, tmp_path_factory):
    path = tmp_path_factory.mktemp('vgg') / 'vgg16.pth'
    torch.save(vgg_state, path)
    return str(path)


def inputs(size=(24, 32)):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, *size, generator=generator)
    alpha = torch.rand(2, 1, *size, generator=generator)
    images = torch.rand(2, 3, *size, generator=generator)
    return logits.requires_grad_(), alpha, torch.ones_like(alpha, dtype=torch.bool), images


def slow_vgg(state, images):
    """relu1_2, relu2_2 and relu3_3, written out."""
    x = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    found = []
    for indices in ((0, 2), (5, 7), (10, 12, 14)):
        for index in indices:
            names = (f'features.{index}.weight', f'features.{index}.bias')
            x = functional.conv2d(x, *(state[name] for name in names), padding=1).relu()
        found.append(x)
        x = functional.max_pool2d(x, 2)
    return found


def test_vgg__equals_the_layers_written_out(vgg_state, vgg_file):
    images = inputs()[3]
    for own, expected in zip(
        load_vgg_features(vgg_file)(images), slow_vgg(vgg_state, images), strict=True
    ):
        torch.testing.assert_close(own, expected)


def test_vgg__names_are_those_of_torchvision(vgg_state):
    expected = [name for name in vgg_state if not name.startswith(('features.17', 'classifier'))]
    assert sorted(VGGFeatures().state_dict()) == sorted(expected)


@pytest.mark.parametrize('mode', ['composite', 'mask'])
def test_perceptual__compares_cut_outs_or_masks(vgg_state, vgg_file, mode):
    logits, alpha, valid, images = inputs()
    loss = PerceptualLoss(1.0, feature_net=vgg_file, mode=mode, background=0.25)
    prediction = logits.sigmoid()
    if mode == 'mask':
        seen, wanted = (own.expand(-1, 3, -1, -1) for own in (prediction, alpha))
    else:
        seen, wanted = (own * images + (1 - own) * 0.25 for own in (prediction, alpha))
    pairs = zip(slow_vgg(vgg_state, seen), slow_vgg(vgg_state, wanted), strict=True)
    expected = sum(((own - other) ** 2).mean() for own, other in pairs) / 3
    torch.testing.assert_close(loss(logits, alpha, valid, images), expected)


def test_perceptual__random_background_is_one_colour_for_both_sides():
    logits, alpha, valid, images = inputs()
    loss = with_encoder(PerceptualLoss())
    torch.manual_seed(0)
    first = loss(logits, alpha, valid, images)
    torch.manual_seed(0)
    assert torch.equal(loss(logits, alpha, valid, images), first)
    assert not torch.equal(loss(logits, alpha, valid, images), first)
    assert loss(torch.logit(alpha), alpha, valid, images) < 1e-10


@pytest.mark.parametrize(
    ('size', 'seen'), [((300, 600), (128, 256)), ((100, 50), (100, 50)), ((2000, 20), (256, 16))]
)
def test_perceptual__network_sees_at_most_max_size(size, seen):
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.sizes = sizes

        def forward(self, x):
            self.sizes.append(tuple(x.shape[2:]))
            return (x * self.scale,)

    sizes = []
    loss = PerceptualLoss()
    loss.bind_encoder(Recorder(), (0, 0, 0), (1, 1, 1))
    # The copy of the encoder has a list of its own.
    sizes = loss._frozen.network.backbone.sizes
    loss(*inputs(size))
    assert sizes == [seen, seen]


def test_perceptual__encoder_gets_what_the_model_gives_it():
    logits, alpha, valid, images = inputs()
    encoder, mean, std = Encoder(), (120.0, 110.0, 100.0), (50.0, 55.0, 60.0)
    loss = PerceptualLoss(1.0, background=0.0)
    loss.bind_encoder(encoder, mean, std)
    shown = [
        encoder(
            (255 * own * images - torch.tensor(mean).view(3, 1, 1))
            / torch.tensor(std).view(3, 1, 1)
        )
        for own in (logits.sigmoid(), alpha)
    ]
    expected = sum(functional.mse_loss(own, other) for own, other in zip(*shown, strict=True)) / 2
    torch.testing.assert_close(loss(logits, alpha, valid, images), expected)


def test_perceptual__network_is_frozen_and_no_part_of_the_model():
    encoder = Encoder()
    loss = PerceptualLoss()
    loss.bind_encoder(encoder, (0, 0, 0), (255, 255, 255))
    model = nn.ModuleDict(dict(encoder=encoder, loss=loss))
    assert not [name for name in model.state_dict() if name.startswith('loss')]
    assert {id(own) for own in model.parameters()} == {id(own) for own in encoder.parameters()}
    average = copy.deepcopy(model)
    assert average['loss']._frozen is loss._frozen
    before = loss(*inputs()).detach()
    with torch.no_grad():
        for own in encoder.parameters():
            own.zero_()
    model.train()
    torch.manual_seed(0)
    first = loss(*inputs()).detach()
    model.eval()
    torch.manual_seed(0)
    assert torch.equal(loss(*inputs()), first)
    assert before > 0 and first > 0
    assert all(own.grad is None for own in loss._frozen.network.parameters())


def test_perceptual__takes_two_stages_of_a_resnet_and_its_stem():
    backbone = ResNet(18, base_channels=8, frozen_stages=4)
    loss = PerceptualLoss(background=0.0)
    loss.bind_encoder(backbone, (0, 0, 0), (255, 255, 255))
    frozen = loss._frozen.network.backbone
    assert hasattr(backbone, 'layer4') and not hasattr(frozen, 'layer3')
    logits, alpha, valid, images = inputs((64, 64))
    backbone.eval()
    shown = [backbone(own * images)[:2] for own in (logits.sigmoid(), alpha)]
    expected = sum(functional.mse_loss(own, other) for own, other in zip(*shown, strict=True)) / 2
    torch.testing.assert_close(loss(logits, alpha, valid, images), 0.5 * expected)


def test_perceptual__without_its_encoder_says_who_binds_it():
    with pytest.raises(ValueError, match=r'init_weights\(\)'):
        PerceptualLoss()(*inputs())


@pytest.mark.parametrize('kind', ['missing', 'none', 'text', 'other', 'misfit', 'nan', 'folder'])
def test_perceptual__wrong_file_names_both_remedies(vgg_state, tmp_path, kind):
    path = tmp_path / 'vgg16.pth'
    if kind == 'text':
        path.write_text('no weights')
    elif kind == 'folder':
        path.mkdir()
    elif kind not in ('missing', 'none'):
        state = dict(vgg_state)
        if kind == 'other':
            state = {'conv1.weight': torch.zeros(2)}
        elif kind == 'misfit':
            state['features.5.weight'] = torch.zeros(2, 2)
        else:
            state['features.5.bias'] = torch.full((128,), float('nan'))
        torch.save(state, path)
    with pytest.raises(ValueError) as error:
        PerceptualLoss(feature_net=None if kind == 'none' else str(path))
    for remedy in ('feature_net', "'encoder'", 'loss_weight=0'):
        assert remedy in str(error.value)


def test_perceptual__weight_0_needs_no_file_and_no_network(monkeypatch):
    monkeypatch.setattr(socket, 'socket', None)
    loss = PerceptualLoss(0, feature_net='/nowhere/vgg16.pth')
    loss.bind_encoder(Encoder(), (0, 0, 0), (1, 1, 1))
    assert loss(*inputs()) == 0


def test_perceptual__builds_from_its_file_on_the_meta_device(vgg_file):
    with torch.device('meta'):
        loss = PerceptualLoss(feature_net=vgg_file)
    assert loss(*inputs()).isfinite()
