"""Votes, heads and backbone of the localizer, as plain tensors."""

import math

import mmdet.models  # noqa: F401  (registers its losses)
import pytest
import torch

from mmext.models.backbones import LocalizerCNN
from mmext.models.localizer import LocalizationLoss, LocalizerHead, VoteHead, votes
from mmext.models.localizer.outputs import LocalizerTargets

LOSS = dict(type='mmext.LocalizationLoss', loss_box=dict(type='mmdet.GIoULoss', loss_weight=1.0))


def targets(*known: bool) -> LocalizerTargets:
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.8], [0.3, 0.3, 0.9, 0.4], [0.0, 0.0, 1.0, 1.0]])
    return LocalizerTargets(boxes, torch.tensor([2, 0, 1]), torch.tensor(known))


def test_cell_centres__by_a_loop():
    expected = [[(x + 0.5) / 3, (y + 0.5) / 2] for y in range(2) for x in range(3)]
    centres = votes.cell_centres(2, 3, torch.device('cpu'))
    torch.testing.assert_close(centres, torch.tensor(expected))


def test_decode_votes__certain_distances():
    # 5 bins over a reach of 0.8 are 0, 0.2, 0.4, 0.6, 0.8.
    logits = torch.full((1, 1, 4, 5), -50.0)
    for edge, chosen in enumerate((1, 0, 2, 4)):
        logits[0, 0, edge, chosen] = 50.0
    boxes = votes.decode_votes(logits, torch.tensor([[0.5, 0.25]]), 0.8)
    torch.testing.assert_close(boxes, torch.tensor([[[0.3, 0.25, 0.9, 1.05]]]))


def test_decode_votes__between_two_bins():
    logits = torch.tensor([0.75, 0.25]).log().expand(1, 1, 4, 2)
    boxes = votes.decode_votes(logits, torch.tensor([[0.5, 0.5]]), 0.4)
    torch.testing.assert_close(boxes, torch.tensor([[[0.4, 0.4, 0.6, 0.6]]]))


def test_nearness__a_bell_of_the_size_of_the_box():
    centres = votes.cell_centres(16, 16, torch.device('cpu'))
    box = torch.tensor([[0.2, 0.5, 0.6, 0.6]])
    shares = votes.nearness(box, centres, 0.5)
    bell = [
        math.exp(-(((x - 0.4) / 0.2) ** 2 + ((y - 0.55) / 0.05) ** 2) / 2)
        for x, y in centres.tolist()
    ]
    torch.testing.assert_close(shares[0], torch.tensor(bell) / sum(bell))


@pytest.mark.parametrize('size', [1e-3, 0.0], ids=['a-hundredth-of-a-cell', 'zero'])
def test_nearness__a_box_smaller_than_a_cell_has_the_nearest(size):
    centres = votes.cell_centres(4, 4, torch.device('cpu'))
    shares = votes.nearness(torch.tensor([[0.6, 0.3, 0.6 + size, 0.3 + size]]), centres, 0.2)
    assert shares[0, 6] == 1 and shares.sum() == 1


def test_attention_loss__is_the_divergence_plus_the_entropy():
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 3, 10, generator=generator)
    shares = other.softmax(dim=1)
    true = torch.distributions.Categorical(probs=shares)
    divergence = torch.distributions.kl_divergence(
        true, torch.distributions.Categorical(logits=logits)
    )
    loss = votes.attention_loss(logits, shares)
    torch.testing.assert_close(loss, (divergence + true.entropy()).mean())


def test_vote_and_edge_loss__the_true_distances_cost_nothing():
    centres = torch.tensor([[0.5, 0.5]])
    box = torch.tensor([[0.25, 0.0, 0.75, 1.0]])  # on the bins 0, 0.25, ... 1
    logits = torch.full((1, 1, 4, 5), -50.0)
    for edge, chosen in enumerate((1, 2, 1, 2)):
        logits[0, 0, edge, chosen] = 50.0
    shares = torch.ones(1, 1)
    boxes = votes.decode_votes(logits, centres, 1.0)
    assert votes.vote_loss(boxes, box, shares) < 1e-6
    assert votes.edge_loss(logits, centres, box, shares, reach=1.0) < 1e-6
    assert votes.edge_loss(logits, centres, box + 0.2, shares, reach=1.0) > 10


def test_vote_head__says_a_usual_box_in_the_middle_before_training():
    torch.manual_seed(0)
    head = VoteHead([8, 8], 3, loss=LOSS, feat_channels=8).eval()
    out = head([torch.randn(2, 8, 12, 16), torch.randn(2, 8, 6, 8)])
    assert out.votes.shape == (2, 192, 4)
    torch.testing.assert_close(
        out.boxes, torch.tensor([0.35, 0.35, 0.65, 0.65]).expand(2, 4), atol=0.05, rtol=0
    )


