"""A shipped DEIM config in the tools: predict, test and compare, with an untrained model that finds something."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmext.apis import InstanceInferencer, init_model
from mmext.apis import model as model_api
from mmext.datasets.synthetic import METAL, write_dataset
from mmext.models.common.folding import is_deployed
from mmext.tools import compare, predict
from mmext.tools import test as test_tool
from tests.tools.test_train_distributed import coco_scores

CONFIG = Path(__file__).resolve().parents[2] / 'configs/deim/deimv2_atto_1xb8_synthetic.py'
# Boxes start at a 20th and a 10th of the image: small ones and medium ones for COCO.
SIZE = 512
THRESHOLD = 0.3


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and checkpoint; beside them `data`, three photos with annotations."""
    root = tmp_path_factory.mktemp('deim_tools')
    write_dataset(root / 'data', METAL, num_images=dict(train=0, val=3), size=SIZE)
    cfg = Config.fromfile(CONFIG)
    dataset = dict(data_root=str(root / 'data'))
    loader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
    annotations = str(root / 'data' / 'val.json')
    cfg.merge_from_dict(
        {
            'test_dataloader': loader,
            'test_evaluator.ann_file': annotations,
            'default_hooks.visualization.score_thr': THRESHOLD,
        }
    )
    cfg.dump(root / 'deim_tools.py')
    torch.manual_seed(0)
    network = init_model(cfg)
    with torch.no_grad():
        # Without statistics of its own data, and with what starts at zero, all queries are alike.
        norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        photos = [cv2.imread(str(path))[::2, ::2] for path in (root / 'data' / 'images').iterdir()]
        network.train().extract_feat(torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2) / 255)
        for parameter in network.decoder.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.1)
        last = network.decoder.dec_score_head[-1]
        last.weight.normal_(std=0.3)
        last.bias.zero_()
    torch.save({'state_dict': network.state_dict()}, root / 'model.pth')
    return root / 'deim_tools.py', root / 'model.pth'


def images(model: tuple[Path, Path]) -> Path:
    return model[0].parent / 'data' / 'images'


def run_predict(
    model: tuple[Path, Path], out: Path, *options: object, threshold: float = THRESHOLD
) -> list[dict]:
    """What the tool finds in the photos: the entries of its result file."""
    arguments = [*model, images(model), '--out', out, '--score-thr', threshold, '--device', 'cpu']
    assert predict.main([str(argument) for argument in (*arguments, *options)]) == 0
    return json.loads((out / 'results.json').read_text())


def test_predict__in_deploy_form_what_the_canonical_model_finds(
    model: tuple[Path, Path], tmp_path: Path
) -> None:
    results = run_predict(model, tmp_path)
    canonical = InstanceInferencer(init_model(*model), score_thr=THRESHOLD)
    assert not is_deployed(canonical.model)
    for image, sample, _ in canonical(images(model)):
        name = Path(sample.img_path).name
        own = [entry for entry in results if entry['file_name'] == name]
        expected = sample.pred_instances
        assert len(own) == len(expected) > 5
        for entry in own:
            assert 'segmentation' not in entry
            x, y, width, height = entry['bbox']
            assert 0 <= x <= x + width <= SIZE + 1e-3 and 0 <= y <= y + height <= SIZE + 1e-3
            box = torch.tensor([x, y, x + width, y + height])
            distances = (expected.bboxes - box).abs().amax(dim=1)
            distances += (expected.scores - entry['score']).abs() * SIZE
            nearest = distances + SIZE * (expected.labels + 1 != entry['category_id'])
            assert nearest.min() < 0.1
        assert (cv2.imread(str(tmp_path / name)) != image).any()


def test_inferencer__deploy_form_keeps_the_checkpoint(model: tuple[Path, Path]) -> None:
    deployed = InstanceInferencer(*model).model
    assert is_deployed(deployed)
    saved, state = torch.load(model[1])['state_dict'], deployed.state_dict()
    assert list(state) == list(saved)
    assert all(torch.equal(state[name], value) for name, value in saved.items())


def test_deploy__a_model_without_it_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    monkeypatch.setattr(model_api, 'print_log', lambda text, *_, **__: lines.append(text))
    model_api.deploy(torch.nn.Linear(1, 1).eval())
    assert not lines

    class Unfoldable(torch.nn.Linear):
        def switch_to_deploy(self) -> None:
            raise ValueError('got GroupNorm behind a convolution')

    model_api.deploy(Unfoldable(1, 1))
    assert lines == ['not in deploy form, only slower: got GroupNorm behind a convolution']


