"""The launch scripts, with stand-ins for python, srun and scontrol that print what they are given."""

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
# Each argument on a line of its own, so that one with a space shows as one.
ECHO = '#!/usr/bin/env bash\nprintf "%s\\n" "threads=${OMP_NUM_THREADS:-}" "$@"\n'
# Runs what it would run on a node, as Slurm does: everything from the first `bash`.
SRUN = (
    '#!/usr/bin/env bash\nwhile [ "$1" != bash ]; do printf "%s\\n" "$1"; shift; done\nexec "$@"\n'
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name, text in dict(python=ECHO, srun=SRUN, scontrol='#!/bin/sh\necho node7\n').items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)

    def script(name, *arguments, **variables):
        return subprocess.run(
            ['bash', str(TOOLS / name), *arguments],
            capture_output=True,
            text=True,
            env=os.environ | variables,
        )

    return script


@pytest.mark.parametrize('name', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_script__too_few_arguments_show_the_usage(run, name):
    result = run(name, 'config.py')
    assert result.returncode == 2
    assert 'usage:' in result.stderr


def test_dist_train__options_arrive_whole(run):
    lines = run('dist_train.sh', 'my config.py', '2', '--work-dir', 'a b').stdout.splitlines()
    start = lines.index('mmext.tools.train')
    assert lines[start + 1 :] == ['my config.py', '--launcher', 'pytorch', '--work-dir', 'a b']
    assert lines[lines.index('--nproc-per-node') + 1] == '2'


def test_dist_test__checkpoint_and_several_machines(run):
    result = run(
        'dist_test.sh', 'c.py', 'c.pth', '1', NNODES='3', NODE_RANK='2', MASTER_ADDR='host'
    )
    lines = result.stdout.splitlines()
    start = lines.index('mmext.tools.test')
    assert lines[start + 1 :] == ['c.py', 'c.pth', '--launcher', 'pytorch']
    for option, value in (('--nnodes', '3'), ('--node-rank', '2'), ('--master-addr', 'host')):
        assert lines[lines.index(option) + 1] == value


def test_dist_train__processes_share_the_cores(run):
    cores = os.sysconf('SC_NPROCESSORS_ONLN')
    assert f'threads={max(cores // 2, 1)}' in run('dist_train.sh', 'c.py', '2').stdout.splitlines()
    kept = run('dist_train.sh', 'c.py', '2', OMP_NUM_THREADS='7').stdout.splitlines()
    assert 'threads=7' in kept


def test_slurm_train__one_torchrun_a_node(run):
    variables = dict(SLURM_NNODES='2', SLURM_NODEID='1', SLURM_JOB_NODELIST='node[7-8]')
    result = run(
        'slurm_train.sh', 'gpu', 'job', 'c.py', '--amp', NODES='2', GPUS_PER_NODE='4', **variables
    )
    lines = result.stdout.splitlines()
    assert {'--nodes=2', '--ntasks-per-node=1', '--gres=gpu:4'} <= set(lines)
    for option, value in (('--nnodes', '2'), ('--node-rank', '1'), ('--master-addr', 'node7')):
        assert lines[lines.index(option) + 1] == value
    start = lines.index('mmext.tools.train')
    assert lines[start + 1 :] == ['c.py', '--amp', '--launcher', 'pytorch']
