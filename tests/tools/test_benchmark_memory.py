"""The memory benchmark: its variants, its ground truth, one run, and its answers to mistakes."""

import pytest
from mmengine.config import Config

from mmext.tools import benchmark_memory
from mmext.tools.benchmark_memory import make_truth, read_variants, replace_mask_loss
from tests.tiny import tiny_model, tiny_segment_model


def write_config(folder, model):
    path = folder / 'tiny.py'
    Config(dict(default_scope='mmdet', model=model)).dump(path)
    return str(path)


def test_replace_mask_loss__however_deep():
    loss = dict(type='mmext.DenseMaskLoss', max_positives=5)
    nested = dict(bbox_head=dict(type='X', segment=tiny_segment_model()['bbox_head'], parts=[1]))
    assert replace_mask_loss(nested, loss)
    assert nested['bbox_head']['segment']['loss_mask'] == loss
    assert nested['bbox_head']['segment']['loss_cls']['type'] == 'CrossEntropyLoss'


def test_read_variants__every_mask_loss_with_and_without_a_cap(tmp_path):
    config = write_config(tmp_path, tiny_segment_model())
    args = benchmark_memory.parse_args([config, '--mask-losses', '--max-positives', '7'])
    losses = [own.read().model.bbox_head.loss_mask for own in read_variants(args)]
    kinds = [(own.type, own.get('max_positives')) for own in losses]
    assert kinds == [
        ('mmext.PointMaskLoss', None),
        ('mmext.PointMaskLoss', 7),
        ('mmext.DenseMaskLoss', None),
        ('mmext.DenseMaskLoss', 7),
    ]


@pytest.mark.parametrize('num', [0, 1, 30])
def test_make_truth__boxes_hold_their_discs(num):
    instances = make_truth(num, 256).gt_instances
    boxes, masks = instances.bboxes.tensor, instances.masks.masks
    assert masks.shape == (num, 256, 256)
    for (x1, y1, x2, y2), mask in zip(boxes.int().tolist(), masks, strict=True):
        assert 0 <= x1 < x2 <= 256 and 0 <= y1 < y2 <= 256
        # An ellipse fills pi / 4 of its box.
        assert mask[y1:y2, x1:x2].mean() == pytest.approx(0.785, abs=0.03)
        assert mask.sum() == mask[y1:y2, x1:x2].sum()


@pytest.mark.slow
def test_main__table(tmp_path, capsys):
    config = write_config(tmp_path, tiny_segment_model())
    out = tmp_path / 'a.md'
    assert (
        benchmark_memory.main([config, '--objects', '0,20', '--size', '128', '--out', str(out)])
        == 0
    )
    printed = capsys.readouterr().out
    assert printed.endswith(out.read_text())  # after the log
    name, none, some = out.read_text().splitlines()[2].strip('| ').split(' | ')
    assert name == 'tiny'
    assert 0 < int(none) <= int(some) < 500


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--objects', '1,many'], "--objects: got '1,many'"),
        (['--mask-losses'], 'without a `loss_mask` of mmext'),
    ],
    ids=['numbers', 'no mask loss'],
)
def test_main__a_mistake_is_one_message(tmp_path, arguments, message, capsys):
    config = write_config(tmp_path, tiny_model())
    assert benchmark_memory.main([config, *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert 'Traceback' not in errors
