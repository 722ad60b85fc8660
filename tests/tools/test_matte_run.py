"""Training and testing of the shipped matting configs through the tools, cut down to a few drawn photos."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmext.tools import test as test_tool
from mmext.tools import train

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'attn_unet'
LIGHT = CONFIGS / 'attn-unet_light_1xb8-150e_person-parsing-256x256.py'


def write_photos(root: Path, num_photos: int = 8) -> None:
    """Bright discs on dark noise, each of another size, with their masks."""
    rng = np.random.default_rng(0)
    for folder in ('images', 'alpha'):
        (root / folder).mkdir(parents=True)
    for index in range(num_photos):
        height, width = 60 + 4 * index, 90 - 3 * index
        image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        centre = (int(rng.integers(25, width - 25)), int(rng.integers(25, height - 25)))
        cv2.circle(mask, centre, int(rng.integers(12, 24)), 255, -1)
        image[mask > 0] += 150
        cv2.imwrite(str(root / 'images' / f'{index}.png'), image)
        cv2.imwrite(str(root / 'alpha' / f'{index}.png'), mask)
    names = ''.join(f'{index}.png\n' for index in range(num_photos))
    for split in ('train', 'val'):
        (root / f'{split}.txt').write_text(names)


def write_config(folder: Path, root: Path) -> Path:
    """The light recipe for two epochs of a few photos."""
    cfg = Config.fromfile(LIGHT)
    loader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=str(root)))
    cfg.merge_from_dict(
        {
            'train_dataloader': loader,
            'val_dataloader': loader,
            'test_dataloader': loader,
            'train_cfg': dict(max_epochs=2, val_interval=2),
            'default_hooks.checkpoint.interval': 2,
        }
    )
    path = folder / 'mattes.py'
    cfg.dump(path)
    return path


@pytest.mark.slow
def test_tools__train_test_draw_and_augment(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root, work = tmp_path / 'data', tmp_path / 'work'
    write_photos(root)
    config = write_config(tmp_path, root)
    assert train.main([str(config), '--work-dir', str(work), '--seed', '0']) == 0
    output = ''.join(capsys.readouterr())
    assert '8 pairs of image and alpha' in output
    (log,) = work.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert any('matte/IoU' in row for row in rows)

    pictures, table = tmp_path / 'pictures', tmp_path / 'images.csv'
    checkpoint = str(work / 'epoch_2.pth')
    common = [str(config), checkpoint, '--work-dir', str(tmp_path / 'test')]
    options = ['--show-dir', str(pictures), '--cfg-options', f'test_evaluator.table={table}']
    assert test_tool.main([*common, *options]) == 0
    assert len(list(pictures.glob('*.png'))) == 8
    # The table says which pictures to look at.
    with open(table, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    scores = [float(row['IoU']) for row in rows]
    assert scores == sorted(scores)
    assert {Path(row['image']).name for row in rows} == {path.name for path in pictures.iterdir()}
    # Photo, truth, prediction and cut-out, with gaps of 4 pixels.
    assert cv2.imread(str(pictures / '0.png')).shape == (60, 4 * 90 + 12, 3)
    assert test_tool.main([*common, '--tta']) == 0


@pytest.mark.slow
def test_train__stops_at_empty_masks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / 'data'
    write_photos(root)
    for path in (root / 'alpha').iterdir():
        cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)))
    config = write_config(tmp_path, root)
    assert train.main([str(config), '--work-dir', str(tmp_path / 'work')]) == 2
    assert 'empty' in capsys.readouterr().err


def spoil(root: Path, kind: str) -> None:
    """Make one pair of the data bad, or all of them."""
    image, alpha = root / 'images' / '3.png', root / 'alpha' / '3.png'
    if kind == 'size':
        cv2.imwrite(str(alpha), cv2.imread(str(alpha), cv2.IMREAD_GRAYSCALE)[:-1])
    elif kind == 'photo-for-mask':
        shutil.copy(image, alpha)
    elif kind == 'damaged-photo':
        image.write_bytes(image.read_bytes()[:500])
    elif kind == 'no-matte':
        alpha.unlink()
    else:
        for path in (root / 'alpha').iterdir():
            path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('kind', 'messages'),
    [
        ('size', ['alpha/3.png', '81 x 71 pixels', '81 x 72']),
        ('photo-for-mask', ['alpha/3.png', 'is a colour image, expected one channel']),
        ('damaged-photo', ['images/3.png', 'damaged']),
        ('no-matte', ['image without alpha file', 'images/3.png']),
        ('empty-folder', ['alpha', 'holds no image files']),
    ],
)
def test_train__bad_data_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture, kind: str, messages: list[str]
) -> None:
    root = tmp_path / 'data'
    write_photos(root)
    spoil(root, kind)
    config = write_config(tmp_path, root)
    assert train.main([str(config), '--work-dir', str(tmp_path / 'work')]) == 2
    error = capsys.readouterr().err.partition('error: ')[2]
    assert [text for text in messages if text not in error] == [], error
    assert 'Traceback' not in error


@pytest.mark.slow
def test_train__masks_of_any_kind_are_the_same_masks(tmp_path: Path) -> None:
    scores = []
    for mixed in (False, True):
        root = tmp_path / str(mixed)
        write_photos(root)
        for index, path in enumerate(sorted((root / 'alpha').iterdir()) if mixed else ()):
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            # Three channels, 16 bits, and 0 and 1.
            kinds = (np.dstack([mask] * 3), mask.astype(np.uint16) * 257, mask // 255)
            cv2.imwrite(str(path), kinds[index % 3])
        config, work = write_config(root, root), root / 'work'
        assert train.main([str(config), '--work-dir', str(work), '--seed', '0']) == 0
        (log,) = work.glob('*/vis_data/scalars.json')
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        scores.append([row['matte/SAD_k'] for row in rows if 'matte/SAD_k' in row])
    assert scores[0] and scores[0] == scores[1]
