"""Fine-tuning of DEIM to another number of classes, through the whole Runner and with averaged weights."""

import re
from pathlib import Path

import pytest
import torch

from mmext.engine.checkpoint import read_checkpoint
from mmext.registry import MODELS
from tests.systems import deim_atto
from tests.tiny import make_tiny_coco, tiny_deim_config
from tests.tools.test_train import run_training

OLD_CLASSES, NEW_CLASSES = 3, 6
CLASS_LAYERS = {
    'decoder.denoising_class_embed.weight',
    'decoder.enc_score_head.weight',
    'decoder.enc_score_head.bias',
    *(f'decoder.dec_score_head.{i}.{kind}' for i in range(3) for kind in ('weight', 'bias')),
}


@pytest.mark.slow
def test_train__other_classes_keep_all_but_the_class_layers(tmp_path: Path) -> None:
    make_tiny_coco(tmp_path, 2)
    make_tiny_coco(tmp_path, 2, split='val', seed=1)
    torch.manual_seed(1)
    old = MODELS.build(deim_atto()).state_dict()
    torch.save(dict(state_dict=old, meta=dict(epoch=7)), tmp_path / 'old.pth')
    cfg = tiny_deim_config(tmp_path, tmp_path / 'work', max_epochs=1)
    cfg.model.decoder.num_classes = NEW_CLASSES
    # With a rate of 0 what was loaded can still be seen behind the training.
    cfg.optim_wrapper.optimizer.update(lr=0.0, weight_decay=0.0)
    cfg.param_scheduler = []
    average = dict(type='mmext.StepEMAHook', ema_type='ExpMomentumEMA', update_buffers=True)
    cfg.custom_hooks = [average]
    cfg.load_from = str(tmp_path / 'old.pth')
    cfg.log_level = 'INFO'
    config = tmp_path / f'{tmp_path.name}.py'
    cfg.dump(config)
    run_training(config, '--seed', 0, '--device', 'cpu')

    (log,) = (tmp_path / 'work').glob('*/*.log')
    text, num_kept = log.read_text(), len(old) - len(CLASS_LAYERS)
    assert re.search(rf'^  loaded +{num_kept}$', text, re.MULTILINE)
    # The first of their names follow.
    assert re.search(
        rf'^  mismatched +{len(CLASS_LAYERS)}  .*\(3, 64\) -> \(6, 64\)', text, re.MULTILINE
    )
    content = read_checkpoint(tmp_path / 'work' / 'epoch_1.pth')
    learned = [name for name, _ in MODELS.build(deim_atto()).named_parameters()]
    # mmengine stores the average as the weights, and the weights as the average.
    for prefix, state in (('', content['state_dict']), ('module.', content['ema_state_dict'])):
        changed = {name for name in learned if not torch.equal(state[prefix + name], old[name])}
        assert changed == CLASS_LAYERS
        for name in CLASS_LAYERS:
            num_rows = NEW_CLASSES + ('embed' in name)  # one for padding
            assert state[prefix + name].shape == (num_rows, *old[name].shape[1:])
            assert state[prefix + name].isfinite().all()
