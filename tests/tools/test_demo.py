"""The demo, end to end on a handful of images."""

import pytest

from mmext.tools import demo

ONE_EPOCH = """_base_ = {base!r}
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_epochs=1, val_interval=1)
"""


@pytest.mark.slow
def test_demo__writes_pictures_curves_config_and_checkpoint(tmp_path, capsys):
    config = tmp_path / 'segment_demo.py'
    config.write_text(ONE_EPOCH.format(base=str(demo.CONFIG)))
    out = tmp_path / 'out'
    arguments = [str(out), '--config', str(config), '--num-train', '4', '--num-val', '2']
    assert demo.main(arguments) == 0
    printed = capsys.readouterr().out
    assert len(list((out / 'pictures').glob('*.png'))) == 2
    for name in ('curves.png', 'config.py', 'run/epoch_1.pth'):
        assert (out / name).stat().st_size > 0
        assert str(out / name) in printed


@pytest.mark.slow
def test_demo__a_failing_step_ends_in_one_message(tmp_path, capsys):
    assert demo.main([str(tmp_path / 'out'), '--num-train', '-1']) == 2
    assert 'the step make_synthetic failed with exit code 2' in capsys.readouterr().err


def test_last_checkpoint__the_one_that_the_run_names(tmp_path):
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_7.pth'))
    assert demo.last_checkpoint(tmp_path) == tmp_path / 'epoch_7.pth'


def test_last_checkpoint__a_run_without_one(tmp_path):
    with pytest.raises(ValueError, match=f'no last_checkpoint in {tmp_path}: the training wrote'):
        demo.last_checkpoint(tmp_path)


def test_make_project__another_size_does_not_meet_older_images(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(demo.make_synthetic, 'main', lambda arguments: made.append(arguments) or 0)
    for seed in ('0', '1'):
        demo.make_project(demo.parse_args([str(tmp_path), '--seed', seed]))
    assert made[0][0] != made[1][0]
    assert made[1][0] in (tmp_path / 'config.py').read_text()
