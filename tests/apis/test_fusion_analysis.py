"""Queries that are kept and classified again, other texts, and the numbers made of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmext.apis import fusion_analysis as analysis
from mmext.apis.fusion_outputs import (
    DecodedBatch,
    ImageQueries,
    detector_logits,
    image_queries,
    predict_again,
    text_logits,
)
from mmext.apis.fusion_texts import (
    TextChange,
    changed_texts,
    class_indices,
    default_changes,
    look_up_texts,
    other_texts,
    text_similarity,
)
from mmext.evaluation.detection_confusion import ObjectTruth
from mmext.models.common.text_embeddings import TextEmbeddings, save_text_embeddings
from mmext.models.deim.multimodal import DEIMMultimodal
from mmext.registry import MODELS
from mmext.structures.descriptions import read_descriptions
from mmext.structures.prompts import class_prompts, hash_prompts
from tests.systems import TEXT_CLASSES, deim_text

SHIPPED = Path(__file__).resolve().parents[2] / 'configs' / 'deim' / 'descriptions'
SWAP = TextChange('swap', ('crack', 'stain'))


@pytest.fixture(scope='module')
def model() -> DEIMMultimodal:
    """With texts and a gate that lets them through; not to be changed."""
    torch.manual_seed(0)
    model = MODELS.build(deim_text() | dict(test_cfg=dict(max_per_img=20)))
    assert isinstance(model, DEIMMultimodal)
    model._require_texts()
    model.fusion.gate.data.fill_(0.7)
    return model.eval()


@pytest.fixture
def batches() -> list[DecodedBatch]:
    """Two images of 10 queries, of different sizes, the second one padded at its top and shrunk to half."""
    generator = torch.Generator().manual_seed(1)
    meta = [dict(img_id=4, img_path='a.png', ori_shape=(32, 64))]
    meta += [dict(img_id=5, img_path='b.png', ori_shape=(40, 128), scale_factor=(0.5, 0.5))]
    meta[1]['pad_param'] = (12, 0, 0, 0)
    return [
        DecodedBatch(
            torch.randn(1, 10, 64, generator=generator),
            torch.randn(1, 10, 3, generator=generator),
            torch.rand(1, 10, 4, generator=generator),
            (32, 64),
            [DetDataSample(metainfo=own)],
        )
        for own in meta
    ]


def same(one: list[DetDataSample], other: list[DetDataSample]) -> bool:
    pairs = zip(one, other, strict=True)
    keys = ('bboxes', 'scores', 'labels')
    return all(
        torch.equal(a.pred_instances[key], b.pred_instances[key]) for a, b in pairs for key in keys
    )


def test_swap__columns_of_the_texts_change_places(model, batches):
    """Without the detector's logits a class is nothing but its text, so that two of them exchange their columns."""
    held = model.fusion.context.text_embeddings.clone()
    before = predict_again(model, batches, text_logits)
    with other_texts(model, changed_texts(held, TEXT_CLASSES, SWAP)):
        after = predict_again(model, batches, text_logits)
    for own in before:
        own.pred_instances.labels = torch.tensor([2, 1, 0])[own.pred_instances.labels]
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.pred_instances.labels, other.pred_instances.labels)
        assert torch.allclose(one.pred_instances.scores, other.pred_instances.scores, atol=1e-6)


@pytest.mark.parametrize('change', [SWAP, TextChange('drop', ('dent',))], ids=str)
def test_gate_of_zero__texts_change_nothing(model, batches, change):
    held = model.fusion.context.text_embeddings.clone()
    plain = predict_again(model, batches, detector_logits)
    assert not same(plain, predict_again(model, batches))
    model.fusion.gate.data.zero_()
    try:
        with other_texts(model, changed_texts(held, TEXT_CLASSES, change)):
            assert same(plain, predict_again(model, batches))
    finally:
        model.fusion.gate.data.fill_(0.7)


