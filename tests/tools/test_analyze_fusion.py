"""`tools/analyze_fusion.py` with an untrained model that finds something."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config

from mmext.apis import init_model
from mmext.tools import analyze_fusion
from mmext.tools import test as test_tool
from tests.one_message import one_error
from tests.systems import TEXT_CLASSES, deim_atto, deim_text
from tests.tools.test_train_distributed import coco_scores

SIZE = 64
PIPELINE = [
    dict(type='mmext.LoadImage'),
    dict(type='mmext.LetterBox', scale=(SIZE, SIZE)),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'pad_param'),
    ),
]


def config(folder: Path, model: dict) -> Config:
    dataset = dict(
        type='mmext.InstanceDataset',
        metainfo=dict(classes=TEXT_CLASSES),
        ann_file=str(folder / 'val.json'),
        data_prefix=dict(img=str(folder)),
        test_mode=True,
        pipeline=PIPELINE,
    )
    return Config(
        dict(
            default_scope='mmdet',
            model=model | dict(test_cfg=dict(max_per_img=50)),
            test_dataloader=dict(
                batch_size=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dataset,
            ),
            test_cfg=dict(type='TestLoop'),
            test_evaluator=dict(
                type='mmext.InstanceCocoMetric', ann_file=str(folder / 'val.json'), metric='bbox'
            ),
        )
    )


@torch.no_grad()
def spread_scores(model: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Has the queries differ, each class be found, and the texts matter."""
    for parameter in model.decoder.parameters():
        if parameter.requires_grad and not parameter.any():
            parameter.normal_(std=0.1)
    head = model.decoder.dec_score_head[-1]
    head.weight.normal_()
    features = model.extract_feat(inputs)
    head.weight /= model.decoder(features).layers[-1].logits.std(dim=(0, 1))[:, None]
    head.bias -= model.decoder(features).layers[-1].logits.mean(dim=(0, 1))
    model._require_texts()
    model.fusion.gate.fill_(1.0)


@torch.no_grad()
def own_truth(model: torch.nn.Module, inputs: torch.Tensor) -> list[dict]:
    """Every third of the surest boxes, two of three with the class they were found as."""
    annotations = []
    for number, sample in enumerate(model.predict(inputs, [DetDataSample() for _ in inputs]), 1):
        found = sample.pred_instances
        boxes = found.bboxes.clamp(0, SIZE)
        for index in range(0, len(boxes), 3):
            x1, y1, x2, y2 = boxes[index].tolist()
            width, height = x2 - x1, y2 - y1
            label = (int(found.labels[index]) + (index % 9 == 6)) % 3
            if min(width, height) > 3:
                own = dict(bbox=[x1 + 0.5, y1, width, height], area=width * height, iscrowd=0)
                place = dict(id=len(annotations) + 1, image_id=number, category_id=label + 1)
                annotations.append(own | place)
    return annotations


