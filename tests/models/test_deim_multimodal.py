"""DEIM with texts: the detector it was, what is frozen, where its texts come from, other classes."""

import copy
from pathlib import Path

import pytest
import torch
from mmdet.models.layers import ExpMomentumEMA
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from mmext.engine.checkpoint import compare_keys
from mmext.engine.preflight import head_classes
from mmext.models.common.text_embeddings import TextEmbeddings, save_text_embeddings
from mmext.models.deim.detector import DEIM
from mmext.models.deim.multimodal import PARTS, DEIMMultimodal
from mmext.registry import MODELS
from tests.contract_kinds import Instances
from tests.systems import TEXT_CLASSES, TEXT_EMBEDDINGS, deim_atto, deim_text

SIZE = (64, 96)
TEXT = dict(classes=TEXT_CLASSES, embeddings=None)


@pytest.fixture(scope='module')
def trained() -> DEIM:
    """A detector whose queries and boxes differ; not to be changed."""
    torch.manual_seed(0)
    model = MODELS.build(deim_atto() | dict(test_cfg=dict(max_per_img=50)))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.1)
    return model.eval()


def build(trained: DEIM, **changes: object) -> DEIMMultimodal:
    """The detector with texts, as after `load_from`."""
    torch.manual_seed(1)
    model = MODELS.build(deim_text() | dict(test_cfg=dict(max_per_img=50)) | changes)
    missing, unexpected = model.load_state_dict(trained.state_dict(), strict=False)
    assert not unexpected and all(name.startswith('fusion.') for name in missing)
    return model


def images() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def samples() -> list[DetDataSample]:
    return [Instances().sample(*SIZE, count) for count in (2, 0)]


