"""Scores of mattes against slow references, torchmetrics and scikit-image."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity as reference_ssim
from torchmetrics.functional import classification as reference

from mmext.evaluation.matte_errors import (
    connectivity_error,
    flicker,
    gradient_errors,
    structural_similarity,
)
from mmext.evaluation.matte_regions import (
    Counts,
    count,
    count_bands,
    edge_distance,
    outcomes,
    outline_score,
)
from mmext.evaluation.matte_scores import METRICS, MatteScorer
from tests.evaluation import slow_mattes

OFFLINE = tuple(name for name in METRICS if name != 'lpips')


def smooth(seed, size=(26, 31)):
    """A matte with opaque, empty and soft parts."""
    noise = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return np.clip(0.5 + 3 * cv2.GaussianBlur(noise, (0, 0), 3), 0, 1)


def disc(radius, size=64, centre=32):
    rows, columns = np.mgrid[:size, :size]
    return (np.hypot(rows - centre, columns - centre) <= radius).astype(np.float32)


CONSTANTS = [(a, b) for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0)]


@pytest.mark.parametrize('seed', range(3))
def test_gradient__equals_slow_reference(seed):
    prediction, truth = smooth(seed), smooth(seed + 10)
    expected = slow_mattes.gradient_errors(prediction, truth)
    assert gradient_errors(prediction, truth) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_connectivity__equals_slow_reference(seed):
    prediction, truth = smooth(seed), smooth(seed) * 0.8 + 0.2 * smooth(seed + 10)
    # A second part, smaller than the first: connected to nothing.
    truth[:3, :3] = prediction[:3, :3] = 1
    expected = slow_mattes.connectivity_error(prediction, truth)
    assert expected > 1
    assert connectivity_error(prediction, truth) == pytest.approx(expected, rel=1e-6)


def test_connectivity__alphas_on_a_threshold_reach_it():
    matte = np.float32(np.linspace(0, 1, 11))[None].repeat(4, axis=0)
    prediction = matte[:, ::-1].copy()
    expected = slow_mattes.connectivity_error(prediction, matte)
    assert connectivity_error(prediction, matte) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('size', [(26, 31), (11, 12), (40, 64)], ids=str)
def test_ssim__equals_scikit_image(size):
    prediction, truth = smooth(1, size), smooth(2, size)
    expected = reference_ssim(
        truth.astype(np.float64),
        prediction.astype(np.float64),
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert structural_similarity(prediction, truth) == pytest.approx(expected, abs=1e-9)


def test_flicker__by_hand():
    before = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)
    after = np.float32([[1, 0], [0.5, 0]]), np.float32([[0, 0], [0.5, 0]])
    assert flicker(before, after) == pytest.approx(math.sqrt(1 / 4))
    # What is wrong in the same way in both frames does not flicker.
    wrong = np.float32([[0.3, 0.3], [0.3, 0.3]])
    assert flicker((wrong, before[1]), (wrong + after[1], after[1])) == pytest.approx(0, abs=1e-7)


def test_counts__equal_torchmetrics():
    prediction, truth = smooth(1), smooth(2)
    own = count(outcomes(prediction, truth)).scores()
    pair = torch.from_numpy(prediction), torch.from_numpy((truth > 0.5).astype(np.int64))
    expected = dict(
        IoU=reference.binary_jaccard_index(*pair),
        Dice=reference.binary_f1_score(*pair),
        accuracy=reference.binary_accuracy(*pair),
        sensitivity=reference.binary_recall(*pair),
        specificity=reference.binary_specificity(*pair),
        precision=reference.binary_precision(*pair),
        F1=reference.binary_f1_score(*pair),
    )
    assert own == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-6)
    assert own['Dice'] == pytest.approx(2 * own['IoU'] / (1 + own['IoU']))


@pytest.mark.parametrize(
    ('counts', 'expected'),
    [
        (Counts(0, 0, 0, 9), (1, 1, 1, 1)),  # both empty
        (Counts(9, 0, 0, 0), (1, 1, 1, 1)),  # both full
        (Counts(0, 4, 0, 5), (0, 0, 5 / 9, 0)),  # found where nothing is
        (Counts(0, 0, 4, 5), (0, 0, 1, 0)),  # found nothing
        (Counts(0, 0, 0, 0), (1, 1, 1, 1)),
    ],
    ids=['empty', 'full', 'false', 'missed', 'nothing'],
)
def test_counts__undefined_shares_are_1_only_without_an_error(counts, expected):
    scores = counts.scores()
    names = ('IoU', 'sensitivity', 'specificity', 'precision')
    assert [scores[name] for name in names] == pytest.approx(expected)


@pytest.mark.parametrize('seed', range(2))
def test_bands__equal_slow_reference(seed):
    truth, prediction = smooth(seed), smooth(seed + 10)
    truth = np.clip(3 * truth - 1, 0, 1)
    outcome, distance = outcomes(prediction, truth), edge_distance(truth)
    radii = (1, 2, 5)
    valid = smooth(seed + 20) > 0.2
    for own, radius in zip(count_bands(outcome, distance, radii, valid), radii, strict=True):
        band = slow_mattes.unknown(truth, radius) & valid
        assert 0 < band.sum() < valid.sum()
        assert own == count(outcome[band])


def test_bands__of_a_hard_mask_are_as_wide_as_the_radius_on_each_side():
    truth = np.zeros((1, 40), np.float32)
    truth[:, 20:] = 1
    distance = edge_distance(truth)
    assert [(distance <= radius).sum() for radius in (1, 3, 10)] == [2, 6, 20]


@pytest.mark.parametrize('value', [0.0, 1.0])
def test_bands__a_constant_has_none(value):
    truth = np.full((9, 9), value, np.float32)
    bands = count_bands(outcomes(truth, truth), edge_distance(truth), (1, 20))
    assert bands == [Counts(0, 0, 0, 0)] * 2


@pytest.mark.parametrize(
    ('radius', 'expected'), [(20, 1.0), (21, 1.0), (27, 0.0), (0, None)], ids=str
)
def test_outline__is_near_or_not(radius, expected):
    truth = disc(20) > 0.5
    # The diagonal of 64 x 64 times 0.008 rounds up to one pixel.
    score = outline_score(disc(radius) > 0.5, truth)
    if expected is None:  # one pixel in the middle
        assert score == 0
    else:
        assert score == pytest.approx(expected)


def test_outline__equals_a_slow_reference():
    prediction, truth = smooth(1) > 0.5, smooth(2) > 0.5
    outlines = []
    for mask in (prediction, truth):
        points = []
        for row, column in np.argwhere(mask):
            near = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
            inside = [p for p in near if 0 <= p[0] < mask.shape[0] and 0 <= p[1] < mask.shape[1]]
            if any(not mask[p] for p in inside):
                points.append((row, column))
        outlines.append(np.array(points))
    distances = np.linalg.norm(outlines[0][:, None] - outlines[1][None], axis=2)
    precision, recall = (distances.min(1) <= 2).mean(), (distances.min(0) <= 2).mean()
    own = outline_score(prediction, truth, tolerance=2 / math.hypot(*truth.shape))
    assert 0 < own < 1
    assert own == pytest.approx(2 * precision * recall / (precision + recall))


def test_outline__the_frame_of_the_image_is_none():
    assert outline_score(np.ones((8, 8), bool), np.ones((8, 8), bool)) == 1
    assert outline_score(np.ones((8, 8), bool), disc(2, 8, 4) > 0.5) == 0


@pytest.mark.parametrize('constants', CONSTANTS, ids=str)
@pytest.mark.parametrize('size', [(1, 1), (5, 70), (32, 32)], ids=str)
def test_scorer__constant_mattes_give_finite_numbers(constants, size):
    scorer = MatteScorer(OFFLINE)
    prediction, truth = (np.full(size, value, np.float32) for value in constants)
    images = [scorer.score(str(n), prediction, truth, clip='clip') for n in range(2)]
    summary = scorer.summarise(images)
    assert all(math.isfinite(value) for value in summary.values()), summary
    assert all(math.isfinite(value) for value in scorer.row(images[1]).values())
    if constants[0] == constants[1]:
        assert all(value in (0, pytest.approx(1)) for value in summary.values())


def test_scorer__errors_by_hand_and_their_scales():
    truth = np.zeros((50, 40), np.float32)
    truth[:, 20:] = 1
    prediction = truth.copy()
    prediction[:, 22] = 0.25  # 3 columns from the edge
    prediction[:, 0] = 0.5  # far from it
    scorer = MatteScorer('error', unknown_radius=3)
    summary = scorer.summarise([scorer.score('a', prediction, truth)])
    assert summary == pytest.approx(
        dict(
            SAD_k=50 * (0.75 + 0.5) / 1000,
            SAD_T_k=50 * 0.75 / 1000,
            MAD_x1e3=1000 * (0.75 + 0.5) / 40,
            MSE_x1e3=1000 * (0.75**2 + 0.5**2) / 40,
        )
    )


def test_scorer__sums_counts_over_the_data_set_and_averages_images():
    scorer = MatteScorer('region')
    small, large = disc(5), disc(25)
    images = [scorer.score('small', 0 * small, small), scorer.score('large', large, large)]
    summary = scorer.summarise(images)
    assert summary['IoU'] == pytest.approx(large.sum() / (large.sum() + small.sum()))
    assert summary['IoU_per_image'] == pytest.approx(0.5)


def test_scorer__unknown_pixels_do_not_count():
    truth, prediction, valid = smooth(1), smooth(2), np.ones((26, 31), bool)
    valid[:, 15:] = False
    scorer = MatteScorer(OFFLINE)
    truth[~valid] = 0.25
    first = scorer.row(scorer.score('a', prediction, truth, valid=valid))
    prediction[~valid] = 1 - prediction[~valid]
    # Sums of the gradient in single precision come in another order.
    assert scorer.row(scorer.score('a', prediction, truth, valid=valid)) == pytest.approx(
        first, rel=1e-6, nan_ok=True
    )
    cut = scorer.row(scorer.score('a', prediction[:, :15], truth[:, :15]))
    for name in ('IoU', 'specificity', 'SAD_k', 'MAD_x1e3', 'MSE_x1e3'):
        assert first[name] == pytest.approx(cut[name])


def test_scorer__flicker_is_averaged_over_frames_then_clips():
    scorer = MatteScorer('dtssd')
    zero, half = np.zeros((4, 4), np.float32), np.full((4, 4), 0.5, np.float32)
    frames = [('a', zero), ('a', half), ('a', half), ('b', zero), ('b', half)]
    images = [scorer.score(str(n), own, zero, clip=clip) for n, (clip, own) in enumerate(frames)]
    # In a 50 and 0, in b 50; from a to b nothing.
    assert scorer.summarise(images) == pytest.approx(dict(dtSSD_x1e2=(25 + 50) / 2))


def test_scorer__names_are_as_documented():
    scorer = MatteScorer(OFFLINE, trimap_radii=(7,))
    summary = scorer.summarise([scorer.score('a', smooth(1), smooth(2), clip='c')] * 2)
    regions = 'IoU Dice accuracy sensitivity specificity precision F1'.split()
    names = [*regions, *(f'{name}_per_image' for name in regions)]
    names += ['trimap_accuracy_7px', 'trimap_IoU_7px']
    names += 'SAD_k SAD_T_k MAD_x1e3 MSE_x1e3 Grad_k Grad_l1_k Conn_k SSIM boundary_F'.split()
    assert list(summary) == names


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(metrics=['mIoU']), 'expected some of'),
        (dict(metrics=[]), 'expected some of'),
        (dict(threshold=1.0), 'threshold=1.0'),
        (dict(trimap_radii=(0, 3)), 'at least 1'),
        (dict(unknown_radius=0), 'at least 1'),
        (dict(metrics='lpips', lpips_files=dict(backbone='a')), '`backbone` and `linear`'),
    ],
    ids=['unknown', 'none', 'threshold', 'radius', 'unknown-radius', 'lpips'],
)
def test_scorer__refuses_impossible_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        MatteScorer(**arguments)


@pytest.mark.parametrize(
    ('prediction', 'message'),
    [
        (np.zeros((4, 6)), 'a.png: got a prediction of 6 x 4 pixels, expected 6 x 5'),
        (np.full((5, 6), 255), 'alphas from 255.0'),
        (np.full((5, 6), np.nan), 'alphas from nan'),
        (np.full((5, 6), -0.1), 'alphas from -0.1'),
        (np.zeros((5, 6, 3)), 'shape'),
        (np.zeros((0, 6)), 'shape'),
    ],
    ids=['size', '255', 'nan', 'negative', 'colour', 'no-pixels'],
)
def test_scorer__refuses_what_is_no_matte(prediction, message):
    with pytest.raises(ValueError, match=message):
        MatteScorer().score('a.png', prediction, np.zeros((5, 6)))


@pytest.mark.data
def test_scorer__real_mattes_against_the_slow_reference():
    paths = sorted((Path(os.environ['MMEXT_DATA']) / 'matting' / 'alpha').glob('*.png'))
    assert len(paths) == 9
    scorer = MatteScorer(OFFLINE)
    for path in paths:
        truth = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (60, 80))
        truth = truth / np.float32(255)
        prediction = np.clip(cv2.GaussianBlur(truth, (0, 0), 2) + 0.05, 0, 1)
        row = scorer.row(scorer.score(path.name, prediction, truth))
        squared, absolute = slow_mattes.gradient_errors(prediction, truth)
        expected = dict(
            Grad_k=squared / 1000,
            Grad_l1_k=absolute / 1000,
            Conn_k=slow_mattes.connectivity_error(prediction, truth) / 1000,
            SAD_k=abs(prediction.astype(np.float64) - truth).sum() / 1000,
        )
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6)