def test_vote_head__the_box_is_the_vote_of_the_cell_that_has_the_attention():
    torch.manual_seed(0)
    head = VoteHead([8], 3, loss=LOSS, feat_channels=8).eval()
    torch.nn.init.normal_(head.place.weight, std=5.0)
    out = head([torch.randn(1, 8, 4, 4)])
    heard = out.attention_logits.softmax(1)
    expected = sum(share * vote for share, vote in zip(heard[0], out.votes[0], strict=True))
    torch.testing.assert_close(out.boxes[0], expected)


@pytest.mark.parametrize('weights', [dict(vote=1.0), dict(votes=-1.0)], ids=str)
def test_vote_head__wrong_weights(weights):
    with pytest.raises(ValueError, match=r"for any of \['attention', 'votes', 'edges'\]"):
        VoteHead([8], 3, loss=LOSS, weights=weights)


def test_vote_head__weights_are_factors_of_the_dense_losses():
    torch.manual_seed(0)
    head = VoteHead([8], 3, loss=LOSS, feat_channels=8, dropout=0.0)
    feats = [torch.randn(3, 8, 6, 6)]
    plain = head.loss(head(feats), targets(True, True, True))
    head.weights = dict(attention=0.4, votes=0.7, edges=0.0)
    changed = head.loss(head(feats), targets(True, True, True))
    for name, factor in dict(attention=2, votes=1, edges=0, box=1).items():
        torch.testing.assert_close(changed[f'loss_{name}'], factor * plain[f'loss_{name}'])


@pytest.mark.parametrize('settings', [dict(num_bins=1), dict(reach=0.0), dict(sigma=-0.1)], ids=str)
def test_vote_head__wrong_settings(settings):
    with pytest.raises(ValueError, match='at least two bins and lengths above 0'):
        VoteHead([8], 3, loss=LOSS, **settings)


def test_plain_head__layers_of_the_mission():
    head = LocalizerHead(16, 3, loss=LOSS, bounded=True)
    kinds = [type(layer).__name__ for layer in head.box_branch]
    block = ['Linear', 'BatchNorm1d', 'ReLU']
    assert kinds == [*block, 'Dropout', *block, 'Dropout', *block, 'Linear', 'Sigmoid']
    assert [
        layer.out_features for layer in head.class_branch if hasattr(layer, 'out_features')
    ] == [
        1024,
        512,
        256,
        3,
    ]
    dropouts = [layer.p for layer in head.class_branch if hasattr(layer, 'p')]
    assert dropouts == [0.5, 0.3]
    out = head.eval()([torch.randn(2, 16, 5, 3) * 100])
    assert (out.boxes >= 0).all() and (out.boxes <= 1).all()


def test_plain_head__corners_are_in_order():
    torch.manual_seed(0)
    out = LocalizerHead(16, 3, loss=LOSS)([torch.randn(64, 16, 5, 3)])
    assert (out.boxes[:, :2] <= out.boxes[:, 2:]).all()
    # 1 - GIoU lies in [0, 2] for boxes that are none the wrong way round.
    goal = torch.tensor([[0.1, 0.2, 0.5, 0.8]]).expand(64, 4)
    known = torch.ones(64, dtype=torch.bool)
    losses = LocalizationLoss(3, LOSS['loss_box'])(
        out, LocalizerTargets(goal, torch.zeros(64, dtype=torch.long), known)
    )
    assert 0 <= losses['loss_box'] <= 0.7 * 2


def test_plain_head__one_image_in_training_is_an_error():
    head = LocalizerHead(16, 3, loss=LOSS)
    with pytest.raises(ValueError, match='drop_last=True'):
        head([torch.randn(1, 16, 5, 3)])
    assert head.eval()([torch.randn(1, 16, 5, 3)]).boxes.shape == (1, 4)


def test_cnn__maps_halve_and_start_from_he():
    torch.manual_seed(0)
    net = LocalizerCNN(out_indices=(1, 3))
    maps = net(torch.randn(2, 3, 65, 40))
    assert [tuple(x.shape) for x in maps] == [(2, 64, 17, 10), (2, 256, 5, 3)]
    kernel = net.blocks[3][0].weight
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)


def test_cnn__builds_no_block_that_nobody_sees():
    net = LocalizerCNN(out_indices=(0, 1))
    assert len(net.blocks) == 2


def test_cnn__one_pixel_still_has_a_cell():
    assert LocalizerCNN((4, 4, 4, 4)).eval()(torch.randn(1, 3, 1, 1))[0].shape == (1, 4, 1, 1)


@pytest.mark.parametrize('indices', [(4,), (-1,), ()], ids=str)
def test_cnn__wrong_blocks(indices):
    with pytest.raises(ValueError, match='some of 0 to 3'):
        LocalizerCNN(out_indices=indices)
