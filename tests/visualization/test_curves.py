"""Reading scalars and drawing curves."""

import json

import cv2
import pytest

from mmext.visualization import plot_curves, read_scalars

ROWS = [
    dict(loss=3.0, loss_cls=2.0, lr=0.1, step=1),
    dict(loss=2.0, loss_cls=1.0, lr=0.2, step=2),
    {'coco/segm_mAP_50': 0.5, 'step': 2},
]


def write(path, rows, tail=''):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows) + tail)
    return path


def test_read_scalars__forgives_the_cut_last_line_of_a_killed_run(tmp_path):
    assert read_scalars(write(tmp_path / 's.json', ROWS, '{"loss": 1')) == ROWS


def test_read_scalars__refuses_other_damage(tmp_path):
    with pytest.raises(ValueError, match='line 1 is no JSON'):
        read_scalars(write(tmp_path / 's.json', [], '{"loss\n{}\n'))


def test_read_scalars__missing_file_says_what_to_set(tmp_path):
    with pytest.raises(ValueError, match='LocalVisBackend'):
        read_scalars(tmp_path / 'none.json')


def test_plot_curves__writes_a_picture_with_ink(tmp_path):
    out_file = tmp_path / 'deep' / 'curves.png'
    plot_curves(write(tmp_path / 's.json', ROWS), out_file)
    assert cv2.imread(str(out_file)).std() > 5


def test_plot_curves__draws_no_line_for_each_class(tmp_path):
    more = [*ROWS[:2], ROWS[2] | {'coco/segm_Crack_mAP_50': 0.1, 'coco/segm_mAP': 0.3}]
    pictures = [tmp_path / 'one.png', tmp_path / 'two.png']
    for rows, picture in zip((ROWS, more), pictures, strict=True):
        plot_curves(write(tmp_path / 's.json', rows), picture)
    assert (cv2.imread(str(pictures[0])) == cv2.imread(str(pictures[1]))).all()
