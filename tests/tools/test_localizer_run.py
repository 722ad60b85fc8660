"""From CSV to submission: explore, split, train, score, predict, by the command lines."""

import copy
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mmext.datasets.localization_csv import Row, read_rows, write_rows
from mmext.datasets.report import Report
from mmext.tools import explore_dataset, plot_curves, predict, split_csv, test, train
from tests.systems import SYSTEMS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
NUM_PHOTOS = 32


def draw_photos(root: Path) -> None:
    """Squares and discs on noise, of which each photo has one, and `all.csv`."""
    rng = np.random.default_rng(0)
    rows = []
    (root / 'photos').mkdir(parents=True)
    for index in range(NUM_PHOTOS):
        photo = rng.integers(0, 60, (80, 100, 3), dtype=np.uint8)
        x, y, size = int(rng.integers(5, 50)), int(rng.integers(5, 30)), int(rng.integers(24, 40))
        if index % 2:
            cv2.rectangle(photo, (x, y), (x + size - 1, y + size - 1), (255, 255, 255), -1)
        else:
            centre = (x + size // 2, y + size // 2)
            cv2.circle(photo, centre, size // 2, (60, 160, 230), -1)
        name = f'{index:02d}.png'
        cv2.imwrite(str(root / 'photos' / name), photo)
        box = (float(x), float(y), float(x + size), float(y + size))
        rows.append((name, box, ('disc', 'square')[index % 2]))
    write_rows(root / 'all.csv', rows)


def tiny_run(root: Path, shipped: str) -> Config:
    """A shipped config, on the photos drawn here, with a narrow network and 64 px."""
    cfg = Config.fromfile(CONFIGS / 'localizer' / shipped)
    head, model = cfg.model.head, copy.deepcopy(SYSTEMS['localizer-votes'])
    if head.type == 'mmext.VoteHead':
        cfg.model.head = dict(model['head'], loss=head.loss)
    else:
        head.in_channels = 16
        model['backbone']['out_indices'] = (3,)
    cfg.model.head.num_classes = 2
    cfg.model.backbone = model['backbone']
    cfg.train_cfg.update(max_epochs=12, val_interval=4)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        file = 'train.csv' if split == 'train' else 'val.csv'
        data = dict(data_root=f'{root}/', ann_file=file, data_prefix=dict(img='photos/'))
        loader.dataset.update(data, metainfo=dict(classes=('disc', 'square')))
        loader.update(batch_size=8, num_workers=0, persistent_workers=False)
        for step in loader.dataset.pipeline:
            if step['type'] == 'mmdet.Resize':
                step['scale'] = (64, 64)
            elif step['type'] == 'RandomChoiceResize':
                step['scales'] = [(64, 64)]
            elif step['type'] == 'mmext.RandomAffine':
                step['size'] = (64, 64)
    return cfg


def test_readme__config_for_photos_of_ones_own(tmp_path):
    page = (CONFIGS / 'localizer' / 'README.md').read_text(encoding='utf-8')
    (text,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    path = tmp_path / 'mine.py'
    path.write_text(text.replace("['configs/", f"['{CONFIGS}/"))
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert MODELS.build(cfg.model).head.class_score[-1].out_features == 2
    for loader, name in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        settings = cfg[f'{loader}_dataloader'].dataset
        data = DATASETS.build({**settings, 'pipeline': [], 'lazy_init': True})
        assert (data.ann_file, data.data_prefix) == (f'data/mine/{name}.csv', dict(img='PHOTOS/'))
        assert data.metainfo['classes'] == ('cat', 'dog') and len(settings.pipeline) > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    'shipped',
    [
        'localizer-votes_csp-n_1xb32-37e_face-mask.py',
        'localizer-plain_cnn_1xb32-37e_face-mask.py',
    ],
)
def test_run__from_csv_to_submission(tmp_path, shipped, capsys):
    draw_photos(tmp_path)
    photos = ['--images', str(tmp_path / 'photos'), '--out', str(tmp_path / 'page.html')]
    assert explore_dataset.main([str(tmp_path / 'all.csv'), *photos]) == 0
    assert split_csv.main([str(tmp_path / 'all.csv'), str(tmp_path)]) == 0
    config, work = tmp_path / 'run.py', tmp_path / 'work'
    cfg = tiny_run(tmp_path, shipped)
    if 'votes' in shipped:
        cfg.param_scheduler = [dict(type='ConstantLR', factor=1.0)]
    cfg.dump(config)
    assert train.main([str(config), '--work-dir', str(work), '--seed', '0']) == 0
    (best,) = work.glob('best_localizer_IoU_epoch_*.pth')
    assert 'the model has the best weights again' in (next(work.glob('*/*.log'))).read_text()

    assert test.main([str(config), str(best), '--work-dir', str(tmp_path / 'scores')]) == 0
    (scores_file,) = (tmp_path / 'scores').glob('*/*.json')
    scores = json.loads(scores_file.read_text())
    assert 0 < scores['localizer/IoU'] <= 1

    submission, pictures = tmp_path / 'submission.csv', tmp_path / 'pictures'
    names = [row.filename for row in read_rows(tmp_path / 'val.csv', Report())[0]]
    inputs = [str(tmp_path / 'photos' / name) for name in names]
    options = ['--csv', str(submission), '--truth', str(tmp_path / 'val.csv')]
    arguments = [str(config), str(best), *inputs, '--out', str(pictures), *options]
    assert predict.main(arguments) == 0
    rows, _ = read_rows(submission, Report())
    assert [row.filename for row in rows] == names
    assert {row.category for row in rows} <= {'disc', 'square'}
    assert all(
        0 <= x1 < x2 <= 100 and 0 <= y1 < y2 <= 80 for x1, y1, x2, y2 in (r.box for r in rows)
    )
    assert sorted(path.name for path in pictures.glob('*.png')) == sorted(names)
    assert plot_curves.main([str(work)]) == 0 and (work / 'curves.png').is_file()
    predict_listed(tmp_path, [str(config), str(best)], rows)


def predict_listed(root: Path, model: list[str], rows: list[Row]) -> None:
    """Predict from a list of names: the same rows, in its order."""
    listed, submission = root / 'test.csv', root / 'second.csv'
    listed.write_text('filename\n' + ''.join(f'{row.filename}\n' for row in reversed(rows)))
    options = ['--images', str(root / 'photos'), '--csv', str(submission), '--no-pictures']
    assert predict.main([*model, str(listed), *options, '--out', str(root / 'results')]) == 0
    assert [row[1:] for row in read_rows(submission, Report())[0]] == [r[1:] for r in rows[::-1]]
