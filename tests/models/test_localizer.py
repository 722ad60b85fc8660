"""`SingleObjectLocalizer`: data samples in, data samples out."""

import copy

import mmdet.models  # noqa: F401  (registers the preprocessor)
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmext.models.localizer.outputs import Localization
from mmext.registry import MODELS
from tests.systems import SYSTEMS


@pytest.fixture
def config() -> dict:
    return copy.deepcopy(SYSTEMS['localizer-votes'])


def sample(*boxes: list[float], **meta: object) -> DetDataSample:
    result = DetDataSample(metainfo=dict(ori_shape=(100, 200), img_shape=(50, 100), **meta))
    labels = torch.zeros(len(boxes), dtype=torch.long)
    result.gt_instances = InstanceData(bboxes=torch.tensor(boxes).view(-1, 4), labels=labels)
    return result


class FixedHead(nn.Module):
    """Says the same for every image."""

    def __init__(self, logits: list[float], box: list[float]) -> None:
        super().__init__()
        self.outputs = Localization(torch.tensor([logits]), torch.tensor([box]))

    def forward(self, feats: object) -> Localization:
        return self.outputs


def predict(config: dict, box: list[float], **meta: object) -> InstanceData:
    model = MODELS.build(config).eval()
    model.head = FixedHead([0.0, 2.0, 1.0], box)
    (result,) = model.predict(torch.zeros(1, 3, 50, 100), [sample([0.0, 0.0, 1.0, 1.0], **meta)])
    return result.pred_instances


def test_predict__one_instance_with_all_probabilities(config):
    found = predict(config, [0.25, 0.5, 0.75, 0.9], scale_factor=(0.5, 0.5))
    torch.testing.assert_close(found.bboxes, torch.tensor([[50.0, 50.0, 150.0, 90.0]]))
    expected = torch.tensor([[0.0, 2.0, 1.0]]).exp() / (1 + torch.e**2 + torch.e)
    torch.testing.assert_close(found.probabilities, expected)
    assert found.labels.tolist() == [1] and found.scores == found.probabilities[0, 1]


def test_predict__clips_to_the_original_image(config):
    found = predict(config, [-0.3, 0.5, 1.4, 1.2], scale_factor=(0.5, 0.5))
    assert found.bboxes.tolist() == [[0, 50, 200, 100]]


def test_predict__puts_the_corners_in_order(config):
    found = predict(config, [0.8, 0.6, 0.2, 0.1], scale_factor=(0.5, 0.5))
    torch.testing.assert_close(found.bboxes, torch.tensor([[40.0, 10.0, 160.0, 60.0]]))


def test_predict__takes_the_padding_off(config):
    # 100 x 50 of the input: 10 columns at the left and 20 rows at the top are padding.
    found = predict(
        config, [0.2, 0.5, 0.6, 0.8], scale_factor=(0.5, 0.25), pad_param=(20, 0, 10, 0)
    )
    torch.testing.assert_close(found.bboxes, torch.tensor([[20.0, 20.0, 100.0, 80.0]]))


def test_loss__two_objects_in_an_image_are_an_error(config):
    model = MODELS.build(config)
    box = [1.0, 2.0, 30.0, 40.0]
    with pytest.raises(
        ValueError, match='got 2 objects in b.png, expected one.*LocalizationDataset'
    ):
        model.loss(
            torch.zeros(2, 3, 50, 100),
            [sample(box, img_path='a.png'), sample(box, box, img_path='b.png')],
        )


def test_loss__names_of_the_terms(config):
    model = MODELS.build(config)
    losses = model.loss(torch.rand(2, 3, 64, 64), [sample([1.0, 2.0, 30.0, 40.0]), sample()])
    empty = model.loss(torch.rand(2, 3, 64, 64), [sample(), sample()])
    names = {'loss_class', 'loss_box', 'loss_attention', 'loss_votes', 'loss_edges'}
    assert set(losses) == set(empty) == names
    assert all(loss > 0 for loss in losses.values()) and all(loss == 0 for loss in empty.values())


@pytest.mark.parametrize('key', ['train_cfg', 'test_cfg'])
def test_settings_without_effect_are_an_error(config, key):
    with pytest.raises(ValueError, match='Move the settings into head'):
        MODELS.build({**config, key: dict(score_thr=0.5)})


@pytest.mark.parametrize('name', ['localizer-votes', 'localizer-plain'])
def test_deploy__same_results_and_same_checkpoint(name):
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(SYSTEMS[name]))
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.normal_(part.bias, std=0.3)
    if name == 'localizer-votes':
        nn.init.normal_(model.head.place.weight, std=2.0)
    images, before = torch.randn(2, 3, 65, 97), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = model.eval()(images, mode='tensor')
        model.switch_to_deploy()
        found = model(images, mode='tensor')
    assert not any(isinstance(p, nn.BatchNorm2d) for p in model.folded.modules())
    torch.testing.assert_close(found.boxes, expected.boxes, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.class_logits, expected.class_logits, atol=2e-5, rtol=1e-4)
    assert (found.boxes[0] - found.boxes[1]).abs().max() > 1e-3  # of the image, not of a bias
    assert set(model.state_dict()) == set(before)
    other = {key: value * 0 if key.endswith('weight') else value for key, value in before.items()}
    model.load_state_dict(other)
    with torch.no_grad():
        again = model(images, mode='tensor').boxes
    torch.testing.assert_close(again[0], again[1])  # what is loaded is folded again
    with pytest.raises(ValueError, match='deploy'):
        model.train()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['localizer-votes', 'localizer-plain'])
def test_training__learns_eight_images_by_heart(name):
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(SYSTEMS[name])).train()
    images, samples = torch.rand(8, 3, 64, 64) * 0.3, []
    for index, image in enumerate(images):
        x, y = 4 * (index % 4), 6 * (index // 2)
        image[index % 3, y : y + 28, x : x + 36] = 1.0
        truth = sample([float(x), float(y), x + 36.0, y + 28.0])
        truth.set_metainfo(dict(ori_shape=(64, 64)))
        truth.gt_instances.labels[:] = index % 3
        samples.append(truth)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        model.parse_losses(model.loss(images, samples))[0].backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        results = model.predict(images, samples)
    assert all(r.pred_instances.labels == r.gt_instances.labels for r in results)
    errors = [(r.pred_instances.bboxes - r.gt_instances.bboxes).abs().max().item() for r in results]
    # The sigmoid of the plain head may stick at the edge of the image.
    limit, num_found = (3.0, 8) if name == 'localizer-votes' else (5.0, 6)
    assert sum(error < limit for error in errors) >= num_found


def test_deploy__twice_and_with_a_backbone_that_folds_itself():
    config = copy.deepcopy(SYSTEMS['localizer-votes'])
    config['backbone'] = dict(type='mmext.HGNetv2', arch='atto', out_indices=(0, 1, 2))
    config['head']['in_channels'] = [64, 256, 256]
    model = MODELS.build(config).eval()
    images, weights = torch.randn(2, 3, 64, 64), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = model(images, mode='tensor').boxes
        for deploy in (model.switch_to_deploy, model.switch_to_deploy):
            deploy()
            torch.testing.assert_close(model(images, mode='tensor').boxes, expected)
        model.load_state_dict(weights)
        torch.testing.assert_close(model(images, mode='tensor').boxes, expected)
