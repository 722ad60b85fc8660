"""The training tool given something wrong: one message that names it, exit code 2, no traceback."""

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mmext.engine.preflight_probe import NUM_IMAGES
from mmext.tools import train
from mmext.tools.command import error_message
from tests.tiny import make_tiny_coco
from tests.tools.test_train import write_config


def assert_one_message(
    arguments: Sequence[object], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert train.main([str(argument) for argument in arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count('error: ') == 1
    assert errors.count(message) == 1
    assert 'Traceback' not in errors


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--auto-scale-lr'], 'auto_scale_lr = dict(base_batch_size=16'),
        (
            ['--amp', '--cfg-options', 'optim_wrapper.type=OptimWrapperDict'],
            "is 'OptimWrapperDict'",
        ),
        (['--device', 'tpu'], 'expected cpu, cuda'),
        (['--resume', 'gone.pth'], 'gone.pth does not exist'),
        (['--cfg-options', 'load_from=gone.pth'], 'checkpoint gone.pth does not exist'),
        (['--launcher', 'pytorch', '--device', 'cpu'], 'start with torchrun'),
        (['--cfg-options', 'model.type=RTMDett'], 'mean `mmdet.RTMDet`'),
        (
            ['--cfg-options', 'model.bbox_head.num_clases=2'],
            "unexpected keyword argument 'num_clases'; did you mean model.bbox_head.num_classes?",
        ),
        (
            ['--cfg-options', 'train_cfg.max_epoch=3'],
            "unexpected keyword argument 'max_epoch'; did you mean train_cfg.max_epochs?",
        ),
        (
            ['--cfg-options', 'max_epochs=3'],
            'max_epochs is not in the config, and nothing reads it; did you mean train_cfg.max_epochs?',
        ),
        (['--cfg-options', 'model.type.x=1'], '--cfg-options model.type.x=1: '),
        (['--resume', '.'], 'checkpoint . is a folder'),
    ],
    ids=[
        'no base batch size',
        'amp of a dict',
        'device',
        'resume',
        'load_from',
        'launcher',
        'model type',
        'model argument',
        'loop argument',
        'no such setting',
        'path of an option',
        'resume a folder',
    ],
)
def test_main__a_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR'):
        monkeypatch.delenv(name, raising=False)
    assert_one_message([write_config(tmp_path), *arguments], message, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['--cfg-options', 'train_dataloader.dataset.ann_file=gone.json'],
            'error: train_dataloader.dataset.ann_file: The annotation file ',
        ),
        (
            ['--cfg-options', 'val_evaluator.ann_file=gone.json'],
            '.py: val_evaluator.ann_file: The annotation file gone.json does not exist',
        ),
        (['--cfg-options', 'train_dataloader.dataset.data_prefix.img=gone'], '8 of 8 images'),
        (['--cfg-options', 'model.bbox_head.num_classes=80'], 'set model.bbox_head.num_classes=2'),
        (
            [
                '--cfg-options',
                'train_dataloader.dataset.metainfo.classes=(Square,Disc)',
                'train_dataloader.dataset.filter_cfg.filter_empty_gt=True',
            ],
            '2 of 2 classes are not in the annotation file',
        ),
    ],
    ids=[
        'annotation file',
        'annotation file of the metric',
        'image folder',
        'num_classes',
        'classes and filter',
    ],
)
def test_main__a_mistake_in_the_data_is_one_message(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert_one_message([write_config(tmp_path), *arguments], message, capsys)


@pytest.fixture
def no_workers_left() -> Iterator[None]:
    """The error keeps the data loader alive, and its workers would not hear of the end for 5 s each."""
    yield
    for worker in multiprocessing.active_children():
        worker.terminate()
        worker.join()


@pytest.mark.slow
def test_main__an_empty_image_met_by_a_worker(
    tmp_path: Path, no_workers_left: None, capsys: pytest.CaptureFixture
) -> None:
    """Behind the images that the preflight loads: the training runs into it, in another process."""
    config = write_config(tmp_path, num_workers=2)
    make_tiny_coco(tmp_path, NUM_IMAGES + 4)
    broken = tmp_path / 'images' / f'train_{NUM_IMAGES + 3}.png'
    broken.write_bytes(b'')
    options = ['train_dataloader.batch_size=10']
    options += ['train_dataloader.dataset.pipeline.0.type=mmext.LoadImage']
    message = f'The image {broken} is empty (0 bytes)'
    assert_one_message([config, '--cfg-options', *options], message, capsys)


def test_main__boxes_that_mmdet_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = write_config(tmp_path)
    path = tmp_path / 'train.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['bbox'] = [1, 2, 'x', 4]
    path.write_text(json.dumps(content))
    assert_one_message([config], f'CocoDataset cannot load {path} (TypeError', capsys)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        (
            "_base_ = ['gone_base.py']",
            "broken.py, line 1: `_base_` names 'gone_base.py', and there is no ",
        ),
        ("custom_imports = dict(imports=['gone_module'])", "{'imports': ['gone_module']}"),
        ('a = b', "broken.py, line 1: NameError: name 'b' is not defined"),
        ('a = dict(b=1', "broken.py, line 1: '(' was never closed"),
        (
            "model = dict(type='RTMDet')",
            'broken.py has no train_dataloader, train_cfg, optim_wrapper: nothing to train on',
        ),
    ],
    ids=['base', 'custom_imports', 'name', 'syntax', 'parts missing'],
)
def test_main__broken_config(
    tmp_path: Path, line: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    config = tmp_path / 'broken.py'
    config.write_text(f'{line}\n')
    assert_one_message([config], message, capsys)


def test_main__folder_as_config(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert_one_message([tmp_path], f'config {tmp_path} is a folder', capsys)


@pytest.mark.parametrize('option', ['foo', 'a=[1,2', 'a=(1,2]'])
def test_parse_args__option_without_a_sound_value(
    option: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        train.main(['a.py', '--cfg-options', 'b=1', option])
    assert exit_code.value.code == 2
    errors = capsys.readouterr().err
    assert f'error: argument --cfg-options: got b=1 {option}, expected settings such as' in errors
    assert 'Traceback' not in errors


def test_main__missing_config(capsys: pytest.CaptureFixture) -> None:
    assert train.main(['gone.py']) == 2
    assert 'config gone.py does not exist' in capsys.readouterr().err


def test_error_message__without_the_traceback_of_a_worker() -> None:
    text = (
        'Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n'
        '  File "a.py", line 1, in f\n    raise ValueError\nValueError: image 3.png is empty\n  and more\n'
    )
    assert error_message(ValueError(text)) == 'image 3.png is empty\n  and more'


def test_error_message__key_error_without_quotes() -> None:
    assert error_message(KeyError("no 'x'")) == "no 'x'"