def test_other_texts__the_model_is_as_before_also_after_an_error(model, batches):
    context = model.fusion.context
    held = {name: value.clone() for name, value in model.state_dict().items()}
    before = predict_again(model, batches)
    with pytest.raises(ArithmeticError):
        with other_texts(model, changed_texts(context.text_embeddings, TEXT_CLASSES, SWAP)):
            assert not same(before, predict_again(model, batches))
            raise ArithmeticError
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())
    assert same(before, predict_again(model, batches))
    assert context.text_model.any() and model.fusion.own_classes is None


def test_changed_texts__by_hand():
    rows = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    names = ('a', 'b', 'c')
    swapped = changed_texts(rows, names, TextChange('swap', ('a', 'c')))
    assert torch.equal(swapped, rows[[2, 1, 0]])
    # The direction of (0, 1, 1), which is the mean of the others, and the length of its own.
    dropped = changed_texts(rows, names, TextChange('drop', ('a',)))
    assert torch.allclose(dropped[0], torch.tensor([0.0, 2.0, 2.0]) / 2**0.5)
    assert torch.equal(dropped[1:], rows[1:])
    assert rows[0].tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    ('change', 'classes', 'message'),
    [
        (TextChange('drop', ('dint',)), TEXT_CLASSES, '--drop: got dint, expected .*crack, dent'),
        (TextChange('swap', ('dent', 'x')), TEXT_CLASSES, '--swap: got x, expected'),
        (TextChange('swap', ('dent', 'dent')), TEXT_CLASSES, 'dent twice'),
        (TextChange('drop', ('dent',)), ('dent',), 'the only class'),
    ],
    ids=['unknown', 'one of two unknown', 'with itself', 'single'],
)
def test_class_indices__mistakes(change, classes, message):
    with pytest.raises(ValueError, match=message):
        class_indices(change, classes)


def test_default_changes__every_class_and_the_pairs_most_alike():
    rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    changes = default_changes(rows, ('a', 'b', 'c'))
    # b is nearest to a and to c.
    assert list(map(str, changes)) == ['drop a', 'drop b', 'drop c', 'swap a and b', 'swap b and c']
    assert default_changes(rows[:1], ('a',)) == []
    assert text_similarity(rows)[0, 2].item() == 0


def test_image_queries__in_pixels_of_the_photo(model, batches):
    first, second = image_queries(model, batches)
    assert (second.img_id, second.ori_shape) == (5, (40, 128))
    x, y, width, height = batches[1].boxes[0, 3].tolist()
    left, top = (x - width / 2) * 64 * 2, ((y - height / 2) * 32 - 12) * 2
    assert second.boxes[3, :2] == pytest.approx([left, top], abs=1e-3)
    found = predict_again(model, batches)[0].pred_instances
    assert first.scores.max() == pytest.approx(found.scores[0].item())
    assert found.bboxes[0].tolist() in first.boxes.tolist()
    assert first.similarity.shape == (10, 3) and np.abs(first.similarity).max() <= 1


def image(number: int, similarity: list[list[float]], boxes: list[list[float]]) -> ImageQueries:
    scores = np.ones(len(boxes))
    return ImageQueries(number, '', (20, 20), np.array(boxes), scores, np.array(similarity))


def truth(*labels: int) -> ObjectTruth:
    """Squares of 10 pixels one below the other."""
    boxes = np.array([[0, 20 * i, 10, 20 * i + 10] for i in range(len(labels))], dtype=float)
    return ObjectTruth(
        boxes.reshape(-1, 4), np.array(labels, dtype=np.int64), np.zeros(len(labels), bool)
    )


def test_count_confusions__each_detector_in_its_own_order() -> None:
    labels, samples = {1: 0, 2: 1}, []
    for number, label in labels.items():
        found = InstanceData(
            bboxes=torch.tensor([[0.0, 0, 10, 10]]),
            scores=torch.tensor([0.9]),
            labels=torch.tensor([label]),
        )
        samples.append(DetDataSample(pred_instances=found, metainfo=dict(img_id=number)))
    truths = {number: truth(label) for number, label in labels.items()}
    both = {'without texts': samples, 'vision only': samples[::-1]}
    matrices, _ = analysis.count_confusions(both, truths, 2, 0.5)
    assert all(matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]] for matrix in matrices.values())


