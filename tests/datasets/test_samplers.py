"""ClassBalancedSampler against hand arithmetic and counted epochs."""

from collections import Counter

import numpy as np
import pytest

from mmext.datasets.samplers import ClassBalancedSampler, image_weights


class Records:
    """A data set of labels alone."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def get_data_info(self, idx):
        return dict(instances=[dict(bbox_label=label, ignore_flag=0) for label in self.labels[idx]])


# Ten images of class 0, one of class 1, nine empty.
LABELS = [[0]] * 10 + [[1]] + [[]] * 9


def draw(epoch=0, **options):
    sampler = ClassBalancedSampler(Records(LABELS), seed=3, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_image_weights__hand_arithmetic():
    weights = image_weights([[0], [0], [0, 1], []], empty_fraction=0.25, power=1.0)
    # Class 0 has 3 images, class 1 one: the filled images weigh 1/3, 1/3, 1, of three quarters.
    np.testing.assert_allclose(weights, [0.15, 0.15, 0.45, 0.25])


@pytest.mark.parametrize('empty_fraction', [0.0, 0.2, 0.5, 1.0])
def test_sampler__share_of_empty_images(empty_fraction):
    drawn = draw(empty_fraction=empty_fraction, num_samples=200)
    num_empty = sum(not LABELS[i] for i in drawn)
    assert len(drawn) == 200
    assert abs(num_empty - 200 * empty_fraction) <= 1


def test_sampler__power_one_balances_the_classes():
    counts = Counter(LABELS[i][0] for i in draw(empty_fraction=0.0, power=1.0, num_samples=100))
    assert abs(counts[0] - counts[1]) <= 1


def test_sampler__power_zero_shows_every_image_equally_often():
    counts = Counter(draw(empty_fraction=0.0, power=0.0, num_samples=33))
    assert counts == {i: 3 for i in range(11)}


def test_sampler__default_epoch_is_as_long_as_the_images_with_objects_allow():
    assert len(draw(empty_fraction=0.5)) == 22


def test_sampler__another_order_each_epoch_and_the_same_for_a_seed():
    assert draw(epoch=1) == draw(epoch=1)
    assert draw(epoch=1) != draw(epoch=2)


def test_sampler__ranks_share_one_epoch(monkeypatch):
    whole = draw(num_samples=21)
    shares = []
    for rank in range(2):
        monkeypatch.setattr('mmext.datasets.samplers.get_dist_info', lambda rank=rank: (rank, 2))
        shares.append(draw(num_samples=21))
    assert len(shares[0]) == len(shares[1]) == 11
    # Dealt in turn; the odd one out is an image that comes twice.
    assert shares[0] == whole[0::2]
    assert shares[1][:10] == whole[1::2]


def test_sampler__all_images_empty():
    sampler = ClassBalancedSampler(Records([[], []]), seed=0)
    assert sorted(sampler) == [0, 1]


@pytest.mark.parametrize(
    'options',
    [dict(empty_fraction=1.5), dict(power=-1), dict(num_samples=0)],
    ids=['share', 'power', 'length'],
)
def test_sampler__refuses_values_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ClassBalancedSampler(Records(LABELS), **options)


def test_sampler__ignored_objects_do_not_count():
    class Crowded(Records):
        def get_data_info(self, idx):
            return dict(instances=[dict(bbox_label=0, ignore_flag=idx)])

    sampler = ClassBalancedSampler(Crowded([[0], [0]]), empty_fraction=0.0, seed=0)
    assert list(sampler) == [0]
