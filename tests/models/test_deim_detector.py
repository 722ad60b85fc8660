"""The detector: data samples in and out, epochs, batches without and with very many objects."""

from collections.abc import Callable

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.models.deim.detector import DEIM
from mmext.models.deim.outputs import DecoderOutputs, ImageTargets, LayerOutputs
from mmext.registry import MODELS
from tests.systems import deim_atto, deim_s

CLASSES = 3


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(config: dict | None = None, *, num_classes: int = CLASSES) -> DEIM:
    """A detector with random weights, whose queries differ: in a new one they do not."""
    config = deim_atto() if config is None else config
    config['test_cfg'] = dict(max_per_img=300)
    config['decoder'].update(num_classes=num_classes)
    model = MODELS.build(config)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.1)
    return model


def sample(boxes: Tensor, labels: Tensor, **meta: object) -> DetDataSample:
    instances = InstanceData(bboxes=boxes, labels=labels)
    return DetDataSample(metainfo=meta, gt_instances=instances)


def random_sample(num_objects: int, height: int, width: int, classes: int = CLASSES):
    start, size = torch.rand(num_objects, 2) / 2, 0.1 + 0.4 * torch.rand(num_objects, 2)
    boxes = torch.cat([start, start + size], dim=1) * torch.tensor([width, height] * 2)
    return sample(boxes, torch.randint(classes, (num_objects,)), scale_factor=(1.0, 1.0))


class Oracle(nn.Module):
    """A decoder that keeps the targets of `loss`, and finds them in `predict`."""

    def forward(
        self, features: Tensor, targets: list[ImageTargets] | None = None
    ) -> DecoderOutputs:
        if targets is not None:
            self.targets = targets
        boxes = torch.stack([own.boxes for own in self.targets])
        logits = nn.functional.one_hot(torch.stack([own.labels for own in self.targets]), CLASSES)
        layer = LayerOutputs(logits.float(), boxes, boxes, boxes, boxes)
        return DecoderOutputs((layer,), None, None, None, boxes, 4.0)


