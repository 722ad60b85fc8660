"""The test tool: what it writes into the config, how it answers mistakes, and whole runs."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from pycocotools import mask as coco_mask

from mmext.datasets.image_files import ORIENTATION_TAG
from mmext.evaluation.dump import without_truth
from mmext.tools import test as test_tool
from tests.tiny import make_tiny_coco, tiny_config

TTA = dict(
    tta_model=dict(
        type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=9)
    ),
    tta_pipeline=[
        dict(type='LoadImageFromFile'),
        dict(
            type='TestTimeAug',
            transforms=[
                [dict(type='Resize', scale=(64, 64))],
                [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
                [dict(type='LoadAnnotations', with_bbox=True)],
                [
                    dict(
                        type='PackDetInputs',
                        meta_keys=(
                            'img_id',
                            'img_path',
                            'ori_shape',
                            'img_shape',
                            'scale_factor',
                            'flip',
                            'flip_direction',
                        ),
                    )
                ],
            ],
        ),
    ],
)


def make_config(tmp_path: Path) -> Config:
    """The tiny data set and a config that is tested on three of its images."""
    make_tiny_coco(tmp_path, 2)
    make_tiny_coco(tmp_path, 3, split='val', seed=1)
    cfg = tiny_config(tmp_path, tmp_path / 'work')
    cfg.visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.default_hooks.visualization = dict(type='mmext.InstanceVisualizationHook', score_thr=0.0)
    cfg.merge_from_dict(TTA)
    cfg.dump(tmp_path / f'{tmp_path.name}.py')
    return cfg


def save_model(cfg: Config, path: Path) -> None:
    """A checkpoint of the config's untrained model, with scores that differ from place to place."""
    model = Runner.from_cfg(cfg).model
    for layer in model.bbox_head.rtm_cls:
        layer.weight.data *= 100
    torch.save({'state_dict': model.state_dict()}, path)


def run(tmp_path: Path, *arguments: str) -> int:
    """Runs the tool on the config and checkpoint in a folder."""
    return test_tool.main(
        [str(tmp_path / f'{tmp_path.name}.py'), str(tmp_path / 'model.pth'), *arguments]
    )


def test_without_truth__dense_and_encoded_masks_end_alike() -> None:
    dense = torch.zeros(1, 6, 8, dtype=torch.bool)
    dense[0, 1:4, 2:7] = True
    encoded = [coco_mask.encode(np.asfortranarray(dense[0].numpy().astype(np.uint8)))]
    for masks in (dense, encoded):
        sample = dict(
            img_id=3, gt_instances=dict(bboxes=1), pred_instances=dict(masks=masks, labels=[0])
        )
        dumped = without_truth(sample)
        assert dumped == dict(img_id=3, pred_instances=dict(masks=encoded, labels=[0]))
        # The other metrics still see the sample as it was.
        assert sample['gt_instances'] == dict(bboxes=1)
        assert sample['pred_instances']['masks'] is masks


