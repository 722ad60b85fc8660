"""The fusion heads: against slow sums, at a gate of zero, with other texts, in deploy form; and what queries are to be."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.folding import restore_from_deploy, switch_to_deploy
from mmext.models.deim.clip_fusion import MultimodalFusion, alignment_loss
from mmext.models.deim.losses import matchability_aware_loss
from mmext.models.deim.matcher import DEIMMatcher
from mmext.models.deim.outputs import BoxOutputs, ImageTargets
from mmext.models.deim.query_truth import QueryTruth, assign_queries
from mmext.models.deim.softmax_fusion import SoftmaxMultimodalFusion

C, V, T, D = 4, 6, 5, 8
FORMS = pytest.mark.parametrize('form', [MultimodalFusion, SoftmaxMultimodalFusion])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def texts(count: int = C) -> Tensor:
    return functional.normalize(torch.randn(count, T), dim=1)


def build(form: type = MultimodalFusion, **changes: object) -> nn.Module:
    """A head with texts, in eval mode."""
    head = form(C, V, T, embed_dims=D, **changes).eval()
    head.set_texts(texts(), range(C))
    return head


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, V), torch.randn(2, 3, C)


def truth_of(labels: list, covered: list | None = None) -> QueryTruth:
    own = torch.tensor(labels)
    ious = (own < C) * 0.8
    return QueryTruth(own, ious, torch.tensor(covered or labels), torch.tensor(2.0))


def literal_context(head: nn.Module, query: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A query (V,) by the words of the design: visual, texts, similarities and the layer on [visual, context]."""
    part = head.context
    visual = part.visual_projection(query)
    projected = [part.text_projection(text) for text in part.text_embeddings]
    projected = [text / text.norm() for text in projected]
    cosines = torch.stack([text @ visual / visual.norm() for text in projected])
    weights = (cosines * part.log_scale.exp()).exp()
    context = sum(w * text for w, text in zip(weights / weights.sum(), projected, strict=True))
    hidden = part.refinement(torch.cat([visual, context])).relu()
    return visual, torch.stack(projected), cosines, hidden


@torch.no_grad()
def test_fusion__as_described() -> None:
    head, (queries, logits) = build(), inputs()
    head.gate.fill_(0.7)
    fused, similarity = head(queries, logits, return_similarity=True)
    text_logits = head.compare(queries, logits).text_logits
    for place in ((0, 0), (1, 2)):
        visual, projected, cosines, hidden = literal_context(head, queries[place])
        refined = visual + head.head(hidden)
        correction = 10 * projected @ refined / refined.norm()
        torch.testing.assert_close(similarity[place], cosines)
        torch.testing.assert_close(fused[place], logits[place] + 0.7 * correction)
        torch.testing.assert_close(text_logits[place], correction - math.log(99))


@torch.no_grad()
def test_softmax_fusion__as_described_with_scores_of_its_softmax() -> None:
    head, (queries, logits) = build(SoftmaxMultimodalFusion), inputs()
    outputs = head.compare(queries, logits)
    found, similarity = head(queries, logits, return_similarity=True)
    assert found.shape == (2, 3, C + 1) and torch.equal(found, outputs.logits)
    *_, cosines, hidden = literal_context(head, queries[1, 1])
    torch.testing.assert_close(found[1, 1], head.head(hidden))
    torch.testing.assert_close(similarity[1, 1], cosines)
    scores = head.detection_logits(outputs).sigmoid()
    torch.testing.assert_close(scores, found.softmax(dim=-1)[..., :-1])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_new_fusion__gives_the_logits_it_gets(dtype: torch.dtype) -> None:
    head, (queries, logits) = build().train(), inputs()
    logits = 30 * logits.to(dtype)
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype is torch.bfloat16):
        fused = head(queries.to(dtype), logits)
    assert fused.dtype == torch.float32 and torch.equal(fused, logits.float())


@pytest.mark.parametrize('weights', [(0.0, 0.0), (1.0, 0.0), (1.0, 0.5)], ids=str)
def test_new_fusion__what_learns_from_the_first_step(weights: tuple[float, float]) -> None:
    head, (queries, logits) = (
        build(text_weight=weights[0], align_weight=weights[1]).train(),
        inputs(),
    )
    losses = head.loss(head.compare(queries, logits), truth_of([[0, 4, 2], [4, 4, 4]]))
    assert list(losses) == ['loss_fused', 'loss_text', 'loss_align']
    sum(losses.values()).backward()
    learning = {name for name, p in head.named_parameters() if p.grad.any()}
    assert learning == ({'gate'} if not any(weights) else set(dict(head.named_parameters())))