class Recorder(nn.Module):
    """Keeps what it is told, as a criterion and as an augmentation of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[int] = []

    def forward(self, outputs: DecoderOutputs, targets: object, *, epoch: int) -> dict:
        self.epochs.append(epoch)
        return {}

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def test_frames__truth_of_the_input_comes_back_in_the_original_image() -> None:
    original = torch.tensor([[10.0, 20.0, 110.0, 60.0], [0.0, 0.0, 300.0, 200.0]])
    scale, offset = torch.tensor([0.5, 0.8] * 2), torch.tensor([6.0, 4.0] * 2)
    model = build()
    model.backbone, model.neck = nn.Identity(), nn.Identity()
    model.decoder, model.criterion = Oracle(), Recorder()
    samples = [
        sample(original * scale + offset, torch.tensor([2, 0]), scale_factor=(0.5, 0.8),
               pad_param=(4, 20, 6, 4), ori_shape=(200, 300)),
        sample(original, torch.tensor([1, 1])),
    ]  # fmt: skip
    image = torch.rand(2, 3, 224, 352)
    model.loss(image, samples)
    # The first box of the first image: 11 .. 61 of 352 columns, 20 .. 52 of 224 rows.
    expected = torch.tensor([36 / 352, 36 / 224, 50 / 352, 32 / 224])
    torch.testing.assert_close(model.decoder.targets[0].boxes[0], expected)

    for found in model.predict(image, samples):
        order = found.pred_instances.bboxes[:2, 0].argsort(descending=True)
        torch.testing.assert_close(found.pred_instances.bboxes[:2][order], original)
    assert samples[0].pred_instances.labels[:2].sort().values.tolist() == [0, 2]


def test_set_epoch__reaches_the_criterion_and_leaves_augmentations_to_their_hook() -> None:
    model = build()
    criterion, augment = Recorder(), Recorder()
    model.backbone, model.neck, model.decoder = nn.Identity(), nn.Identity(), Oracle()
    model.criterion = criterion
    model.data_preprocessor.batch_augments = nn.ModuleList([augment])
    images, samples = torch.rand(2, 3, 64, 64), [random_sample(1, 64, 64) for _ in range(2)]
    model.loss(images, samples)
    model.set_epoch(7)
    model.loss(images, samples)
    assert criterion.epochs == [0, 7]
    # mmext.EpochWindowsHook tells them, in every detector.
    assert augment.epochs == []


def test_loss__the_same_names_with_and_without_objects() -> None:
    # In distributed training every process has to have the same losses.
    model = build(deim_atto() | dict(criterion=deim_s()['criterion']))
    images = torch.rand(2, 3, 64, 96)
    with_objects, without = (
        model.loss(images, [random_sample(count, 64, 96) for count in counts])
        for counts in ((0, 3), (0, 0))
    )
    assert list(with_objects) == list(without)
    assert all(value > 0 for name, value in with_objects.items() if '_dn_' in name)
    assert not any(value for name, value in without.items() if '_dn_' in name)
    assert all(value.requires_grad for value in without.values())


@pytest.mark.parametrize('criterion', [deim_atto, deim_s], ids=['own matches', 'union'])
def test_loss__of_400_objects_and_100_queries(criterion: Callable[[], dict]) -> None:
    model = build(deim_atto() | dict(criterion=criterion()['criterion']))
    losses = model.loss(torch.rand(2, 3, 64, 96), [random_sample(n, 64, 96) for n in (400, 1)])
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize('size', [(75, 113), (200, 40), (17, 33)], ids=str)
def test_odd_sizes__of_a_network_input_without_padding(size: tuple[int, int]) -> None:
    model, images = build(), torch.rand(2, 3, *size)
    samples = [random_sample(number, *size) for number in (1, 3)]
    losses = model.loss(images, samples)
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    outputs = model.eval()(images, mode='tensor')
    found = model.predict(images, samples)[1].pred_instances
    # The surest box, from shares of the input to its pixels.
    query = outputs.logits[1].flatten().argmax() // CLASSES
    centre = outputs.boxes[1, query, :2] * torch.tensor([size[1], size[0]])
    torch.testing.assert_close((found.bboxes[0, :2] + found.bboxes[0, 2:]) / 2, centre)


def test_predict__one_class_gives_a_detection_per_query() -> None:
    model = build(num_classes=1)
    images, samples = torch.rand(2, 3, 160, 160), [random_sample(2, 160, 160, 1)] * 2
    assert all(value.isfinite() for value in model.loss(images, samples).values())
    found = model.eval().predict(images[:1], samples[:1])[0].pred_instances
    assert found.bboxes.shape == (100, 4)
    assert not found.labels.any()


@torch.no_grad()
def test_predict__images_of_a_batch_do_not_touch_each_other() -> None:
    model, images = build().eval(), torch.rand(2, 3, 96, 64)
    together = model(images, mode='tensor')
    assert (together.boxes[0] - together.boxes[1]).abs().max() > 1e-3
    for index in range(2):
        for whole, alone in zip(together, model(images[index, None], mode='tensor'), strict=True):
            torch.testing.assert_close(whole[index], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast__losses_and_detections_are_float32(dtype: torch.dtype) -> None:
    model, images = build(), torch.rand(2, 3, 64, 64)
    samples = [random_sample(2, 64, 64) for _ in range(2)]
    with torch.autocast('cpu', dtype):
        losses = model.loss(images, samples)
        found = model.eval().predict(images, samples)[0].pred_instances
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert all(value.isfinite() for value in losses.values())
    assert found.bboxes.dtype == found.scores.dtype == torch.float32
    assert found.bboxes.isfinite().all()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(test_cfg=dict(max_per_img=300, score_thr=0.1)), 'expected max_per_img'),
        (dict(test_cfg=dict(max_per_img=0)), 'at least 1'),
        (dict(train_cfg=dict(assigner=dict())), 'criterion'),
    ],
    ids=['threshold', 'nothing', 'training'],
)
def test_detector__wrong_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build(deim_atto() | changes)
