"""The DEIM transformer: against a second implementation, selection of queries, denoising, weights, robustness."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from mmext.models.deim.decoder import DEIMTransformer
from mmext.models.deim.outputs import BoxOutputs, DecoderOutputs, ImageTargets, LayerOutputs
from mmext.models.deim.query_selection import get_anchors, make_anchors, select_places
from mmext.registry import MODELS
from tests.models.deim_slow_transformer import Weights, run_image

CLASSES, DIMS = 3, 16
SIZES = ((8, 10), (4, 5), (2, 3))
CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(
    num_classes: int = CLASSES,
    *,
    in_channels: Sequence[int] = (DIMS, DIMS, DIMS),
    num_queries: int = 12,
    gated: bool = True,
    shared: bool = False,
    reg_scale: float = 4.0,
    num_denoising: int = 100,
) -> DEIMTransformer:
    """A transformer whose parameters are all random: a new one predicts the same for every query."""
    transformer = MODELS.build(
        dict(
            type='mmext.DEIMTransformer',
            num_classes=num_classes,
            in_channels=in_channels,
            embed_dims=DIMS,
            num_queries=num_queries,
            num_layers=3,
            feedforward_channels=24,
            num_points=(3, 2, 1),
            gated=gated,
            shares_bbox_head=shared,
            reg_scale=reg_scale,
            num_denoising=num_denoising,
        )
    )
    for name, parameter in transformer.named_parameters():
        if parameter.requires_grad:
            fan_in = parameter.shape[1] if parameter.dim() > 1 else 4
            nn.init.normal_(parameter, mean=float(name.endswith('scale')), std=fan_in**-0.5)
    return transformer


def random_maps(batch: int = 2, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Tensor]:
    return [torch.randn(batch, DIMS, *size) for size in sizes]


def objects(*counts: int, num_classes: int = CLASSES) -> list[ImageTargets]:
    return [
        ImageTargets(
            torch.randint(num_classes, (n,)),
            torch.cat([0.4 + 0.2 * torch.rand(n, 2), 0.1 + 0.2 * torch.rand(n, 2)], dim=1),
        )
        for n in counts
    ]


def predictions(outputs: DecoderOutputs) -> list[BoxOutputs | LayerOutputs]:
    parts: list[BoxOutputs | LayerOutputs] = [*outputs.layers]
    parts += [part for part in (outputs.encoder, outputs.pre) if part is not None]
    if outputs.denoising is not None:
        parts += [*outputs.denoising.layers, outputs.denoising.pre]
    return parts


def total(outputs: DecoderOutputs) -> Tensor:
    """A number that depends on all outputs."""
    values = [value for part in predictions(outputs) for value in part]
    return sum(value.float().square().mean() for value in values)


def assert_same(first: LayerOutputs, second: LayerOutputs) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('gated', [True, False], ids=['gated', 'summed'])
@pytest.mark.parametrize(('shared', 'scale'), [(True, 4.0), (False, 8.0)], ids=['shared', 'own'])
def test_transformer__equals_a_second_implementation(
    gated: bool, shared: bool, scale: float
) -> None:
    transformer = build(gated=gated, shared=shared, reg_scale=scale)
    maps = random_maps()
    outputs = transformer(maps)
    weights = Weights(transformer.state_dict())
    assert outputs.encoder is not None and outputs.pre is not None
    for image in range(2):
        slow = run_image(weights, [x[image] for x in maps], 12, scale)
        ours = [*outputs.encoder, *outputs.pre]
        theirs = [*slow.encoder, *slow.pre]
        for own, expected in zip(outputs.layers, slow.layers, strict=True):
            ours += own[:3]
            theirs += expected
            ours.append(own.refs)
            theirs.append(slow.pre[1])
        for own_part, expected_part in zip(ours, theirs, strict=True):
            torch.testing.assert_close(own_part[image], expected_part, atol=1e-4, rtol=1e-4)


def test_transformer__training_outputs() -> None:
    outputs = build()(random_maps(), objects(5, 2))
    assert len(outputs.layers) == 3
    assert [part.boxes.shape for part in predictions(outputs)[:5]] == [(2, 12, 4)] * 5
    assert outputs.denoising is not None
    assert outputs.denoising.matches.num_groups == 20
    for part in (*outputs.denoising.layers, outputs.denoising.pre):
        assert part.logits.shape == (2, 200, CLASSES)
    assert outputs.layers[0].corners.shape == (2, 12, 132)
    assert outputs.bin_values.shape == (33,) and outputs.reg_scale == 4.0


def test_transformer__eval_gives_the_last_output_of_training() -> None:
    transformer, maps = build(), random_maps()
    trained = transformer(maps)
    evaluated = transformer.eval()(maps, objects(1, 1))
    assert evaluated.encoder is evaluated.pre is evaluated.denoising is None
    (last,) = evaluated.layers
    assert_same(last, trained.layers[-1])


def test_transformer__denoising_does_not_reach_the_matching_queries() -> None:
    transformer, maps = build(), random_maps()
    with_noise = transformer(maps, objects(7, 3))
    for noisy, plain in zip(with_noise.layers, transformer(maps).layers, strict=True):
        assert_same(noisy, plain)


def test_transformer__denoising_starts_at_the_noisy_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transformer = build()
    for head in (transformer.pre_bbox_head, *transformer.dec_bbox_head):
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
    # Without noise, with boxes that do not move, every denoising query is its object.
    monkeypatch.setattr(torch, 'rand_like', torch.zeros_like)
    targets = objects(4, 2)
    outputs = transformer(random_maps(), targets)
    assert outputs.denoising is not None
    matches = outputs.denoising.matches
    for image, target in enumerate(targets):
        expected = target.boxes[matches.object_indices[image]]
        for part in (*outputs.denoising.layers, outputs.denoising.pre):
            boxes = part.boxes[image, matches.query_indices[image]]
            torch.testing.assert_close(boxes, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('counts', [(0, 0), (1, 0), (400, 3)], ids=['none', 'one', 'many'])
def test_transformer__every_parameter_gets_a_gradient(counts: tuple[int, int]) -> None:
    transformer = build(in_channels=(DIMS, 8, DIMS))
    maps = [torch.randn(2, c, *size) for c, size in zip((DIMS, 8, DIMS), SIZES, strict=True)]
    outputs = transformer(maps, objects(*counts))
    total(outputs).backward()
    for name, parameter in transformer.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any() or (counts == (0, 0) and 'denoising' in name), name


def test_transformer__detached_where_the_description_says() -> None:
    transformer, maps = build(), [x.requires_grad_() for x in random_maps()]
    outputs = transformer(maps, objects(3, 3))
    assert not any(layer.refs.requires_grad for layer in outputs.layers)
    # Corners add up over the layers with their gradient; boxes between layers carry none.
    outputs.layers[-1].corners.sum().backward()
    first_head, query_head = transformer.dec_bbox_head[0], transformer.enc_bbox_head
    assert first_head.layers[-1].bias.grad.any()
    assert query_head.layers[-1].bias.grad is None


def test_transformer__no_denoising() -> None:
    assert build(num_denoising=0)(random_maps(), objects(3, 3)).denoising is None
    assert build()(random_maps()).denoising is None


def test_transformer__denoising_of_nothing_where_no_image_has_objects() -> None:
    transformer, maps = build(), random_maps()
    outputs, without = transformer(maps, objects(0, 0)), transformer(maps)
    assert outputs.denoising is not None
    assert [len(layer.boxes[0]) for layer in outputs.denoising.layers] == [0] * 3
    assert_same(outputs.layers[-1], without.layers[-1])


def test_transformer__one_class() -> None:
    outputs = build(1)(random_maps(), objects(2, 0, num_classes=1))
    assert outputs.layers[-1].logits.shape == (2, 12, 1)


@pytest.mark.parametrize('sizes', [((1, 2), (1, 1), (1, 1)), ((7, 3), (4, 2), (2, 1))], ids=str)
def test_transformer__fewer_places_than_queries(sizes: Sequence[tuple[int, int]]) -> None:
    num_places = sum(height * width for height, width in sizes)
    transformer = build(num_queries=100)
    outputs = transformer(random_maps(sizes=sizes), objects(2, 1))
    assert outputs.layers[-1].boxes.shape == (2, num_places, 4)
    assert total(outputs).isfinite()
    total(outputs).backward()
    assert all(p.grad.isfinite().all() for p in transformer.parameters() if p.requires_grad)


def test_transformer__batch_equals_single_images() -> None:
    transformer, maps = build().eval(), random_maps()
    both = transformer(maps).layers[-1]
    for image in range(2):
        single = transformer([x[image : image + 1] for x in maps]).layers[-1]
        assert_same(LayerOutputs(*(part[image : image + 1] for part in both)), single)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_transformer__autocast_is_finite(dtype: torch.dtype) -> None:
    transformer = build()
    with torch.autocast('cpu', dtype):
        outputs = transformer(random_maps(), objects(4, 0))
    assert all(layer.boxes.dtype == torch.float32 for layer in outputs.layers)
    total(outputs).backward()
    assert all(p.grad.isfinite().all() for p in transformer.parameters() if p.requires_grad)


def test_transformer__half_precision_weights() -> None:
    transformer = build().bfloat16()
    outputs = transformer([x.bfloat16() for x in random_maps()], objects(4, 0))
    assert all(value.isfinite().all() for part in predictions(outputs) for value in part)


def test_transformer__new_one() -> None:
    transformer = DEIMTransformer(
        CLASSES,
        [DIMS] * 3,
        embed_dims=DIMS,
        num_queries=12,
        num_layers=2,
        feedforward_channels=24,
        num_points=(3, 2, 1),
        gated=True,
        shares_bbox_head=False,
        reg_scale=4.0,
    )
    outputs = transformer(random_maps())
    # Boxes are the anchors, scores lie around 0.01.
    anchors = make_anchors(SIZES, CPU).logits.sigmoid()[0]
    for part in predictions(outputs):
        distance = (part.boxes[0, :, None] - anchors).abs().amax(dim=-1).amin(dim=1)
        assert distance.max() < 1e-5
    assert transformer.enc_score_head.bias.sigmoid().tolist() == pytest.approx([0.01] * CLASSES)
    assert transformer.decoder.layers[0].gateway.gate.weight.any() == 0


def test_transformer__shared_head_appears_under_every_index() -> None:
    shared, own = build(shared=True), build(shared=False)
    assert set(shared.state_dict()) == set(own.state_dict())
    assert len({id(head) for head in shared.dec_bbox_head}) == 1
    copied = copy.deepcopy(shared)  # as exponential averages do
    assert len({id(head) for head in copied.dec_bbox_head}) == 1


def test_transformer__loads_integer_scale() -> None:
    transformer = build()
    weights = transformer.state_dict()
    for name in ('reg_scale', 'decoder.reg_scale'):
        weights[name] = torch.tensor([4])
    transformer.load_state_dict(weights)
    assert transformer.reg_scale.dtype == torch.float32


def test_transformer__refuses_weights_of_another_scale() -> None:
    weights = build(reg_scale=8.0).state_dict()
    with pytest.raises(ValueError, match='got weights with reg_scale=8, expected 4'):
        build().load_state_dict(weights)


def test_transformer__errors() -> None:
    with pytest.raises(ValueError, match='expected one number per level'):
        build(in_channels=(DIMS, DIMS))
    with pytest.raises(ValueError, match='expected a multiple of num_heads=8'):
        DEIMTransformer(
            CLASSES,
            [20],
            embed_dims=20,
            num_queries=1,
            num_layers=1,
            feedforward_channels=8,
            num_points=(1,),
            gated=False,
            shares_bbox_head=True,
            reg_scale=4.0,
        )


def test_anchors__of_640_pixels() -> None:
    three = make_anchors(((80, 80), (40, 40), (20, 20)), CPU)
    assert int(three.valid.sum()) == 8084
    assert three.valid[0, :6400, 0].view(80, 80)[1:-1, 1:-1].all()
    assert three.valid[0, 6400:].all()
    assert make_anchors(((40, 40), (20, 20)), CPU).valid.all()


def test_anchors__by_hand() -> None:
    anchors = make_anchors(((2, 4), (1, 2)), CPU)
    boxes = anchors.logits.sigmoid()[0]
    torch.testing.assert_close(boxes[6], torch.tensor([0.625, 0.75, 0.05, 0.05]))
    torch.testing.assert_close(boxes[8], torch.tensor([0.25, 0.5, 0.1, 0.1]))


def test_anchors__border_has_none() -> None:
    anchors = make_anchors(((100, 2),), CPU)
    valid = anchors.valid.view(100, 2).all(dim=1)
    assert valid.tolist() == [False] + [True] * 98 + [False]  # centres at 0.005 and 0.995
    assert (anchors.logits[0, :2] == torch.inf).all()


def test_anchors__are_made_once_per_size() -> None:
    with torch.inference_mode():
        first = get_anchors(((6, 6), (3, 3)), CPU)
    assert get_anchors(((6, 6), (3, 3)), CPU).logits is first.logits
    assert get_anchors(((6, 6), (3, 4)), CPU).logits is not first.logits
    # Made during inference, they must serve training.
    memory = torch.randn(1, 45, 4, requires_grad=True)
    (memory * first.valid).sum().backward()


def test_select_places__best_class_first() -> None:
    logits = torch.tensor([[[0.0, 5.0], [6.0, -9.0], [1.0, 1.0]]])
    assert select_places(logits, 2).tolist() == [[1, 0]]
    assert select_places(logits, 5).tolist() == [[1, 0, 2]]
