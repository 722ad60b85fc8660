"""The query decoder: its outputs, what its layers look at, learned and seeded queries."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.masked_attention import find_outside, find_outside_boxes
from mmext.models.common.position import BoxPositionEncoding
from mmext.models.common.query_decoder import QueryMaskDecoder, SeededQueries
from mmext.models.common.query_outputs import QueryOutputs, QuerySeeds, predict_masks

CHANNELS = (8, 16, 32)
CLASSES = 3


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(num_queries: int = 5, num_layers: int = 4, num_box_layers: int = 0) -> QueryMaskDecoder:
    return QueryMaskDecoder(
        CLASSES,
        CHANNELS,
        embed_dims=24,
        num_heads=4,
        num_queries=num_queries,
        num_layers=num_layers,
        feedforward_channels=32,
        num_box_layers=num_box_layers,
    )


def random_features(batch: int = 2, size: tuple[int, int] = (8, 12)) -> list[Tensor]:
    """Features of three levels; odd sizes halve upwards."""
    height, width = size
    features = []
    for channels in CHANNELS:
        features.append(torch.randn(batch, channels, height, width))
        height, width = (height + 1) // 2, (width + 1) // 2
    return features


def random_seeds(num: int = 5, batch: int = 2) -> QuerySeeds:
    places = 8 * 12 + 4 * 6 + 2 * 3
    return QuerySeeds(
        torch.randint(places, (batch, num)),
        torch.rand(batch, num, 4),
        torch.ones(batch, num, dtype=torch.bool),
    )


def total(outputs: QueryOutputs) -> Tensor:
    masks = [predict_masks(own, outputs.mask_features) for own in outputs.mask_embeddings]
    return sum(part.square().mean() for part in (*outputs.class_logits, *masks))


def assert_same(ours: QueryOutputs, others: QueryOutputs) -> None:
    for mine, other in zip(ours, others, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('size', [(8, 12), (7, 5), (1, 1)], ids=['even', 'odd', 'pixel'])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_decoder__shapes(size: tuple[int, int], training: bool) -> None:
    outputs = build().train(training)(random_features(size=size))
    num_outputs = 5 if training else 1
    assert [own.shape for own in outputs.class_logits] == [(2, 5, CLASSES + 1)] * num_outputs
    assert [own.shape for own in outputs.mask_embeddings] == [(2, 5, 24)] * num_outputs
    assert outputs.query_embeddings.shape == (2, 5, 24)
    assert outputs.mask_features.shape == (2, 24, 2 * size[0], 2 * size[1])


def test_decoder__eval_gives_the_last_output_of_training() -> None:
    decoder = build()
    features = random_features()
    training, evaluated = decoder(features), decoder.eval()(features)
    last = QueryOutputs(training.class_logits[-1:], training.mask_embeddings[-1:], *training[2:])
    assert_same(evaluated, last)


def test_decoder__last_output_comes_from_the_query_embeddings() -> None:
    decoder = build()
    outputs = decoder(random_features())
    torch.testing.assert_close(
        outputs.class_logits[-1], decoder.class_head(outputs.query_embeddings)
    )


def test_decoder__layers_see_the_levels_in_turn_coarsest_first() -> None:
    decoder = build()
    num_keys: list[int] = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda _, args: num_keys.append(args[1].shape[1]))
    decoder(random_features())
    assert num_keys == [2 * 3, 4 * 6, 8 * 12, 2 * 3]


@pytest.mark.parametrize('num_queries', [5, 0], ids=['learned', 'seeded'])
def test_decoder__every_parameter_gets_a_gradient(num_queries: int) -> None:
    decoder = build(num_queries)
    features = random_features()
    total(decoder(features, None if num_queries else random_seeds())).backward()
    lacking = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert lacking == []


@pytest.mark.parametrize('num_queries', [5, 0], ids=['learned', 'seeded'])
def test_decoder__batch_equals_single_images(num_queries: int) -> None:
    decoder = build(num_queries).eval()
    features = random_features()
    seeds = None if num_queries else random_seeds()
    both = decoder(features, seeds)
    for image in range(2):
        rows = slice(image, image + 1)
        single = decoder(
            [level[rows] for level in features],
            seeds and QuerySeeds(*(part[rows] for part in seeds)),
        )
        expected = QueryOutputs(
            [own[rows] for own in both.class_logits],
            [own[rows] for own in both.mask_embeddings],
            both.query_embeddings[rows],
            both.mask_features[rows],
        )
        assert_same(single, expected)


def test_decoder__seeds_that_fill_up_change_nothing() -> None:
    decoder = build(0).eval()
    features, seeds = random_features(), random_seeds(num=5)
    padded = QuerySeeds(*(torch.cat([part, part[:, :2].flip(0)], dim=1) for part in seeds))
    padded.valid[:, 5:] = False
    expected, outputs = decoder(features, seeds), decoder(features, padded)
    torch.testing.assert_close(outputs.query_embeddings[:, :5], expected.query_embeddings)
    torch.testing.assert_close(outputs.class_logits[-1][:, :5], expected.class_logits[-1])


@pytest.mark.parametrize('num', [0, 3], ids=['no-seed', 'no-valid-seed'])
def test_decoder__images_without_detections(num: int) -> None:
    seeds = random_seeds(num)
    seeds.valid.fill_(False)
    outputs = build(0).eval()(random_features(), seeds)
    assert outputs.class_logits[-1].shape == (2, num, CLASSES + 1)
    assert outputs.class_logits[-1].isfinite().all()


def test_seeded_queries__start_from_the_place_of_the_prior() -> None:
    levels = [torch.randn(2, 24, 4, 3), torch.randn(2, 24, 2, 2)]
    priors = torch.tensor([[0, 7, 12], [11, 15, 14]])
    start = SeededQueries(24)(levels, QuerySeeds(priors, torch.rand(2, 3, 4), priors >= 7))
    expected = [
        [levels[0][0, :, 0, 0], levels[0][0, :, 2, 1], levels[1][0, :, 0, 0]],
        [levels[0][1, :, 3, 2], levels[1][1, :, 1, 1], levels[1][1, :, 1, 0]],
    ]
    assert torch.equal(start.content, torch.stack([torch.stack(row) for row in expected]))
    assert start.ignored.tolist() == [[True, False, False], [False] * 3]


@pytest.mark.parametrize('coordinate', range(4), ids=['cx', 'cy', 'w', 'h'])
def test_box_position__depends_on_every_coordinate(coordinate: int) -> None:
    encoding = BoxPositionEncoding(16)
    boxes = torch.full((1, 2, 4), 0.4)
    boxes[0, 1, coordinate] += 0.1
    first, second = encoding(boxes)[0]
    assert (first - second).abs().max() > 1e-3


def test_find_outside__equals_resized_masks() -> None:
    embeddings = torch.randn(2, 50, 24, dtype=torch.float64)
    features = torch.randn(2, 24, 40, 24, dtype=torch.float64)
    for size in [(20, 12), (10, 6), (5, 3)]:
        resized = functional.interpolate(features, size, mode='bilinear').flatten(2)
        masks = functional.interpolate(predict_masks(embeddings, features), size, mode='bilinear')
        expected = (masks.sigmoid() < 0.5).flatten(2)[:, None]
        assert torch.equal(find_outside(embeddings, resized), expected)


def test_decoder__layers_look_inside_the_masks_before_them() -> None:
    decoder = build()
    blocked: list[Tensor] = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: blocked.append(kwargs['blocked']), with_kwargs=True
        )
    outputs = decoder(random_features())
    for embeddings, own, size in zip(
        outputs.mask_embeddings, blocked, [(2, 3), (4, 6), (8, 12), (2, 3)], strict=False
    ):
        masks = functional.interpolate(
            predict_masks(embeddings, outputs.mask_features), size, mode='bilinear'
        ).flatten(2)
        clear = masks.abs() > 1e-5
        assert torch.equal(own[:, 0][clear], (masks < 0)[clear])
        assert 0 < own.float().mean() < 1


def test_mask_features__have_detail_below_the_finest_level() -> None:
    decoder = build().eval()
    levels = [torch.randn(1, 24, size, size) for size in (8, 4, 2)]
    features = decoder.mask_feature_proj(levels)
    # What an interpolation by 2 could have made, its own block means could remake.
    means = functional.avg_pool2d(features, 2)
    remade = functional.interpolate(means, scale_factor=2, mode='bilinear')
    assert (features - remade).std() > 0.1 * features.std()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('num_queries', [5, 0], ids=['learned', 'seeded'])
def test_decoder__half_precision_is_finite(dtype: torch.dtype, num_queries: int) -> None:
    decoder = build(num_queries).to(dtype)
    seeds = None if num_queries else random_seeds()
    outputs = decoder([level.to(dtype) for level in random_features()], seeds)
    assert outputs.mask_features.dtype == dtype
    assert all(own.isfinite().all() for own in outputs.class_logits + outputs.mask_embeddings)


def test_decoder__autocast_is_finite_and_close() -> None:
    decoder = build(num_layers=2)
    features = random_features()
    expected = decoder(features)
    with torch.autocast('cpu', torch.bfloat16):
        outputs = decoder(features)
    total(outputs).backward()
    assert all(p.grad.isfinite().all() for p in decoder.parameters())
    # The first output lies before any mask that rounding could flip.
    torch.testing.assert_close(
        outputs.class_logits[0].float(), expected.class_logits[0], atol=0.05, rtol=0.05
    )


def test_predict_masks__equals_loop() -> None:
    embeddings, features = torch.randn(2, 3, 8), torch.randn(2, 8, 5, 4)
    masks = predict_masks(embeddings, features)
    for image, query in torch.cartesian_prod(torch.arange(2), torch.arange(3)):
        expected = (embeddings[image, query][:, None, None] * features[image]).sum(0)
        torch.testing.assert_close(masks[image, query], expected)


def test_decoder__norms_fit_any_width() -> None:
    groups = [m.num_groups for m in build().modules() if isinstance(m, nn.GroupNorm)]
    assert groups == [8] * 5


def test_decoder__errors() -> None:
    with pytest.raises(ValueError, match='got seeds, expected none'):
        build(5)(random_features(), random_seeds())
    with pytest.raises(ValueError, match='got no seeds'):
        build(0)(random_features())
    with pytest.raises(ValueError, match='expected a multiple of 4'):
        QueryMaskDecoder(CLASSES, CHANNELS, embed_dims=30, num_heads=2)


@pytest.mark.parametrize('size', [(8, 12), (3, 5), (1, 1)], ids=str)
def test_find_outside_boxes__cells_that_the_longer_box_does_not_cover(
    size: tuple[int, int],
) -> None:
    height, width = size
    # Large, small in a corner, without area, over the edge.
    boxes = torch.tensor([[0.5, 0.4, 0.37, 0.29], [0.01, 0.99, 0.01, 0.01], [0.57] * 2 + [0] * 2])
    boxes = torch.cat([boxes, torch.tensor([[1.0, 0.3, 0.2, 1.0]])])[None]
    found = find_outside_boxes(boxes, size)
    assert found.shape == (1, 1, 4, height * width)
    for own, (cx, cy, w, h) in zip(found[0, 0].tolist(), boxes[0].tolist(), strict=True):
        x1, x2, y1, y2 = cx - 0.75 * w, cx + 0.75 * w, cy - 0.75 * h, cy + 0.75 * h
        expected = [
            (column + 1) / width < x1
            or column / width > x2
            or (row + 1) / height < y1
            or row / height > y2
            for row in range(height)
            for column in range(width)
        ]
        assert own == expected and not all(own)


def test_seeded__box_layers_look_inside_the_box_alone() -> None:
    decoder = build(num_queries=0, num_layers=1, num_box_layers=1).eval()
    seeds = random_seeds(num=1)._replace(boxes=torch.tensor([[[0.9, 0.9, 0.1, 0.1]]] * 2))
    # The layer sees the coarsest level of two by three cells: of those the box covers the last one.
    seen = []
    decoder.layers[0].register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs['blocked']), with_kwargs=True
    )
    outputs = decoder(random_features(), seeds)
    assert seen[0][:, 0, 0].tolist() == [[True] * 5 + [False]] * 2
    assert outputs.class_logits[-1].isfinite().all()


def test_box_layers__later_layers_look_inside_the_masks() -> None:
    decoder = build(num_queries=0, num_layers=2, num_box_layers=1)
    features, seeds = random_features(), random_seeds()
    outputs = decoder(features, seeds)
    seen = []
    decoder.layers[1].register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs['blocked']), with_kwargs=True
    )
    decoder(features, seeds)
    resized = functional.interpolate(outputs.mask_features, features[1].shape[2:], mode='bilinear')
    masks = predict_masks(outputs.mask_embeddings[1], resized).flatten(2)
    assert torch.equal(seen[0][:, 0], masks < 0)


def test_box_layers__learned_queries_have_no_boxes() -> None:
    with pytest.raises(ValueError, match='got num_box_layers=1 and num_queries=5'):
        build(num_box_layers=1)
