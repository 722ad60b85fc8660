"""CloseMosaicHook: which transforms run in which epoch."""

from types import SimpleNamespace

import pytest
from mmengine.logging import MMLogger

from mmext.engine import CloseMosaicHook


class MixDataset:
    """What the hook uses of mmdet's MultiImageMixDataset."""

    def __init__(self, *types):
        self.pipeline_types = list(types)
        self.skipped = None

    def update_skip_type_keys(self, keys):
        self.skipped = keys


def runner(dataset, epoch=0):
    return SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=dataset, _iterator='old workers'),
        epoch=epoch,
        max_epochs=10,
        logger=MMLogger.get_instance('close-mosaic'),
    )


@pytest.mark.parametrize('epoch, closed', [(0, False), (6, False), (7, True), (9, True)])
def test_close_mosaic__in_the_last_epochs(epoch, closed):
    state = runner(MixDataset('mmext.Mosaic', 'mmext.HSV'), epoch)
    CloseMosaicHook(num_last_epochs=3).before_train_epoch(state)
    assert ('mmext.Mosaic' in (state.train_dataloader.dataset.skipped or ())) == closed
    # Persistent workers hold the old pipeline: they must be started anew, once.
    assert (state.train_dataloader._iterator is None) == closed


def test_close_mosaic__restarts_the_workers_once():
    hook, state = CloseMosaicHook(3), runner(MixDataset('mmext.Mosaic'), 8)
    hook.before_train_epoch(state)
    state.train_dataloader._iterator = 'new workers'
    hook.before_train_epoch(state)
    assert state.train_dataloader._iterator == 'new workers'


@pytest.mark.parametrize(
    'dataset, got',
    [(MixDataset('mmext.HSV'), 'mmext.HSV'), (SimpleNamespace(), 'no mmdet.MultiImageMixDataset')],
    ids=['no mosaic', 'no mixing'],
)
def test_close_mosaic__nothing_to_close(dataset, got):
    with pytest.raises(ValueError, match=got):
        CloseMosaicHook(3).before_train(runner(dataset))


def test_close_mosaic__needs_an_epoch():
    with pytest.raises(ValueError, match='at least 1'):
        CloseMosaicHook(0)