def test_look_up_texts__a_permutation_is_applied(tmp_path):
    shipped_file(tmp_path, TEXT_CLASSES)
    model = MODELS.build(
        deim_text() | dict(text=dict(classes=TEXT_CLASSES, embeddings=None, permutation=[1, 2, 0]))
    )
    record = look_up_texts(model, dict(embeddings=None), str(tmp_path / 'b.json'))
    plain = look_up_texts(
        MODELS.build(deim_text()), dict(embeddings=None), str(tmp_path / 'b.json')
    )
    expected = [plain.sentences[TEXT_CLASSES[index]] for index in (1, 2, 0)]
    assert [record.sentences[name] for name in TEXT_CLASSES] == expected


def test_object_similarity__by_hand():
    on, off = [0.0, 0.0, 10.0, 10.0], [90.0, 0.0, 99.0, 9.0]
    images = [
        image(1, [[0.5, 0.25], [1.0, -1.0]], [on, off]),
        image(2, [[0.25, 0.75]], [on]),
        image(3, [[1.0, 1.0]], [off]),
    ]
    means, counts, first = analysis.object_similarity(
        images, {1: truth(0), 2: truth(0), 3: truth(1)}, 2
    )
    np.testing.assert_allclose(means, [[0.375, 0.5], [np.nan, np.nan]])
    assert (counts.tolist(), first.tolist()) == ([2, 0], [1, 0])


@pytest.mark.parametrize(
    ('number', 'expected'),
    [(0, []), (1, [3]), (2, [3, 2]), (3, [3, 2, 4]), (9, [3, 2, 4])],
    ids=str,
)
def test_choose_images__those_with_classes_not_shown_yet(number, expected):
    all_truth = {1: truth(), 2: truth(2), 3: truth(0, 1), 4: truth(0)}
    images = [image(key, [[0.0]], [[0.0] * 4]) for key in all_truth]
    assert [own.img_id for own in analysis.choose_images(images, all_truth, number)] == expected


def test_read_scores__minus_one_is_none():
    results = {
        f'coco/bbox_{p}{key}': 0.5 for key in ('mAP', 'mAP_50', 'mAP_75') for p in ('', 'a_')
    }
    scores = analysis.read_scores(results | {'coco/bbox_a_mAP': -1.0}, ['a'])
    assert scores['a'] == dict(AP=None, AP50=0.5, AP75=0.5)
    change = analysis.difference(
        scores, {name: dict(AP=0.0, AP50=0.25, AP75=0.5) for name in scores}
    )
    assert change['a'] == dict(AP=None, AP50=0.25, AP75=0.0)


def test_describe_fusion__numbers_of_the_head(model):
    facts = analysis.describe_fusion(model)
    assert facts['gate'] == pytest.approx(0.7) and facts['temperature'] == pytest.approx(0.1)
    for key in ('embeddings', 'projected'):
        np.testing.assert_allclose(np.diag(facts[key]), 1, atol=1e-5)
    softmax = dict(deim_text()['fusion'], type='mmext.SoftmaxMultimodalFusion')
    other = MODELS.build(deim_text() | dict(fusion=softmax)).eval()
    facts = analysis.describe_fusion(other)
    assert facts['gate'] is None and facts['bias'] is None


def test_check_model__without_texts():
    with pytest.raises(ValueError, match='got a Linear, which knows no texts'):
        analysis.check_model(nn.Linear(1, 1))


@pytest.mark.parametrize('kind', ['absent', 'zero'])
def test_check_checkpoint_texts__none(model, tmp_path, kind):
    state = model.state_dict()
    name = 'fusion.context.text_embeddings'
    torch.save(dict(state_dict=state), tmp_path / 'good.pth')
    analysis.check_checkpoint_texts(str(tmp_path / 'good.pth'))
    state = {key: value for key, value in state.items() if key != name}
    if kind == 'zero':
        state[name] = torch.zeros(3, 8)
    torch.save(dict(state_dict=state), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='has no texts; .*--vision-only'):
        analysis.check_checkpoint_texts(str(tmp_path / 'bad.pth'))


