"""`init_model`: what it builds, what it carries, what it says when config or weights are wrong."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmext.apis import init_model
from mmext.registry import UnknownNameError
from tests.foreign import FOREIGN_CONFIG


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(FOREIGN_CONFIG)
    return path


@pytest.fixture(scope='module')
def cfg(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'config.py'
    path.write_text(FOREIGN_CONFIG)
    return Config.fromfile(path)


def _save(model, path, **meta):
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    return path


def current_scope() -> str | None:
    """Its name: mmengine copies the scopes when it leaves one, so that the object may be another."""
    instance = DefaultScope.get_current_instance()
    return instance and instance.scope_name


def test_init_model__raw_outputs_have_names_and_strides(config_file):
    model = init_model(config_file)
    with torch.no_grad():
        outputs = model(torch.rand(2, 3, 64, 96), mode='tensor')
    assert [tuple(level.shape) for level in outputs.cls_scores] == [
        (2, 2, 8, 12),
        (2, 2, 4, 6),
        (2, 2, 2, 3),
    ]
    assert outputs.prototypes.shape == (2, 8, 16, 24)
    assert outputs.bbox_dists[0].shape[1] == 4 * 16 and outputs.mask_coeffs[0].shape[1] == 8


def test_init_model__evaluates_on_the_device_and_leaves_the_scope_alone(cfg):
    before = current_scope()
    text = json.dumps(cfg.to_dict(), default=str)
    model = init_model(cfg, device='cpu')
    assert not any(module.training for module in model.modules())
    assert current_scope() == before
    assert json.dumps(cfg.to_dict(), default=str) == text


def test_init_model__device_may_stand_in_third_place(cfg):
    model = init_model(cfg, None, 'meta')
    assert {parameter.device.type for parameter in model.parameters()} == {'meta'}


def test_init_model__checkpoint_gives_its_weights_and_classes(cfg, tmp_path):
    trained = init_model(cfg)
    torch.nn.init.constant_(trained.bbox_head.cls_branches[0][-1].bias, 0.25)
    meta = {'CLASSES': ('crack', 'dent'), 'PALETTE': [(1, 2, 3), (4, 5, 6)]}
    model = init_model(cfg, _save(trained, tmp_path / 'a.pth', dataset_meta=meta))
    assert torch.all(model.bbox_head.cls_branches[0][-1].bias == 0.25)
    assert model.dataset_meta == {'classes': ('crack', 'dent'), 'palette': [(1, 2, 3), (4, 5, 6)]}
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(trained(image, mode='tensor')[0], model(image, mode='tensor')[0], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_init_model__classes_come_from_the_config_when_the_checkpoint_has_none(cfg, tmp_path):
    model = init_model(cfg, _save(init_model(cfg), tmp_path / 'converted.pth'))
    assert model.dataset_meta == {'classes': ('square', 'disc')}


def test_init_model__classes_of_a_wrapped_data_set_and_of_its_class(cfg):
    wrapped = Config(cfg.to_dict())
    coco = dict(type='CocoDataset', ann_file='x.json')
    wrapped.pop('val_dataloader')
    wrapped.train_dataloader['dataset'] = dict(type='RepeatDataset', times=2, dataset=coco)
    assert init_model(wrapped).dataset_meta['classes'][:2] == ('person', 'bicycle')


def test_init_model__no_class_names_anywhere(cfg):
    assert init_model(Config(dict(default_scope='mmdet', model=cfg.model))).dataset_meta == {}


def test_init_model__missing_files_are_named(config_file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.py does not exist'):
        init_model(tmp_path / 'nowhere.py')
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth does not exist'):
        init_model(config_file, tmp_path / 'nowhere.pth')


@pytest.mark.parametrize(
    ('line', 'error', 'message'),
    [
        ("_base_ = ['gone_base.py']", FileNotFoundError, r'/gone_base\.py'),
        ("custom_imports = dict(imports=['gone_module'])", ValueError, r'broken\.py.*gone_module'),
    ],
    ids=['base', 'custom_imports'],
)
def test_init_model__config_that_asks_for_a_missing_file(tmp_path, line, error, message):
    path = tmp_path / 'broken.py'
    path.write_text(f'{line}\n')
    with pytest.raises(error, match=message):
        init_model(path)


def test_init_model__config_without_a_model(tmp_path):
    path = tmp_path / 'part.py'
    path.write_text('log_level = "INFO"\n')
    with pytest.raises(ValueError, match=r'part\.py has no `model`.*log_level'):
        init_model(path)


def test_init_model__mistyped_and_unscoped_names_get_a_suggestion(cfg):
    for name, hint in (
        ('mmext.CSPPANN', 'did you mean `mmext.CSPPAN`'),
        ('CSPPAN', 'did you mean `mmext.CSPPAN`'),
    ):
        wrong = Config(cfg.to_dict())
        wrong.model.neck.type = name
        with pytest.raises(UnknownNameError, match=hint):
            init_model(wrong)


def test_init_model__checkpoint_of_another_number_of_classes_shows_the_shapes(cfg, tmp_path):
    other = Config(cfg.to_dict())
    other.model.bbox_head.num_classes = 5
    path = _save(init_model(other), tmp_path / 'five.pth')
    with pytest.raises(ValueError, match=r'five\.pth does not fit') as caught:
        init_model(cfg, path)
    assert 'bbox_head.cls_branches.0' in str(caught.value)
    assert '(5,' in str(caught.value) and '(2,' in str(caught.value)


def test_init_model__checkpoint_of_another_model(cfg, tmp_path):
    path = _save(torch.nn.Linear(2, 3), tmp_path / 'linear.pth')
    with pytest.raises(ValueError, match='belongs to another model'):
        init_model(cfg, path)


class Payload:
    """Stands for a foreign class, whose pickle would run code while it is read."""

    def __reduce__(self):
        return np.save, ('executed.npy', 1)


def test_init_model__checkpoint_that_would_execute_code_is_refused(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': {}, 'model': Payload()}, 'foreign.pth')
    with pytest.raises(ValueError, match=r'foreign\.pth is refused'):
        init_model(cfg, 'foreign.pth')
    assert not (tmp_path / 'executed.npy').exists()
