"""Views of a photo, whose class scores are averaged, against means by hand."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel
from mmseg.structures import SegDataSample
from torch import Tensor

from mmext.models.query_seg import ClassScoreTTAModel
from mmext.registry import MODELS
from tests.systems import query_seg_semantic

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


@pytest.fixture(scope='module')
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(query_seg_semantic())
    model.init_weights()
    return model.eval()


def view(scores: Tensor) -> SegDataSample:
    return SegDataSample(seg_logits=PixelData(data=scores), metainfo=dict(img_path='a.png'))


def test_views__are_averaged_as_scores(model: torch.nn.Module) -> None:
    # Two classes at one pixel: three queries of the first view say class 0, one of each other view class 1.
    scores = [torch.tensor(pair).view(2, 1, 1) for pair in ([3.0, 0.0], [0.0, 1.0], [0.0, 1.0])]
    (merged,) = ClassScoreTTAModel(module=model).merge_preds([[view(own) for own in scores]])
    torch.testing.assert_close(merged.seg_logits.data.flatten(), torch.tensor([1.0, 2 / 3]))
    assert merged.pred_sem_seg.data.tolist() == [[[0]]] and merged.img_path == 'a.png'
    # The mean of softmax says the other one.
    (theirs,) = SegTTAModel(module=model).merge_preds([[view(own) for own in scores]])
    assert theirs.pred_sem_seg.data.flatten().tolist() == [1]


def test_views__mirrored_ones_are_turned_back(model: torch.nn.Module) -> None:
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    size = dict(ori_shape=(64, 96), img_shape=(64, 96))
    metas = [dict(size, flip=False), dict(size, flip=True, flip_direction='horizontal')]
    views = dict(
        inputs=[[image], [image.flip(-1)]],
        data_samples=[[SegDataSample(metainfo=dict(meta, img_path='a.png'))] for meta in metas],
    )
    (merged,) = ClassScoreTTAModel(module=model).test_step(views)
    singles = []
    for own in (image, image.flip(-1)):
        data = dict(inputs=[own], data_samples=[SegDataSample(metainfo=size)])
        singles.append(model.test_step(data)[0].seg_logits.data)
    expected = (singles[0] + singles[1].flip(-1)) / 2
    torch.testing.assert_close(merged.seg_logits.data, expected)
    assert merged.pred_sem_seg.data.equal(expected.argmax(0, keepdim=True))


@pytest.mark.parametrize(
    'name',
    ['mask2former_r50_8xb2-160k_ade20k-512x512', 'mask2former_r18-3l_1xb8-24e_synthetic-semantic'],
)
def test_configs__average_scores(name: str) -> None:
    config = Config.fromfile(CONFIGS / 'query_seg' / f'{name}.py')
    assert config.tta_model == dict(type='mmext.ClassScoreTTAModel')
    assert config.tta_pipeline
