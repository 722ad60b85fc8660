"""InEpochs: in the process, in workers that live on, in copies of a pipeline."""

import copy
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmdet.datasets import MultiImageMixDataset
from mmengine.dataset import BaseDataset
from torch.utils.data import DataLoader

from mmext.datasets.transforms import InEpochs
from mmext.engine.hooks.epoch_windows import pipeline_steps


class Mark(BaseTransform):
    """Says in the sample that it ran."""

    def __init__(self, name: str = 'ran') -> None:
        self.name = name

    def transform(self, results: dict) -> dict:
        return {**results, self.name: True}


class AskPartner(Mark):
    def get_indexes(self, dataset) -> list[int]:
        return [3]

    def transform(self, results: dict) -> dict:
        return {**results, 'partners': [other['number'] for other in results['mix_results']]}


class Numbers(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [{'number': number} for number in range(4)]


def runs_in(window: InEpochs, num_epochs: int) -> list[int]:
    """The epochs in which the transforms of the window run."""
    found = []
    for epoch in range(num_epochs):
        window.set_epoch(epoch)
        if 'ran' in window({'number': 0}):
            found.append(epoch)
    return found


@pytest.mark.parametrize(
    ('epochs', 'expected'),
    [((2, 4), [2, 3]), ((0, 1), [0]), ((3, None), [3, 4, 5]), ((7, 9), [])],
    ids=['middle', 'first', 'to the end', 'later'],
)
def test_in_epochs__begin_is_in_and_end_is_not(epochs, expected):
    assert runs_in(InEpochs([Mark()], epochs=epochs), 6) == expected


def test_in_epochs__unknown_epoch():
    with pytest.raises(ValueError, match='EpochWindowsHook'):
        InEpochs([Mark()], epochs=(0, 4))({'number': 0})


@pytest.mark.parametrize(
    'epochs', [(4, 4), (5, 4), (-1, 4), (4,), (None, 4), (0.5, 4), '04'], ids=str
)
def test_in_epochs__wrong_window(epochs):
    with pytest.raises(ValueError, match='begin < end'):
        InEpochs([Mark()], epochs=epochs)


def test_in_epochs__one_transform_asks_for_images():
    with pytest.raises(ValueError, match='at most one'):
        InEpochs([AskPartner(), AskPartner()], epochs=(0, 1))


def _set_epoch(dataset, epoch: int) -> int:
    windows = [step for step in pipeline_steps(dataset) if hasattr(step, 'set_epoch')]
    for window in windows:
        window.set_epoch(epoch)
    return len(windows)


def _mixed() -> MultiImageMixDataset:
    dataset = MultiImageMixDataset(Numbers(pipeline=[Mark('loaded')]), pipeline=[])
    dataset.pipeline = [
        InEpochs([Mark(), AskPartner()], epochs=(1, 3)),
        InEpochs([InEpochs([Mark('late')], epochs=(0, None))], epochs=(2, None)),
    ]
    dataset.pipeline_types = ['mmext.InEpochs'] * 2
    return dataset


EXPECTED = [
    {'number', 'loaded'},
    {'number', 'loaded', 'ran', 'partners'},
    {'number', 'loaded', 'ran', 'partners', 'late'},
    {'number', 'loaded', 'late'},
]


def _keys(sample: dict) -> set[str]:
    return set(sample) - {'sample_idx'}


def test_in_epochs__persistent_workers_see_the_epoch():
    dataset = _mixed()
    assert _set_epoch(dataset, 0) == 3
    loader = DataLoader(
        dataset, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=lambda b: b
    )
    workers = set()
    for epoch, expected in enumerate(EXPECTED):
        _set_epoch(dataset, epoch)
        samples = [sample for batch in loader for sample in batch]
        assert len(samples) == 4
        assert all(_keys(sample) == expected for sample in samples)
        assert all(sample.get('partners', [3]) == [3] for sample in samples)
        workers |= {worker.pid for worker in loader._iterator._workers}
    assert len(workers) == 1


def test_in_epochs__spawned_workers_share_the_number():
    # Workers that are not forked get the pipeline pickled, in this way.
    window = InEpochs([Mark()], epochs=(1, None))
    window.set_epoch(0)
    sent = ForkingPickler.loads(ForkingPickler.dumps(window))
    assert 'ran' not in sent({'number': 0})
    window.set_epoch(1)
    assert 'ran' in sent({'number': 0})


def test_in_epochs__a_copy_of_the_pipeline_is_told_apart():
    original = Numbers(pipeline=[InEpochs([Mark()], epochs=(1, None))])
    _set_epoch(original, 0)
    copied = copy.deepcopy(original)
    loader = DataLoader(copied, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in range(2):
        _set_epoch(copied, epoch)
        assert [('ran' in sample) for sample in loader] == [epoch == 1] * 4
    assert 'ran' not in original[0]


def test_in_epochs__a_transform_may_drop_the_sample():
    window = InEpochs([lambda results: None], epochs=(0, 1))
    window.set_epoch(0)
    assert window({'img': np.zeros(3)}) is None