def step(model: DEIMMultimodal) -> dict[str, Tensor]:
    """A training step with a rate that changes everything that is trained."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = model.train().loss(images(), samples())
    sum(losses.values()).backward()
    optimizer.step()
    return losses


@torch.no_grad()
def test_new_fusion__outputs_and_predictions_are_the_detectors(trained: DEIM) -> None:
    model = build(trained).eval()
    plain, fused = trained(images(), mode='tensor'), model(images(), mode='tensor')
    assert all(torch.equal(one, other) for one, other in zip(plain, fused, strict=True))
    found = [own.predict(images(), samples()) for own in (trained, model)]
    for one, other in zip(*found, strict=True):
        assert len(one.pred_instances) == 50
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(one.pred_instances[key], other.pred_instances[key])


def test_checkpoint_of_the_detector__all_but_the_fusion_is_loaded(trained: DEIM) -> None:
    report = compare_keys(MODELS.build(deim_text()), trained.state_dict())
    assert len(report.loaded) == len(trained.state_dict())
    assert not report.unexpected and not report.mismatched
    assert {name.partition('.')[0] for name in report.missing} == {'fusion'}


def test_frozen__detector_stays_as_it_is_and_the_fusion_learns(trained: DEIM) -> None:
    model = build(trained, frozen=PARTS)
    averaged = ExpMomentumEMA(model, momentum=4e-3, gamma=200, update_buffers=True)
    for _ in range(3):
        losses = step(model)
        averaged.update_parameters(model)
    assert set(losses) == {'loss_fused', 'loss_text', 'loss_align'}
    assert model.training and model.fusion.training
    assert not any(part.training for name in PARTS for part in getattr(model, name).modules())
    for state in (model.state_dict(), averaged.module.state_dict()):
        for name, value in trained.state_dict().items():
            assert torch.equal(state[name], value), name
    fresh = build(trained).fusion
    for name, parameter in model.fusion.named_parameters():
        assert not torch.equal(parameter, fresh.get_parameter(name)), name


@pytest.mark.parametrize('frozen', [(), PARTS[:1], PARTS[:2]], ids=str)
def test_frozen__parts_behind_them_learn(trained: DEIM, frozen: tuple[str, ...]) -> None:
    model = build(trained, frozen=frozen)
    losses = step(model)
    assert {'loss_fused', 'loss_align', 'loss_mal', 'loss_mal_aux_0', 'loss_bbox_dn_0'} <= set(
        losses
    )
    before, after = trained.state_dict(), model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.partition('.')[0] for name in changed} == set(PARTS) - set(frozen)
    # The statistics of batch norms, too.
    assert any('running_mean' in name for name in changed) == ('neck' not in frozen)


def test_fused_loss__reaches_a_detector_that_is_trained(trained: DEIM) -> None:
    model = build(trained).train()
    model.loss(images(), samples())['loss_fused'].backward()
    assert all(model.decoder.dec_score_head[-1].weight.grad.any(dim=1))


def test_frozen__without_a_trained_detector_is_refused() -> None:
    model = MODELS.build(deim_text() | dict(frozen=PARTS)).train()
    with pytest.raises(ValueError, match='Set load_from to the checkpoint'):
        model.loss(images(), samples())


def test_softmax_form__trains_and_predicts_with_its_own_scores(trained: DEIM) -> None:
    fusion = deim_text()['fusion'] | dict(type='mmext.SoftmaxMultimodalFusion')
    model = build(trained, frozen=PARTS, fusion=fusion)
    assert list(step(model)) == ['loss_fused']
    with torch.no_grad():
        boxes, compared = model.eval().compare_queries(images())
        (found, _) = model.predict(images(), samples())
        plain = trained(images(), mode='tensor')
    best = compared.logits[0].softmax(-1)[:, :-1].flatten().topk(50).values
    torch.testing.assert_close(found.pred_instances.scores, best)
    torch.testing.assert_close(boxes.boxes, plain.boxes)


def rows() -> Tensor:
    return torch.nn.functional.normalize(torch.eye(8)[:5] + 0.1, dim=1)


def write(path: Path, names: tuple[str, ...]) -> Path:
    source = ('random', 'none', 'none', 'en')
    save_text_embeddings(path, TextEmbeddings(names, rows()[: len(names)], *source))
    return path


def test_texts__of_the_file_or_permuted_or_of_the_checkpoint(trained: DEIM) -> None:
    model = build(trained).eval()
    model(images(), mode='tensor')
    own = model.fusion.context.text_embeddings
    assert own.norm(dim=1).sum() == pytest.approx(3)
    text = dict(classes=TEXT_CLASSES, embeddings=str(TEXT_EMBEDDINGS))
    shuffled = build(trained, text=text | dict(permutation=[2, 0, 1])).train()
    shuffled.loss(images(), samples())
    assert torch.equal(shuffled.fusion.context.text_embeddings, own[[2, 0, 1]])
    # Once trained, neither file nor text model are needed.
    deployed = build(trained, text=text | dict(embeddings=None))
    with pytest.raises(ValueError, match='got no texts'):
        deployed.eval()(images(), mode='tensor')
    deployed.load_state_dict(shuffled.state_dict())
    similarity = deployed.compare_queries(images())[1].similarity
    assert torch.equal(similarity, shuffled.eval().compare_queries(images())[1].similarity)
    assert not torch.allclose(similarity, similarity[..., [2, 0, 1]])


def test_texts__file_that_is_missing_stops_the_first_step(trained: DEIM) -> None:
    model = build(trained, text=TEXT | dict(embeddings='nowhere.safetensors')).train()
    with pytest.raises(FileNotFoundError, match=r'nowhere.safetensors.*embed_text'):
        model.loss(images(), samples())


def test_texts__in_training_the_file_counts_and_without_it_the_checkpoint(
    trained: DEIM, tmp_path: Path
) -> None:
    other = write(tmp_path / 'other.safetensors', TEXT_CLASSES)
    fused = build(trained).train()
    fused.loss(images(), samples())
    for path, expected in ((other, rows()[:3]), ('gone', fused.fusion.context.text_embeddings)):
        model = build(trained, text=TEXT | dict(embeddings=str(path)))
        if path != other:
            model.load_state_dict(fused.state_dict())
        model.train().loss(images(), samples())
        torch.testing.assert_close(model.fusion.context.text_embeddings, expected)


@pytest.mark.parametrize('part', PARTS)
def test_frozen__part_that_no_checkpoint_fills_whole_is_refused(trained: DEIM, part: str) -> None:
    frozen = PARTS[: PARTS.index(part) + 1]
    model = MODELS.build(deim_text() | dict(frozen=frozen)).train()
    state = trained.state_dict()
    # As where the checkpoint has other classes, whose heads are left out.
    del state[next(name for name in state if name.startswith(f'{part}.'))]
    model.load_state_dict(state, strict=False)
    with pytest.raises(ValueError, match=f'no checkpoint that fills {part} whole'):
        model.loss(images(), samples())


@torch.no_grad()
def test_read_texts__other_classes_without_training(trained: DEIM, tmp_path: Path) -> None:
    model = build(trained).eval()
    model.fusion.gate.fill_(0.5)
    names = ('stain', 'hole', 'crack', 'burr', 'chip')
    model.switch_to_deploy()
    model.read_texts(write(tmp_path / 'five.safetensors', names), names)
    outputs, compared = model.compare_queries(images())
    assert outputs.logits.shape == compared.similarity.shape == (2, *compared.logits.shape[1:])
    assert outputs.logits.shape[-1] == len(model.vocabulary) == 5
    assert model.fusion.own_classes == [2, -1, 0, -1, -1]
    assert model.vocabulary == names and not head_classes(model)
    found = model.predict(images(), samples())
    assert {label for own in found for label in own.pred_instances.labels.tolist()} <= set(range(5))
    # With the classes of the training it is what it was.
    model.read_texts(TEXT_EMBEDDINGS, TEXT_CLASSES)
    fresh = build(trained).eval()
    fresh.fusion.gate.fill_(0.5)
    torch.testing.assert_close(
        model(images(), mode='tensor').logits, fresh(images(), mode='tensor').logits
    )


def test_read_texts__only_by_the_text_model_of_the_training(trained: DEIM, tmp_path: Path) -> None:
    names = TEXT_CLASSES
    model = build(
        trained, text=TEXT | dict(embeddings=str(write(tmp_path / 'a.safetensors', names)))
    )
    model.train().loss(images(), samples())
    source = ('random', 'of another model', 'none', 'en')
    save_text_embeddings(tmp_path / 'b.safetensors', TextEmbeddings(names, rows()[:3], *source))
    tested = build(trained, text=TEXT).eval()
    tested.load_state_dict(model.state_dict())
    tested.read_texts(tmp_path / 'a.safetensors', names)
    with pytest.raises(
        ValueError,
        match=r'b.safetensors \(by random\), expected texts by the text model of the training',
    ):
        tested.read_texts(tmp_path / 'b.safetensors', names)


def test_read_texts__of_other_classes_are_gone_with_the_next_checkpoint(
    trained: DEIM, tmp_path: Path
) -> None:
    model = build(
        trained, text=TEXT | dict(embeddings=str(write(tmp_path / 'a.safetensors', TEXT_CLASSES)))
    )
    model.train().loss(images(), samples())
    state = model.state_dict()
    others = ('stain', 'burr', 'chip')
    model.read_texts(write(tmp_path / 'c.safetensors', others), others)
    with pytest.raises(ValueError, match='after texts of stain, burr, chip, expected those of'):
        model.loss(images(), samples())
    model.load_state_dict(state)
    assert model.vocabulary == TEXT_CLASSES and model.fusion.own_classes is None
    model.loss(images(), samples())


def test_read_texts__would_undo_a_shuffled_control(trained: DEIM) -> None:
    text = dict(classes=TEXT_CLASSES, embeddings=str(TEXT_EMBEDDINGS), permutation=[2, 0, 1])
    with pytest.raises(ValueError, match=r'text.permutation=\[2, 0, 1\], whose control'):
        build(trained, text=text).read_texts(TEXT_EMBEDDINGS, TEXT_CLASSES)


def test_read_texts__sentences_are_no_embeddings(trained: DEIM) -> None:
    with pytest.raises(ValueError, match='embed_text.py five.json MODEL_FOLDER'):
        build(trained).read_texts('five.json', TEXT_CLASSES)


def test_copies__of_a_model_know_that_it_was_loaded(trained: DEIM) -> None:
    model = copy.deepcopy(build(trained, frozen=PARTS)).train()
    assert model.loss(images(), samples())['loss_fused'].isfinite()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(frozen=('neck',)), r"got frozen=\('neck',\), expected the first parts"),
        (dict(frozen=('decoder', 'neck')), 'expected the first parts'),
        (dict(text=dict(classes=TEXT_CLASSES)), 'expected classes, embeddings'),
        (dict(text=TEXT | dict(order=1)), r"got text with \['classes', 'embeddings', 'order'\]"),
        (dict(text=TEXT | dict(classes=('a', 'b'))), 'got 2 names in text.classes'),
        (dict(text=TEXT | dict(permutation=[0, 0, 1])), 'each of 0 to 2 once'),
        (dict(fusion=deim_text()['fusion'] | dict(num_classes=5)), 'fusion.num_classes=5'),
        (dict(fusion=deim_text()['fusion'] | dict(visual_dim=32)), 'decoder.embed_dims=64'),
    ],
    ids=['neck', 'order', 'no file', 'unknown', 'names', 'permutation', 'classes', 'channels'],
)
def test_settings__that_do_not_fit_are_named(changes: dict, message: str) -> None:
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        MODELS.build(deim_text() | changes)


def test_train__keeps_frozen_parts_whatever_is_called(trained: DEIM) -> None:
    model = build(trained, frozen=PARTS[:1])
    for _ in range(2):
        model.train()
        assert not model.backbone.training and model.neck.training
        assert not any(
            isinstance(p, nn.BatchNorm2d) and p.training for p in model.backbone.modules()
        )
        model.eval()
        assert not model.training