def test_fusion_losses__by_a_slow_sum() -> None:
    head, (queries, logits) = build(), inputs()
    nn.init.constant_(head.gate, 0.5)
    outputs = head.compare(queries, logits)
    labels, covered = [[0, 4, 2], [4, 4, 1]], [[0, 0, 2], [4, 3, 1]]
    losses = head.loss(outputs, truth_of(labels, covered))
    for name, values in (('loss_fused', outputs.logits), ('loss_text', outputs.text_logits)):
        total = matchability_aware_loss(
            values, torch.tensor(labels), torch.full((2, 3), 0.8), gamma=1.5
        ).sum()
        torch.testing.assert_close(losses[name], total / 2)
    cosines = outputs.similarity.flatten(0, 1)
    places = [(0, 0), (1, 0), (2, 2), (4, 3), (5, 1)]
    mean = -sum((10 * cosines[q]).log_softmax(0)[label] for q, label in places) / len(places)
    torch.testing.assert_close(losses['loss_align'], 0.5 * mean)


def test_softmax_loss__background_weighs_less() -> None:
    head, (queries, logits) = build(SoftmaxMultimodalFusion, background_weight=0.25), inputs()
    outputs = head.compare(queries, logits)
    losses = head.loss(outputs, truth_of([[0, 4, 2], [4, 4, 4]]))
    values = -outputs.logits.log_softmax(-1)
    expected = (values[0, 0, 0] + values[0, 2, 2]) + 0.25 * (
        values[0, 1, 4] + values[1, :, 4].sum()
    )
    torch.testing.assert_close(losses, {'loss_fused': expected / (2 + 4 * 0.25)})


def test_alignment__without_objects_is_zero_with_a_gradient() -> None:
    logits = torch.randn(2, 3, C, requires_grad=True)
    loss = alignment_loss(logits, truth_of([[4, 4, 4], [4, 4, 4]]))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


@torch.no_grad()
def test_set_texts__new_classes_have_the_text_logit_and_known_ones_their_own() -> None:
    head, (queries, logits) = build(), inputs()
    head.gate.fill_(0.3)
    before = head.compare(queries, logits)
    known, others = head.context.text_embeddings, texts(2)
    head.set_texts(torch.cat([known[2:3], others, known[:1]]), [2, -1, -1, 0])
    after = head.compare(queries, logits)
    assert after.logits.shape == after.similarity.shape == (2, 3, 4)
    assert torch.equal(after.logits[..., 1:3], after.text_logits[..., 1:3])
    # The detector's logit stays the residual; the context is another one, as it is made of all texts.
    corrections = after.text_logits - head.bias
    for column, own in ((0, 2), (3, 0)):
        expected = logits[..., own] + 0.3 * corrections[..., column]
        torch.testing.assert_close(after.logits[..., column], expected)
        torch.testing.assert_close(
            after.similarity[..., column], before.similarity[..., own], atol=1e-6, rtol=0
        )
    head.set_texts(known, range(C))
    assert torch.equal(head(queries, logits), before.logits)


@FORMS
@torch.no_grad()
def test_deploy__texts_are_constants_that_follow_new_ones(form: type) -> None:
    head, (queries, logits) = build(form), inputs()
    expected, names = head(queries, logits), list(head.state_dict())
    switch_to_deploy(head)
    projections = []
    head.context.text_projection.register_forward_hook(lambda *_: projections.append(1))
    assert torch.equal(head(queries, logits), expected)
    assert not projections and list(head.state_dict()) == names
    with pytest.raises(ValueError, match='deploy form'):
        head.train()
    head.eval()
    others = texts()
    head.set_texts(others, range(C))
    found = head(queries, logits)
    restore_from_deploy(head)
    head.set_texts(others, range(C))
    assert torch.equal(found, head(queries, logits)) and found.isfinite().all()
    state = build(form).state_dict()
    switch_to_deploy(head)
    head.load_state_dict(state)
    assert torch.equal(head.context(queries).texts, build_from(state, form).context(queries).texts)