def shipped_file(folder: Path, names: tuple[str, ...]) -> tuple[str, dict[str, list[str]]]:
    """Embeddings of these names, and beside them the sentences they claim to be of, among other JSON files."""
    entries = [dict(name=name, description=dict(en=f'a {name}')) for name in names]
    (folder / 'b.json').write_text(json.dumps(dict(classes=entries)))
    (folder / 'a.json').write_text('{}')
    prompts = class_prompts(read_descriptions(folder / 'b.json'), 'en')
    rows = nn.functional.normalize(
        torch.randn(len(names), 8, generator=torch.Generator().manual_seed(3))
    )
    found = TextEmbeddings(names, rows, 'tiny', 'hash', hash_prompts(prompts), 'en')
    save_text_embeddings(folder / 'texts.safetensors', found)
    return str(folder / 'texts.safetensors'), {name: [f'a {name}'] for name in names}


def with_file(path: str, **changes: object) -> DEIMMultimodal:
    text = dict(classes=TEXT_CLASSES, embeddings=path, **changes)
    model = MODELS.build(deim_text() | dict(text=text))
    assert isinstance(model, DEIMMultimodal)
    model._require_texts()
    return model


def test_look_up_texts__sentences_by_their_hash_whatever_the_order(tmp_path):
    path, sentences = shipped_file(tmp_path, TEXT_CLASSES)
    permuted = with_file(path, permutation=[1, 0, 2])
    record = look_up_texts(permuted, dict(embeddings=path))
    assert record.owners == dict(crack='dent', dent='crack', stain='stain')
    assert record.sentences['crack'] == sentences['dent']
    assert record.source['model'] == 'tiny' and record.source['language'] == 'en'
    (note,) = record.notes
    assert 'crack has that of dent' in note


def test_look_up_texts__what_is_not_known_is_said(model, tmp_path):
    path, _ = shipped_file(tmp_path, TEXT_CLASSES)
    # The model's texts are those of another file.
    record = look_up_texts(model, dict(embeddings=path))
    assert set(record.owners.values()) == {None} and not record.sentences
    assert 'are not in' in record.notes[0]
    record = look_up_texts(model, dict(embeddings=str(tmp_path / 'nowhere.safetensors')))
    assert 'could not be looked up' in record.notes[0]
    record = look_up_texts(model, dict(embeddings=None), str(tmp_path / 'b.json'))
    assert record.sentences['dent'] == ['a dent'] and 'not known' in record.notes[0]
    (tmp_path / 'b.json').unlink()
    assert (
        'name one with --sentences'
        in look_up_texts(with_file(path), dict(embeddings=path)).notes[0]
    )
    with pytest.raises(FileNotFoundError):
        look_up_texts(with_file(path), dict(embeddings=path), str(tmp_path / 'b.json'))


@pytest.mark.parametrize(
    ('change', 'matters'), [(SWAP, False), (TextChange('drop', ('dent',)), True)], ids=str
)
def test_softmax_head__does_not_know_which_text_is_whose(batches, change, matters):
    """Its context is the same for every order of the texts, and its last layer has a row for each class."""
    torch.manual_seed(0)
    fusion = dict(deim_text()['fusion'], type='mmext.SoftmaxMultimodalFusion')
    model = MODELS.build(deim_text() | dict(fusion=fusion)).eval()
    model._require_texts()
    before = predict_again(model, batches)
    texts = changed_texts(model.fusion.context.text_embeddings, TEXT_CLASSES, change)
    with other_texts(model, texts):
        after = predict_again(model, batches)
    scores = [[own.pred_instances.scores for own in found] for found in (before, after)]
    pairs = zip(*scores, strict=True)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs) is not matters
    assert same(before, predict_again(model, batches))
