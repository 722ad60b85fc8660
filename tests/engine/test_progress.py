"""ProgressBarHook: what a terminal sees, and that a file sees nothing."""

import io
from types import SimpleNamespace

import pytest
import torch

from mmext.engine import ProgressBarHook


class Terminal(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


def train(monkeypatch, *, is_terminal, done=0):
    """Four steps in two epochs, of which `done` were made before."""
    screen = Terminal(is_terminal)
    monkeypatch.setattr('sys.stderr', screen)
    hook = ProgressBarHook()
    runner = SimpleNamespace(max_iters=4, iter=done, epoch=done // 2, max_epochs=2)
    hook.before_train(runner)
    for step in range(done, 4):
        runner.epoch = step // 2
        if step % 2 == 0:
            hook.before_train_epoch(runner)
        hook.after_train_iter(runner, step % 2, outputs=dict(loss=torch.tensor(2.5)))
    hook.after_train(runner)
    return screen.getvalue()


@pytest.mark.parametrize('done', [0, 2], ids=['new', 'resumed'])
def test_progress__a_terminal_sees_epoch_steps_and_loss(monkeypatch, done):
    last = train(monkeypatch, is_terminal=True, done=done).split('\r')[-1]
    assert 'epoch 2/2: 100%' in last
    assert '4/4' in last
    assert 'loss=2.500' in last


def test_progress__a_file_sees_nothing(monkeypatch):
    assert train(monkeypatch, is_terminal=False) == ''