@pytest.mark.slow
def test_predict__tiles_and_views(model: tuple[Path, Path], tmp_path: Path) -> None:
    plain = run_predict(model, tmp_path / 'plain', '--no-pictures')
    cut = ['--tile', SIZE // 2, '--batch-size', 3]
    tiles = run_predict(model, tmp_path / 'tiles', '--no-pictures', *cut)
    # A score is the mean over the views, four of them, of which an untrained model sees most objects in one.
    views = run_predict(model, tmp_path / 'views', '--no-pictures', '--tta', threshold=0.05)
    assert plain and tiles and views
    assert {tuple(entry['bbox']) for entry in views} != {tuple(entry['bbox']) for entry in plain}
    for entry in (*tiles, *views):
        x, y, width, height = entry['bbox']
        assert 0 <= x <= x + width <= SIZE + 1e-3 and 0 <= y <= y + height <= SIZE + 1e-3


def use_as_truth(found: list[dict], annotations: Path) -> None:
    """Writes every fifth of the boxes that were found into the annotation file, moved by up to two pixels."""
    content = json.loads(annotations.read_text())
    rng = np.random.default_rng(0)
    content['annotations'] = []
    for result in found:
        instances = result['pred_instances']
        boxes = instances['bboxes'].clamp(0, SIZE).numpy().astype(float)
        for box, label in list(zip(boxes, instances['labels'].tolist(), strict=True))[::5]:
            x1, y1, x2, y2 = (box + rng.uniform(-2, 2, 4)).clip(0, SIZE).tolist()
            if min(x2 - x1, y2 - y1) > 8:
                content['annotations'].append(
                    dict(
                        # Not 0, which pycocotools takes for 'not matched'.
                        id=len(content['annotations']) + 1,
                        image_id=result['img_id'],
                        category_id=content['categories'][label]['id'],
                        bbox=[x1, y1, x2 - x1, y2 - y1],
                        area=(x2 - x1) * (y2 - y1),
                        iscrowd=0,
                        segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
                    )
                )
    annotations.write_text(json.dumps(content))


def expected_scores(found: list[dict], annotations: Path) -> dict[str, float]:
    """COCO's own evaluation of the dumped boxes."""
    truth = COCO(str(annotations))
    # NORMAL has no objects and is no class of the config.
    ids = [own['id'] for own in truth.dataset['categories'] if own['name'] != 'NORMAL']
    results = [
        dict(
            image_id=result['img_id'],
            category_id=ids[label],
            score=score,
            bbox=[x1, y1, x2 - x1, y2 - y1],
        )
        for result in found
        for (x1, y1, x2, y2), score, label in zip(
            *(result['pred_instances'][key].tolist() for key in ('bboxes', 'scores', 'labels')),
            strict=True,
        )
    ]
    evaluator = COCOeval(truth, truth.loadRes(results), 'bbox')
    evaluator.params.catIds = ids
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    names = ('', '_50', '_75', '_s', '_m')
    scores = {f'coco/bbox_mAP{n}': v for n, v in zip(names, evaluator.stats, strict=False)}
    for index, number in enumerate(ids):
        values = evaluator.eval['precision'][:, :, index, 0, 2]
        if (values > -1).any():
            name = truth.cats[number]['name']
            scores[f'coco/bbox_{name}_mAP'] = values[values > -1].mean()
    return scores


@pytest.mark.slow
def test_test__ap_by_size_and_class_predictions_and_pictures(
    model: tuple[Path, Path], tmp_path: Path
) -> None:
    annotations = images(model).parent / 'val.json'
    out, pictures, work = tmp_path / 'out.pkl', tmp_path / 'pictures', tmp_path / 'work'
    arguments = [*model, '--device', 'cpu', '--out', out, '--work-dir']
    assert test_tool.main([*map(str, [*arguments, tmp_path / 'first'])]) == 0
    use_as_truth(pickle.loads(out.read_bytes()), annotations)

    options = [work, '--show-dir', pictures]
    assert test_tool.main([*map(str, [*arguments, *options])]) == 0
    (log,) = work.glob('*/*.json')
    scores = coco_scores(log)
    expected = expected_scores(pickle.loads(out.read_bytes()), annotations)
    assert len(expected) >= 5 + 2, expected  # of two classes at least
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-3), name
    assert min(expected[f'coco/bbox_mAP{size}'] for size in ('_s', '_m')) > 0.02
    drawn = sorted(path.name for path in pictures.glob('*.png'))
    assert drawn == sorted(path.name for path in images(model).iterdir())


@pytest.mark.slow
def test_compare__a_column_of_deim(model: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / 'table.md'
    arguments = ['--size', '64', '--photo-size', '300x200', '--repeat', '2', '--warmup', '0']
    files = ['--checkpoints', str(model[1]), '--out', str(out)]
    assert compare.main([str(model[0]), *arguments, *files]) == 0
    rows = dict(line.strip('| ').rsplit(' | ', 1) for line in out.read_text().splitlines()[4:])
    assert rows['parameters (M)'] == '0.485'
    assert float(rows['GFLOPs of the network (a multiply-add is two)']) > 0
    assert float(rows['GFLOPs of post-processing']) == 0
    for name in compare.STAGE_ROWS.values():
        assert float(rows[name].split(' / ')[0]) > 0
    # 16 places of stride 16 and 4 of stride 32, with five classes each.
    assert rows['objects that post-processing finds'] == '100'
