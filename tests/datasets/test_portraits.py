"""Drawn portraits: exact mattes and colours, the same for the same seed, and no threshold finds the person."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS, DefaultScope

from mmext.datasets.synthetic import Portrait, generate_portrait
from mmext.datasets.synthetic.figures import draw_figure
from mmext.datasets.transforms.composite import composite
from mmext.tools.make_synthetic import main
from tests.one_message import one_error

CONFIGS = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets'


@pytest.fixture(scope='module')
def portraits() -> list[Portrait]:
    return [generate_portrait(np.random.default_rng(seed), (96, 80)) for seed in range(12)]


def test_matte__by_triangulation_before_black_and_white() -> None:
    """Two photos of one thing before two known backgrounds give its alpha and colours without any other knowledge."""
    figure = draw_figure(np.random.default_rng(3), (120, 90))
    alpha = figure.alpha.astype(np.float32) / 255
    black, white = (
        composite(figure.colours, np.full_like(figure.colours, level), alpha).astype(float)
        for level in (0, 255)
    )
    np.testing.assert_allclose(1 - (white - black).mean(-1) / 255, alpha, atol=1 / 255)
    solid = alpha > 0.5
    np.testing.assert_allclose(
        (black / alpha[..., None].clip(0.5))[solid], figure.colours[solid], atol=1.1
    )


def test_picture__is_the_foreground_over_something(portraits: list[Portrait]) -> None:
    for image, alpha, foreground in portraits:
        assert image.shape == foreground.shape == (96, 80, 3) and alpha.shape == (96, 80)
        assert image.dtype == alpha.dtype == foreground.dtype == np.uint8
        np.testing.assert_array_equal(image[alpha == 255], foreground[alpha == 255])
        # No background below 0 or above 255 can explain more.
        share = alpha[..., None] / 255
        rest = image - share * foreground
        assert (rest > -1).all() and (rest < 255 * (1 - share) + 1).all()


def test_picture__has_a_person_with_soft_edges(portraits: list[Portrait]) -> None:
    for portrait in portraits:
        alpha = portrait.alpha
        assert 0.08 < (alpha > 127).mean() < 0.8
        assert 0.02 < ((alpha > 10) & (alpha < 245)).mean() < 0.4


def test_picture__no_threshold_finds_the_person(portraits: list[Portrait]) -> None:
    """Even the best threshold of the best channel, chosen with the truth at hand for each picture."""
    best = []
    for portrait in portraits:
        truth = portrait.alpha > 127
        planes = [
            *cv2.split(portrait.image),
            *cv2.split(cv2.cvtColor(portrait.image, cv2.COLOR_BGR2HSV)),
            cv2.cvtColor(portrait.image, cv2.COLOR_BGR2GRAY),
        ]
        found = [
            mask
            for plane in planes
            for level in range(8, 256, 8)
            for mask in (plane < level, plane >= level)
        ]
        best.append(max((mask & truth).sum() / (mask | truth).sum() for mask in found))
    assert np.mean(best) < 0.75


def test_command__same_seed_same_files(tmp_path: Path) -> None:
    for name, seed in (('a', '1'), ('b', '1'), ('c', '2')):
        arguments = ['--num-train', '3', '--num-val', '1', '--size', '64', '--seed', seed]
        assert main([str(tmp_path / name), '--preset', 'portraits', *arguments]) == 0
    files = sorted(path.relative_to(tmp_path / 'a') for path in (tmp_path / 'a').rglob('*.*'))
    assert len(files) == 3 * 4 + 2
    assert all(
        (tmp_path / 'a' / f).read_bytes() == (tmp_path / 'b' / f).read_bytes() for f in files
    )
    image = Path('images') / 'train_00000.png'
    assert (tmp_path / 'a' / image).read_bytes() != (tmp_path / 'c' / image).read_bytes()
    assert (tmp_path / 'a' / 'val.txt').read_text() == 'val_00000.png\n'


def test_command__bad_arguments_and_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path), '--preset', 'portraits', '--num-train', '1', '--num-val', '0']
    assert main([*arguments, '--size', '64', '--objects', '3']) == 2
    assert '--objects, --object-scale and --semantic are for defects' in one_error(capsys)
    assert main([*arguments, '--size', '20']) == 2
    assert 'size 20' in one_error(capsys)
    assert main([*arguments, '--size', '64']) == 0
    capsys.readouterr()
    assert main([*arguments, '--size', '64']) == 2
    assert 'is not empty' in one_error(capsys)
    assert main([*arguments, '--size', '64', '--overwrite']) == 0
    capsys.readouterr()
    (tmp_path / 'alpha' / 'mine.png').write_bytes(b'precious')
    assert main([*arguments, '--size', '64', '--overwrite']) == 2
    assert 'mine.png' in one_error(capsys)
    assert (tmp_path / 'alpha' / 'mine.png').read_bytes() == b'precious'


def check_views(sample: dict, side: int) -> None:
    """Four views: two sizes, each as it is and mirrored; the truth is that of the file in all of them."""
    small, mirrored, large, _ = sample['inputs']
    assert [max(view.shape) for view in sample['inputs']] == [
        side,
        side,
        side * 5 // 4,
        side * 5 // 4,
    ]
    assert torch.equal(mirrored, small.flip(2)) and not torch.equal(mirrored, small)
    assert large.shape[1] > small.shape[1]
    for view in sample['data_samples']:
        assert torch.equal(view.gt_alpha.data, sample['data_samples'][0].gt_alpha.data)
        assert view.gt_alpha.shape == view.ori_shape


@pytest.mark.parametrize('name', ['portraits', 'person_parsing'])
def test_config__every_pipeline_makes_batches(name: str, tmp_path: Path) -> None:
    out = tmp_path / 'data'
    arguments = ['--num-train', '2', '--num-val', '2', '--size', '64']
    assert main([str(out), '--preset', 'portraits', *arguments]) == 0
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    pipelines = [key for key in cfg if 'pipeline' in key]
    assert len(pipelines) >= 6
    with DefaultScope.overwrite_default_scope('mmseg'):
        for key in pipelines:
            loader = cfg.train_dataloader if 'train' in key else cfg.val_dataloader
            settings = loader.dataset.to_dict() | {'data_root': f'{out}/', 'pipeline': cfg[key]}
            sample = DATASETS.build(settings)[1]
            side = 512 if '512' in key else 256
            if 'tta' in key:
                check_views(sample, side)
                continue
            truth = sample['data_samples'].gt_alpha.data
            assert max(sample['inputs'].shape) <= side
            if 'train' in key:
                assert truth.shape[1:] == sample['inputs'].shape[1:]
            else:
                assert max(sample['inputs'].shape) == side
                assert truth.shape[1:] == sample['data_samples'].ori_shape
            assert default_collate([sample])['inputs'].shape[0] == 1
