"""A training of DEIM together with its text model: two epochs, with averaged weights, resumed, and tested without the text model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmext.models.deim.text_source import LearningTexts
from mmext.registry import MODELS
from mmext.tools import test as test_tool
from tests.models.fused_texts import LAST_LAYER, write_texts
from tests.systems import deim_text
from tests.tiny import make_tiny_coco, tiny_deim_config
from tests.tools.test_train import one_thread, run_training  # noqa: F401

CLASSES = ('crack', 'dent')
RATE = 1e-3


def learning_config(folder: Path) -> Config:
    """The detector, the fusion and the last layer of the text model learn; averages are what is tested."""
    make_tiny_coco(folder, 4, classes=CLASSES)
    make_tiny_coco(folder, 2, split='val', seed=1, classes=CLASSES)
    write_texts(folder)
    cfg = tiny_deim_config(folder, folder / 'work', max_epochs=2)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.metainfo = dict(classes=CLASSES)
    fusion = deim_text()['fusion'] | dict(num_classes=2, text_dim=16)
    encoder = dict(type='mmext.TextEncoder', model=str(folder / 'bert'), trainable=[LAST_LAYER])
    sentences = str(folder / 'two.json')
    text = dict(classes=CLASSES, descriptions=sentences, language='es', encoder=encoder)
    cfg.model.update(type='mmext.DEIMMultimodal', fusion=fusion, text=text)
    cfg.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-4),
        constructor='mmext.PatternOptimWrapperConstructor',
        paramwise_cfg=dict(patterns=[dict(pattern=r'^texts\.', lr=RATE)]),
    )
    cfg.param_scheduler = []
    average = dict(momentum=0.3, gamma=1, update_buffers=True, priority=49)
    cfg.custom_hooks = [
        dict(type='mmext.PreflightHook'),
        dict(type='mmdet.SetEpochInfoHook'),
        dict(type='mmext.StepEMAHook', ema_type='mmdet.ExpMomentumEMA', **average),
    ]
    return cfg


def check_texts(cfg: Config, path: Path) -> torch.Tensor:
    """The texts of a checkpoint, which must be those of its text model, of which it has one layer."""
    content = torch.load(path, map_location='cpu', weights_only=False)
    texts = []
    for key, prefix in (('state_dict', ''), ('ema_state_dict', 'module.')):
        state = {name.removeprefix(prefix): value for name, value in content[key].items()}
        model = MODELS.build(cfg.model)
        model.load_state_dict({name: state[name] for name in model.state_dict()})
        assert isinstance(model.texts, LearningTexts)
        held = state['fusion.context.text_embeddings']
        torch.testing.assert_close(held, model.texts().detach(), rtol=0, atol=1e-6)
        assert sum(name.startswith('texts.') for name in state) == 16
        texts.append(held)
    # Averaged and latest weights differ.
    assert not torch.equal(*texts)
    return texts[0]


@pytest.mark.slow
@pytest.mark.usefixtures('one_thread')
def test_run__text_model_learns_and_tests_do_without_it(tmp_path: Path) -> None:
    cfg = learning_config(tmp_path)
    classes = json.loads((tmp_path / 'classes.json').read_text())['classes'][:2]
    (tmp_path / 'two.json').write_text(json.dumps(dict(classes=classes)))
    config = tmp_path / 'learning.py'
    cfg.dump(config)
    run_training(config, '--deterministic')
    first, last = (check_texts(cfg, tmp_path / 'work' / f'epoch_{n}.pth') for n in (1, 2))
    assert not torch.allclose(first, last, atol=1e-5)
    # A resumed run ends as the whole one.
    shutil.copytree(tmp_path / 'work', tmp_path / 'resumed')
    (tmp_path / 'resumed' / 'epoch_2.pth').unlink()
    (tmp_path / 'resumed' / 'last_checkpoint').write_text(str(tmp_path / 'resumed' / 'epoch_1.pth'))
    run_training(config, '--work-dir', tmp_path / 'resumed', '--resume', '--deterministic')
    resumed = check_texts(cfg, tmp_path / 'resumed' / 'epoch_2.pth')
    torch.testing.assert_close(resumed, last, rtol=0, atol=1e-6)
    shutil.move(tmp_path / 'bert', tmp_path / 'elsewhere')
    (tmp_path / 'two.json').unlink()
    cached = cfg.copy()
    cached.model.text = dict(classes=CLASSES, embeddings=None)
    cached.dump(tmp_path / 'cached.py')
    for name in ('learning.py', 'cached.py'):
        arguments = [str(tmp_path / name), str(tmp_path / 'work' / 'epoch_2.pth')]
        assert test_tool.main(arguments) == 0