def build_from(state: dict[str, Tensor], form: type) -> nn.Module:
    head = build(form)
    head.load_state_dict(state)
    return head


def test_load__says_that_other_texts_are_replaced(capsys: pytest.CaptureFixture) -> None:
    head, other, empty = build(), build(), MultimodalFusion(C, V, T, embed_dims=D)
    empty.load_state_dict(head.state_dict())
    head.load_state_dict(head.state_dict())
    assert 'texts of the checkpoint' not in capsys.readouterr().out
    head.load_state_dict(other.state_dict())
    assert 'texts of the checkpoint replace others' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('form', 'changes', 'message'),
    [
        (MultimodalFusion, dict(embed_dims=0), 'sizes of at least 1'),
        (MultimodalFusion, dict(dropout=1.0), r'dropout in \[0, 1\)'),
        (MultimodalFusion, dict(scale=500.0), r'scale in \[1, 100\]'),
        (MultimodalFusion, dict(align_weight=-1.0), 'align_weight=-1.0'),
        (SoftmaxMultimodalFusion, dict(background_weight=0.0), 'background_weight=0.0'),
    ],
    ids=str,
)
def test_heads__refuse_wrong_numbers(form: type, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        form(C, V, T, **changes)


@pytest.mark.parametrize(
    ('embeddings', 'message'),
    [
        (torch.ones(C, T + 1), rf'got text embeddings \(4, 6\), expected \(classes, {T}\)'),
        (torch.ones(0, T), r'got text embeddings \(0, 5\)'),
        (torch.full((C, T), torch.nan), 'not finite'),
    ],
    ids=['channels', 'none', 'nan'],
)
@FORMS
def test_set_texts__refuses_what_is_no_text(form: type, embeddings: Tensor, message: str) -> None:
    head = build(form)
    with pytest.raises(ValueError, match=message):
        head.set_texts(embeddings, range(C))


def test_set_texts__in_a_test_does_not_hinder_training() -> None:
    head = MultimodalFusion(C, V, T, embed_dims=D)
    with torch.inference_mode():
        head.set_texts(texts(), range(C))
    head.compare(*inputs()).logits.sum().backward()
    assert head.gate.grad is not None and head.gate.grad.abs() > 0


def test_softmax_set_texts__of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match='texts of other classes than the 4 of training'):
        build(SoftmaxMultimodalFusion).set_texts(texts(3), [0, 1, 2])


def box(x: float, size: float = 0.2) -> list[float]:
    return [x, 0.5, size, size]


def test_assign_queries__matched_covered_and_background() -> None:
    boxes = torch.tensor(
        [
            [
                box(0.2),
                box(0.21),
                box(0.6),
                box(0.9),
            ],  # two on one object, one off by half, one alone
            [box(0.2), box(0.4), box(0.6), box(0.8)],
        ]
    )
    logits = torch.full((2, 4, C), -4.0)
    logits[0, 1, 3] = 4.0
    targets = [
        ImageTargets(torch.tensor([3, 1]), torch.tensor([box(0.2), box(0.55)])),
        ImageTargets(torch.empty(0, dtype=torch.long), torch.empty(0, 4)),
    ]
    matcher = DEIMMatcher(change_epoch=9)
    truth = assign_queries(matcher, BoxOutputs(logits, boxes), targets, epoch=0)
    assert truth.labels.tolist() == [[C, 3, 1, C], [C] * 4]
    assert truth.covered.tolist() == [[3, 3, 1, C], [C] * 4]
    expected = torch.zeros(2, 4)
    expected[0, 1], expected[0, 2] = 0.19 / 0.21, 0.15 / 0.25
    torch.testing.assert_close(truth.ious, expected, atol=1e-5, rtol=0)
    assert truth.num_objects == 2
    nothing = assign_queries(matcher, BoxOutputs(logits[1:], boxes[1:]), targets[1:], epoch=0)
    assert nothing.num_objects == 1 and (nothing.covered == C).all()


def test_scale__comes_back_from_its_limit() -> None:
    head = build().train()
    with torch.no_grad():
        head.context.log_scale.fill_(7.0)
    queries, logits = inputs()
    outputs = head.compare(queries, logits)
    assert head.context.scale.item() == pytest.approx(100, rel=1e-6)
    outputs.text_logits.square().sum().backward()
    assert head.context.log_scale.grad.item() != 0
