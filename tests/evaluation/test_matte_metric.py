"""`MatteMetric` as mmengine's evaluator uses it."""

import csv

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import mmext.evaluation.matte_metric as matte_metric
from mmext.evaluation import MatteMetric
from mmext.evaluation.matte_scores import MatteScorer
from mmext.registry import METRICS
from tests.evaluation.test_mattes import disc, smooth


def plane(matte, dtype=torch.float32):
    return PixelData(data=torch.as_tensor(matte)[None].to(dtype))


def sample(prediction, truth, *, path='a/1.png', valid=None, dtype=torch.float32):
    made = SegDataSample(metainfo=dict(img_path=path))
    made.pred_alpha, made.gt_alpha = plane(prediction, dtype), plane(truth)
    if valid is not None:
        made.gt_valid = plane(valid, torch.bool)
    return made


def evaluate(samples, **arguments):
    evaluator = Evaluator(MatteMetric(**arguments))
    evaluator.process(samples[:1])
    evaluator.process(samples[1:])
    return evaluator.evaluate(len(samples))


def test_metric__gives_the_scores_of_the_arrays():
    valid = smooth(5) > 0.3
    samples = [sample(smooth(1), smooth(2)), sample(smooth(3), smooth(4), valid=valid)]
    scorer = MatteScorer()
    images = [
        scorer.score('', smooth(1), smooth(2)),
        scorer.score('', smooth(3), smooth(4), valid=valid),
    ]
    expected = {f'matte/{name}': value for name, value in scorer.summarise(images).items()}
    assert evaluate(samples) == pytest.approx(expected)


def test_metric__is_registered_and_takes_plain_tensors():
    metric = METRICS.build(dict(type='mmext.MatteMetric', measures='region'))
    alpha = torch.from_numpy(smooth(1))[None]
    metric.process(None, [dict(pred_alpha=alpha, gt_alpha=alpha)])
    assert metric.evaluate(1)['matte/IoU'] == 1


def test_metric__half_precision_predictions_are_read():
    alpha = np.float32([[0, 0.5, 1]])
    scores = evaluate([sample(alpha, alpha, dtype=torch.bfloat16)] * 2, measures='error')
    assert scores['matte/SAD_k'] == 0


def test_metric__two_classes_of_mmseg_count_as_an_alpha():
    logits = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0))
    made = SegDataSample(metainfo=dict(img_path='a.png'))
    made.seg_logits, made.gt_alpha = PixelData(data=logits), plane(np.zeros((6, 7), np.float32))
    scores = evaluate([made] * 2, measures='error')
    assert scores['matte/MAD_x1e3'] == pytest.approx(1000 * logits.softmax(0)[1].mean().item())


def test_metric__frames_of_a_folder_are_a_clip():
    zero, half = np.zeros((4, 4), np.float32), np.full((4, 4), 0.5, np.float32)
    frames = [sample(own, zero, path=f'{p}.png') for own, p in ((zero, 'a/1'), (half, 'a/2'))]
    frames.append(sample(zero, zero, path='b/1.png'))
    assert evaluate(frames, measures='dtssd') == pytest.approx({'matte/dtSSD_x1e2': 50})


def test_metric__an_evaluation_does_not_follow_the_one_before():
    alphas = [np.full((4, 4), value, np.float32) for value in (0, 0.5)]
    frames = [sample(own, alphas[0], path=f'a/{p}.png') for p, own in enumerate(alphas)]
    evaluator = Evaluator(MatteMetric('dtssd'))
    for _ in range(2):  # epochs of validation
        evaluator.process(frames)
        assert evaluator.evaluate(2) == pytest.approx({'matte/dtSSD_x1e2': 50})


def test_metric__table_of_images_begins_with_the_worst(tmp_path):
    truth = disc(20)
    samples = [
        sample(prediction, truth, path=path)
        for path, prediction in (('a/1.png', disc(18)), ('b/1.png', disc(9)), ('c.png', truth))
    ]
    path = tmp_path / 'new' / 'images.csv'
    scores = evaluate(samples, measures=['region', 'error'], table=str(path))
    with open(path, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [row['image'] for row in rows] == ['b/1.png', 'a/1.png', 'c.png']
    assert float(rows[2]['IoU']) == 1 and float(rows[2]['SAD_k']) == 0
    for name in ('IoU', 'precision'):
        mean = np.mean([float(row[name]) for row in rows])
        assert mean == pytest.approx(scores[f'matte/{name}_per_image'], rel=1e-5)
    # Without regions the error tells, and of it more is worse.
    evaluate(samples, measures='error', table=str(path))
    assert [line.split(',')[0] for line in path.read_text().splitlines()[1:]] == [
        row['image'] for row in rows
    ]


def test_metric__table_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"got 'images.xlsx', expected .* ending in \.csv"):
        MatteMetric(table='images.xlsx')


def test_metric__an_image_without_known_truth_is_left_out_and_named(capsys):
    nothing = np.zeros((26, 31), bool)
    samples = [sample(smooth(1), smooth(1)), sample(smooth(2), smooth(1), valid=nothing, path='b')]
    assert evaluate(samples, measures='region')['matte/IoU_per_image'] == 1
    assert 'b is not scored' in ''.join(capsys.readouterr())


def test_metric__lpips_without_files_is_skipped_and_said_once(capsys):
    scores = evaluate([sample(smooth(1), smooth(2))] * 2, measures=['error', 'lpips'])
    assert 'matte/SAD_k' in scores and 'matte/LPIPS' not in scores
    assert ''.join(capsys.readouterr()).count('LPIPS is skipped') == 1


def test_metric__flicker_on_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(matte_metric, 'get_world_size', lambda: 2)
    with pytest.raises(ValueError, match='Test on one'):
        MatteMetric('dtssd').process(None, [])


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (dict(pred_alpha=None), 'a.png has no pred_alpha'),
        (dict(gt_alpha=None), 'a.png has no gt_alpha'),
        (dict(pred_alpha=torch.zeros(1, 3, 4)), 'a.png: got a prediction of 4 x 3 pixels'),
        (dict(pred_alpha=torch.full((1, 4, 4), torch.nan)), 'alphas from nan'),
        (dict(pred_alpha=None, seg_logits=torch.zeros(3, 4, 4)), 'expected two classes'),
    ],
    ids=['no-prediction', 'no-truth', 'size', 'nan', 'three-classes'],
)
def test_metric__says_what_is_wrong_with_a_sample(changed, message):
    fields = dict(img_path='a.png', pred_alpha=torch.zeros(1, 4, 4), gt_alpha=torch.zeros(1, 4, 4))
    fields |= changed
    fields = {name: value for name, value in fields.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        MatteMetric().process(None, [fields])


def test_metric__without_an_image_says_so():
    with pytest.raises(ValueError, match='no image to score'):
        MatteMetric().compute_metrics([])
