"""Bins, decoding and quality of the edges' distributions, and the small networks of the DEIM transformer."""

import math

import pytest
import torch
from torch import Tensor, nn

from mmext.models.deim.distribution import QualityEstimate, decode_boxes, make_bin_values
from mmext.models.deim.perceptrons import MLP, RMSNorm, SwiGLU


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def certain(*bins: int, num_bins: int = 33) -> Tensor:
    """Corner logits (1, 1, 4 R + 4) that are sure of one bin for each of left, top, right, bottom."""
    return (nn.functional.one_hot(torch.tensor(bins), num_bins) * 1000.0).view(1, 1, -1)


def test_bin_values__those_of_scale_4() -> None:
    values = make_bin_values(33, 4.0)
    assert len(values) == 33
    expected = {0: -4, 1: -2, 2: -1.7881, 15: -0.0760, 16: 0, 17: 0.0760, 31: 2, 32: 4}
    for index, value in expected.items():
        assert float(values[index]) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize('scale', [4.0, 8.0])
def test_bin_values__geometric_around_zero(scale: float) -> None:
    values = make_bin_values(33, scale).double()
    torch.testing.assert_close(values, -values.flip(0))
    ratios = (values[17:32] + 1)[1:] / (values[17:32] + 1)[:-1]
    torch.testing.assert_close(ratios, (values[17] + 1).expand(14), atol=1e-6, rtol=0)
    assert values[-2:].tolist() == pytest.approx([scale / 2, scale])


def test_decode_boxes__no_distance_keeps_the_box() -> None:
    refs = torch.rand(2, 5, 4)
    corners = certain(16, 16, 16, 16).expand(2, 5, -1)
    torch.testing.assert_close(decode_boxes(refs, corners, make_bin_values(33, 4.0), 4.0), refs)


def test_decode_boxes__by_hand() -> None:
    # Left by 2 and bottom by 4 box sizes / 4 outwards, top by 2 inwards: x1 = .5 - (2 + 2) .2 / 4 = .3, x2 = .6,
    # y1 = .4 - (2 - 2) .1 / 4 = .4, y2 = .4 + (2 + 4) .1 / 4 = .55.
    refs = torch.tensor([[[0.5, 0.4, 0.2, 0.1]]])
    boxes = decode_boxes(refs, certain(31, 1, 16, 32), make_bin_values(33, 4.0), 4.0)
    torch.testing.assert_close(boxes, torch.tensor([[[0.45, 0.475, 0.3, 0.15]]]))


def test_decode_boxes__edges_may_pass_each_other() -> None:
    refs = torch.tensor([[[0.5, 0.5, 0.2, 0.2]]])
    boxes = decode_boxes(refs, certain(0, 16, 0, 16), make_bin_values(33, 4.0), 4.0)
    assert boxes[0, 0, 2] == pytest.approx(-0.2)


def test_decode_boxes__float32_for_half_precision_logits() -> None:
    corners, refs = torch.randn(1, 7, 132).bfloat16(), torch.rand(1, 7, 4)
    values = make_bin_values(33, 4.0)
    with torch.autocast('cpu', torch.bfloat16):
        boxes = decode_boxes(refs, corners, values, 4.0)
    assert boxes.dtype == torch.float32
    torch.testing.assert_close(boxes, decode_boxes(refs, corners.float(), values, 4.0))


def test_quality_estimate__peaks_of_each_edge_and_their_mean() -> None:
    estimate = QualityEstimate()
    nn.init.normal_(estimate.reg_conf.layers[-1].weight)
    corners = torch.randn(1, 2, 132)
    for query in range(2):
        numbers: list[float] = []
        for edge in corners[0, query].view(4, 33).softmax(dim=1):
            peaks = sorted(edge.tolist(), reverse=True)[:4]
            numbers += [*peaks, sum(peaks) / 4]
        expected = estimate.reg_conf(torch.tensor(numbers))
        torch.testing.assert_close(estimate(corners)[0, query], expected)


def test_quality_estimate__new_one_changes_nothing() -> None:
    assert not QualityEstimate()(torch.randn(1, 3, 132)).any()


def test_rms_norm__equals_torch() -> None:
    norm, other = RMSNorm(16), nn.RMSNorm(16, eps=1e-6)
    nn.init.normal_(norm.scale)
    other.weight.data.copy_(norm.scale)
    x = 1e-3 * torch.randn(2, 5, 16)  # small enough for the epsilon to count
    torch.testing.assert_close(norm(x), other(x))


def test_rms_norm__half_precision_is_normalised_in_float32() -> None:
    norm = RMSNorm(4).half()
    x = torch.tensor([300.0, -400.0, 0.0, 500.0]).half()  # whose squares are infinite in float16
    root_mean_square = (500000 / 4) ** 0.5
    torch.testing.assert_close(norm(x), (x.float() / root_mean_square).half(), atol=0, rtol=0)


def test_swiglu__by_hand() -> None:
    network = SwiGLU(3, 2)
    x = torch.randn(3)
    hidden = network.w12(x).tolist()
    gated = [a / (1 + math.exp(-a)) * b for a, b in zip(hidden[:2], hidden[2:], strict=True)]
    torch.testing.assert_close(network(x), network.w3(torch.tensor(gated)))


def test_mlp__silu_between_the_layers() -> None:
    network = MLP(3, 5, 6, 2)
    x = torch.randn(4, 3)
    expected = nn.Sequential(
        network.layers[0], nn.SiLU(), network.layers[1], nn.SiLU(), network.layers[2]
    )
    torch.testing.assert_close(network(x), expected(x))


def test_mlp__may_start_at_zero() -> None:
    assert not MLP(3, 5, 2, starts_at_zero=True)(torch.randn(4, 3)).any()
    assert MLP(3, 5, 2)(torch.randn(4, 3)).all()