@pytest.fixture(scope='module')
def subject(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Config and checkpoint, beside them five photos with objects, the last one with none."""
    root = tmp_path_factory.mktemp('analyze_fusion')
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8) for _ in range(5)]
    for number, photo in enumerate(photos, 1):
        cv2.imwrite(str(root / f'{number}.png'), photo)
    cfg = config(root, deim_text())
    torch.manual_seed(0)
    model = init_model(cfg)
    inputs = torch.from_numpy(np.stack(photos)[..., ::-1].copy()).permute(0, 3, 1, 2) / 255
    spread_scores(model, inputs)
    torch.save(dict(state_dict=model.state_dict()), root / 'model.pth')
    images = [dict(id=i, file_name=f'{i}.png', width=SIZE, height=SIZE) for i in range(1, 6)]
    categories = [dict(id=i, name=name) for i, name in enumerate(TEXT_CLASSES, 1)]
    content = dict(images=images, categories=categories, annotations=own_truth(model, inputs[:4]))
    (root / 'val.json').write_text(json.dumps(content))
    cfg.dump(root / 'text.py')
    return str(root / 'text.py'), str(root / 'model.pth')


def run(subject: tuple[str, str], out: Path, *options: str) -> dict:
    assert analyze_fusion.main([*subject, '--out', str(out), '--device', 'cpu', *options]) == 0
    return json.loads((out / 'report.json').read_text())


@pytest.mark.slow
def test_report__numbers_of_the_test_tool_and_a_page_of_its_own(subject, tmp_path, capsys):
    report = run(subject, tmp_path / 'out', '--vision-only', subject[1], '--images', '2')
    arguments = ['--work-dir', str(tmp_path / 'test'), '--device', 'cpu', '--cfg-options']
    assert test_tool.main([*subject, *arguments, 'test_evaluator.classwise=True']) == 0
    (log,) = (tmp_path / 'test').glob('*/*.json')
    expected = coco_scores(log)
    with_texts = report['scores']['with texts']
    for name, own in with_texts.items():
        key = '' if name == 'all classes' else f'{name}_'
        for precision, suffix in (('AP', 'mAP'), ('AP50', 'mAP_50'), ('AP75', 'mAP_75')):
            assert own[precision] == expected[f'coco/bbox_{key}{suffix}']
    assert 0 < with_texts['all classes']['AP'] < 1
    # The weights of the detector as a detector without texts, in a run of its own.
    assert report['scores']['vision only'] == report['scores']['without texts'] != with_texts
    assert report['confusion']['vision only'] == report['confusion']['without texts']
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert page.count('<img ') == page.count('src="data:image/png;base64,') == 2 + 3 + 1 + 2
    assert 'src="http' not in page and '<script' not in page and '<link' not in page
    assert 'AP under other texts' in capsys.readouterr().out


@pytest.mark.slow
def test_report__counts_and_changes_fit_together(subject, tmp_path):
    report = run(
        subject, tmp_path, '--score-thr', '0.6', '--drop', 'dent', '--swap', 'dent', 'crack'
    )
    assert report['images'] == 5
    objects = list(report['objects'].values())
    assert sum(objects) > 10
    confusion = report['confusion']
    for name in ('with texts', 'without texts', 'texts alone'):
        matrix = np.array(confusion[name])
        assert matrix[:3].sum(axis=1).tolist() == objects
    # Of as many detections each, but for several of the same score.
    found = [np.array(confusion[name])[:, :3].sum() for name in ('with texts', 'without texts')]
    assert abs(found[0] - found[1]) <= 1 < found[1]
    difference = np.array(confusion['with texts']) - confusion['without texts']
    assert confusion['difference'] == difference.tolist() and difference.any()
    assert [own['name'] for own in report['ablation']] == ['drop dent', 'swap dent and crack']
    for own in report['ablation']:
        assert own['scores'].keys() == {'with texts', 'texts alone'}
        for key, scores in own['scores'].items():
            before = report['scores'][key]['all classes']['AP']
            rise = scores['all classes']['AP'] - before
            assert own['change'][key]['all classes']['AP'] == pytest.approx(rise)
    assert any(own['change']['with texts']['dent']['AP'] for own in report['ablation'])


@pytest.mark.slow
def test_report__first_images_alone_and_no_change(subject, tmp_path):
    options = ['--images', '0', '--drop']
    report = run(subject, tmp_path / 'limited', '--limit', '1', *options)
    content = json.loads((Path(subject[0]).parent / 'val.json').read_text())
    first = [own for own in content['annotations'] if own['image_id'] == 1]
    assert 0 < len(first) < len(content['annotations'])
    one = content | dict(images=content['images'][:1], annotations=first)
    (tmp_path / 'one.json').write_text(json.dumps(one))
    keys = ('test_dataloader.dataset', 'test_evaluator')
    settings = [f'{key}.ann_file={tmp_path / "one.json"}' for key in keys]
    expected = run(subject, tmp_path / 'one', *options, '--cfg-options', *settings)
    assert report == expected
    assert report['images'] == 1 and report['ablation'] == []


@pytest.mark.slow
def test_mistakes__one_message_each(subject, tmp_path, capsys):
    detector = config(Path(subject[0]).parent, deim_atto())
    detector.dump(tmp_path / 'detector.py')
    plain = torch.load(subject[1])['state_dict']
    texts = plain.pop('fusion.context.text_embeddings')
    torch.save(dict(state_dict=plain), tmp_path / 'plain.pth')
    (tmp_path / 'file').touch()
    empty = json.loads((Path(subject[0]).parent / 'val.json').read_text()) | dict(annotations=[])
    (tmp_path / 'empty.json').write_text(json.dumps(empty))
    assert texts.any()
    data = f'test_evaluator.ann_file={tmp_path / "empty.json"}'
    cases = [
        ((str(tmp_path / 'detector.py'), subject[1]), [], 'got a DEIM, which knows no texts'),
        ((subject[0], str(tmp_path / 'plain.pth')), [], 'plain.pth has no texts'),
        (subject, ['--drop', 'hole'], '--drop: got hole, expected classes of the model: crack'),
        (subject, ['--swap', 'dent', 'hole'], '--swap: got hole'),
        (subject, ['--cfg-options', data], 'got 5 images without an object of crack, dent, stain'),
        (subject, ['--out', str(tmp_path / 'file')], 'cannot write to the folder'),
        (subject, ['--vision-only', 'nowhere.pth'], 'checkpoint nowhere.pth does not exist'),
        ((subject[0], 'nowhere.pth'), [], 'checkpoint nowhere.pth does not exist'),
        (subject, ['--images', '-1'], '--images: got -1'),
        (subject, ['--limit', '0'], '--limit: got 0'),
        (subject, ['--score-thr', '1'], '--score-thr: got 1'),
        (subject, ['--sentences', 'nowhere.json'], 'nowhere.json'),
    ]
    for own, options, message in cases:
        capsys.readouterr()
        arguments = [*own, '--out', str(tmp_path / 'out'), '--device', 'cpu', *options]
        assert analyze_fusion.main(arguments) == 2, message
        text = capsys.readouterr().err
        assert message in text.split('error: ')[-1], text
        assert 'Traceback' not in text
    assert not (tmp_path / 'out' / 'report.html').exists()


def test_arguments__both_kinds_of_changes():
    given = analyze_fusion.parse_args(
        ['c', 'p', '--out', 'o', '--drop', 'a', 'b', '--swap', 'a', 'b']
    )
    changes = analyze_fusion.asked_changes(given)
    assert [str(own) for own in changes or ()] == ['drop a', 'drop b', 'swap a and b']
    assert analyze_fusion.asked_changes(analyze_fusion.parse_args(['c', 'p', '--out', 'o'])) is None


def test_check_changes__many_classes_need_names():
    classes = [f'class {index}' for index in range(21)]
    with pytest.raises(ValueError, match='got 21 classes and neither --drop nor --swap'):
        analyze_fusion.check_changes(None, classes)
    analyze_fusion.check_changes([], classes)
    analyze_fusion.check_changes(None, classes[:20])


def test_out__a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / 'file').touch()
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        assert analyze_fusion.main(['none.py', 'none.pth', '--out', str(out)]) == 2
        assert 'cannot write to the folder' in one_error(capsys)