@pytest.mark.parametrize(
    ('arguments', 'options', 'message'),
    [
        (['--out', 'a.json'], {}, 'expected a name ending in .pkl'),
        (['--show-dir', 'a'], dict(visualizer=None), 'no visualizer'),
        (['--tta'], dict(tta_model=None), 'the config has no tta_model'),
        (['--tta'], {'test_evaluator.metric': ['bbox', 'segm']}, 'loses the masks'),
        ([], dict(test_dataloader=None), 'has no test_dataloader: nothing to test on'),
        ([], dict(model=None), 'has no model: nothing to test on'),
        (
            [],
            {'test_evaluator.ann_file': 'gone.json'},
            '.py: test_evaluator.ann_file: The annotation file gone.json does not exist',
        ),
    ],
    ids=[
        'out',
        'show',
        'no tta',
        'tta of masks',
        'no test data',
        'no model',
        'annotation file of the metric',
    ],
)
def test_main__a_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path,
    arguments: list[str],
    options: dict,
    message: str,
    capsys: pytest.CaptureFixture,
) -> None:
    cfg = make_config(tmp_path)
    cfg.merge_from_dict(options)
    for key in [key for key, value in options.items() if value is None]:
        cfg.pop(key)
    cfg.dump(tmp_path / f'{tmp_path.name}.py')
    (tmp_path / 'model.pth').touch()
    assert run(tmp_path, *arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert 'Traceback' not in errors


def test_main__missing_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_config(tmp_path)
    assert run(tmp_path) == 2
    assert 'model.pth does not exist' in capsys.readouterr().err


def test_main__missing_config(capsys: pytest.CaptureFixture) -> None:
    assert test_tool.main(['gone.py', 'model.pth']) == 2
    errors = capsys.readouterr().err
    assert 'config gone.py does not exist' in errors
    assert 'Traceback' not in errors


def test_main__checkpoint_of_another_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_config(tmp_path)
    torch.save({'state_dict': torch.nn.Linear(2, 3).state_dict()}, tmp_path / 'model.pth')
    assert run(tmp_path) == 2
    errors = capsys.readouterr().err
    assert f'{tmp_path / "model.pth"} belongs to another model: none of its 2 names' in errors
    assert 'Traceback' not in errors


@pytest.mark.slow
def test_main__checkpoint_with_another_number_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg = make_config(tmp_path)
    cfg.model.bbox_head.num_classes = 5
    save_model(cfg, tmp_path / 'model.pth')
    assert run(tmp_path) == 2
    errors = capsys.readouterr().err
    assert 'model.pth does not fit RTMDet' in errors
    assert '(5, 32, 1, 1) -> (2, 32, 1, 1)' in errors


@pytest.mark.slow
def test_main__writes_predictions_and_pictures(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    save_model(cfg, tmp_path / 'model.pth')
    out, pictures = tmp_path / 'out.pkl', tmp_path / 'pictures'
    assert run(tmp_path, '--out', str(out), '--show-dir', str(pictures)) == 0
    results = pickle.loads(out.read_bytes())
    assert [result['img_id'] for result in results] == [0, 1, 2]
    cfg.load_from = str(tmp_path / 'model.pth')
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    runner.model.eval()
    with torch.no_grad():
        predicted = [s for data in runner.test_dataloader for s in runner.model.test_step(data)]
    for result, sample in zip(results, predicted, strict=True):
        assert 'gt_instances' not in result
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(result['pred_instances'][key], sample.pred_instances[key])
    drawn = sorted(pictures.glob('*.png'))
    assert [path.name for path in drawn] == ['val_0.png', 'val_1.png', 'val_2.png']
    assert cv2.imread(str(drawn[0])) is not None


@pytest.mark.slow
@pytest.mark.parametrize('size', [(40, 64), (64, 40)], ids=['stored', 'upright'])
def test_main__pictures_of_turned_photos_are_in_the_frame_of_the_annotation(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    cfg = make_config(tmp_path)
    cfg.test_dataloader.dataset.pipeline[0].type = 'mmext.LoadImage'
    cfg.dump(tmp_path / f'{tmp_path.name}.py')
    save_model(cfg, tmp_path / 'model.pth')
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    photo = tmp_path / 'images' / 'val_1.png'
    Image.fromarray(np.zeros((40, 64, 3), dtype=np.uint8)).save(photo, exif=exif)
    content = json.loads((tmp_path / 'val.json').read_text())
    content['images'][1].update(height=size[0], width=size[1])
    (tmp_path / 'val.json').write_text(json.dumps(content))
    pictures = tmp_path / 'pictures'
    assert run(tmp_path, '--show-dir', str(pictures)) == 0
    # Truth left, predictions right.
    assert cv2.imread(str(pictures / 'val_1.png')).shape[:2] == (size[0], 2 * size[1])


@pytest.mark.slow
def test_main__test_time_augmentation_is_blind_to_mirrors(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    save_model(cfg, tmp_path / 'model.pth')
    images = tmp_path / 'images'
    cv2.imwrite(str(images / 'val_1.png'), cv2.imread(str(images / 'val_0.png'))[:, ::-1])
    scores = {}
    for options in ([], ['--tta']):
        out = tmp_path / 'out.pkl'
        assert run(tmp_path, '--out', str(out), *options) == 0
        first, second, _ = (result['pred_instances'] for result in pickle.loads(out.read_bytes()))
        scores[bool(options)] = first['scores'][:5], second['scores'][:5]
    torch.testing.assert_close(*scores[True], atol=0, rtol=1e-5)
    # The model alone sees the difference.
    assert not torch.allclose(*scores[False], atol=0, rtol=1e-4)
