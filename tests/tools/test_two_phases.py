"""Incremental training by the tools: a detector, then a fusion head behind it, then classes that neither was trained on."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load

from mmext.models.deim.multimodal import PARTS
from mmext.tools import test as test_tool
from tests.systems import TEXT_CLASSES, TEXT_EMBEDDINGS, deim_text
from tests.tiny import make_tiny_coco, tiny_deim_config
from tests.tools.test_train import one_thread, run_training  # noqa: F401

CLASSES = TEXT_CLASSES[:2]


def detector_config(folder: Path) -> Config:
    cfg = tiny_deim_config(folder, folder / 'first', max_epochs=1)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.metainfo = dict(classes=CLASSES)
    cfg.custom_hooks = [dict(type='mmext.PreflightHook'), dict(type='mmdet.SetEpochInfoHook')]
    return cfg


def fusion_config(folder: Path) -> Config:
    cfg = detector_config(folder)
    cfg.work_dir, cfg.load_from = str(folder / 'second'), str(folder / 'first' / 'epoch_1.pth')
    fusion = deim_text()['fusion'] | dict(num_classes=2)
    text = dict(classes=CLASSES, embeddings=str(TEXT_EMBEDDINGS))
    cfg.model.update(type='mmext.DEIMMultimodal', fusion=fusion, text=text, frozen=PARTS)
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
    cfg.param_scheduler = []
    return cfg


def with_third_class(cfg: Config, folder: Path) -> Config:
    """The config for the same validation images, every second object being of a class that no training has seen."""
    content = json.loads((folder / 'val.json').read_text())
    content['categories'].append(dict(id=3, name=TEXT_CLASSES[2]))
    for own in content['annotations'][::2]:
        own['category_id'] = 3
    (folder / 'three.json').write_text(json.dumps(content))
    cfg.test_dataloader.dataset.update(ann_file='three.json', metainfo=dict(classes=TEXT_CLASSES))
    cfg.test_evaluator.ann_file = str(folder / 'three.json')
    return cfg


@pytest.mark.slow
@pytest.mark.usefixtures('one_thread')
def test_two_phases__and_descriptions_of_more_classes(tmp_path: Path) -> None:
    make_tiny_coco(tmp_path, 8, classes=CLASSES)
    make_tiny_coco(tmp_path, 2, split='val', seed=1, classes=CLASSES)
    for name, cfg in (('first', detector_config(tmp_path)), ('second', fusion_config(tmp_path))):
        cfg.dump(tmp_path / f'{name}.py')
        run_training(tmp_path / f'{name}.py')
    path = tmp_path / 'second' / 'epoch_1.pth'
    detector, fused = (
        torch.load(tmp_path / name / 'epoch_1.pth', weights_only=False)['state_dict']
        for name in ('first', 'second')
    )
    assert all(torch.equal(fused[name], value) for name, value in detector.items())
    assert fused['fusion.gate'].abs() > 0
    third = with_third_class(fusion_config(tmp_path), tmp_path)
    third.dump(tmp_path / 'third.py')
    out = tmp_path / 'found.pkl'
    arguments = [str(tmp_path / 'third.py'), str(path), '--out', str(out)]
    assert test_tool.main([*arguments, '--descriptions', str(TEXT_EMBEDDINGS)]) == 0
    labels = torch.cat([one['pred_instances']['labels'] for one in load(out)])
    assert (labels == 2).any() and labels.max() == 2
    # Without the texts of the third class the run stops before it compares two classes with three.
    assert test_tool.main(arguments) == 2
