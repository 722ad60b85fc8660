"""`MatteEncoderDecoder`, its preprocessor and its test-time augmentation: frames, padding, what counts and what not."""

import copy
from typing import Any

import pytest
import torch
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmext.models.attn_unet.preprocessor import MattePreprocessor
from mmext.models.attn_unet.tta import MatteTTAModel
from mmext.registry import MODELS
from tests.models.matte_models import build_tiny, matte_sample, tiny_matte_config
from tests.systems import SYSTEMS


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def batch(*sizes: tuple[int, int]) -> dict[str, Any]:
    return dict(
        inputs=[photo(*size, seed=i) for i, size in enumerate(sizes)],
        data_samples=[matte_sample(*size) for size in sizes],
    )


class TestPreprocessor:
    def test_training__pads_and_marks_what_it_pads(self):
        data = batch((40, 60), (64, 33))
        known = torch.ones(1, 40, 60, dtype=torch.bool)
        known[0, 5, 5] = False
        data['data_samples'][0].gt_valid = PixelData(data=known)
        data['data_samples'][0].gt_alpha.data[:] = 1
        ready = MattePreprocessor()(data, training=True)
        assert ready['inputs'].shape == (2, 3, 64, 64)
        first, second = ready['data_samples']
        assert first.gt_alpha.data.sum() == 40 * 60 and first.gt_alpha.data[:, :40, :60].all()
        assert first.gt_valid.data.sum() == 40 * 60 - 1 and not first.gt_valid.data[0, 5, 5]
        assert second.gt_valid.data.sum() == 64 * 33 and second.gt_valid.data[:, :, :33].all()
        assert first.padding_size == (0, 4, 0, 24) and first.pad_shape == (64, 64)
        assert (ready['inputs'][0, :, 40:] == 0).all()

    def test_test__keeps_the_truth_of_the_file(self):
        data = batch((40, 60), (64, 33))
        data['data_samples'][0].gt_alpha = PixelData(data=torch.ones(1, 80, 120))
        ready = MattePreprocessor(size=(32, 32))(data)
        assert ready['inputs'].shape == (2, 3, 64, 64)
        assert ready['data_samples'][0].gt_alpha.data.shape == (1, 80, 120)
        assert 'gt_valid' not in ready['data_samples'][0]

    def test_restore__gives_the_photo_in_rgb(self):
        image = photo(32, 32)
        preprocessor = MattePreprocessor()
        (restored,) = preprocessor.restore(preprocessor(dict(inputs=[image]))['inputs'])
        torch.testing.assert_close(restored, image.flip(0).float() / 255)

    def test_size__of_every_training_batch(self):
        ready = MattePreprocessor(size=(48, 80))(batch((40, 60), (30, 80)), training=True)
        assert ready['inputs'].shape == (2, 3, 48, 80)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda sample: sample.pop('gt_alpha'), 'LoadAlpha'),
            (lambda s: s.set_data(dict(gt_alpha=PixelData(data=torch.ones(1, 41, 60)))), 'size'),
        ],
        ids=['no-alpha', 'other-size'],
    )
    def test_training__refuses(self, change, message):
        data = batch((40, 60))
        change(data['data_samples'][0])
        with pytest.raises(ValueError, match=message):
            MattePreprocessor()(data, training=True)

    def test_training__refuses_larger_photos(self):
        with pytest.raises(ValueError, match=r'40, 60.*size=\(32, 64\)'):
            MattePreprocessor(size=(32, 64))(batch((40, 60)), training=True)


def losses_of(model: nn.Module, data: dict[str, Any]) -> dict[str, Tensor]:
    return model(**model.data_preprocessor(data, training=True), mode='loss')


def test_loss__all_terms_of_the_recipe():
    terms = ['MatteBCELoss', 'MatteDiceLoss', 'PerceptualLoss', 'AlphaEdgeLoss']
    model = build_tiny(loss_decode=[dict(type=f'mmext.{name}') for name in terms])
    model.init_weights()
    names = set(model.state_dict())
    losses = losses_of(model.train(), batch((64, 64), (40, 60)))
    keys = ('loss_bce', 'loss_dice', 'loss_perceptual', 'loss_edge', 'acc_matte')
    assert set(losses) == {f'decode.{key}' for key in keys}
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # The frozen copy of the encoder is no part of the model.
    assert set(model.state_dict()) == names == set(build_tiny().state_dict())


def test_loss__what_is_not_valid_does_not_count():
    found = []
    for value in (0.0, 1.0):
        data = batch((64, 64), (40, 64))
        for sample in data['data_samples']:
            valid = torch.ones_like(sample.gt_alpha.data, dtype=torch.bool)
            valid[:, :20] = False
            sample.gt_alpha.data[:, :20] = value
            sample.gt_valid = PixelData(data=valid)
        model = build_tiny().eval()
        found.append({k: v for k, v in losses_of(model, data).items() if 'edge' not in k})
    for name, one in found[0].items():
        torch.testing.assert_close(found[1][name], one, msg=name)


def test_loss__nothing_valid_is_finite():
    data = batch((64, 64), (64, 64))
    for sample in data['data_samples']:
        sample.gt_valid = PixelData(data=torch.zeros(1, 64, 64, dtype=torch.bool))
    model = build_tiny()
    total, _ = model.parse_losses(losses_of(model.train(), data))
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_predict__no_padding_no_second_sigmoid_and_the_size_of_the_file():
    model = build_tiny().eval()
    logits = torch.zeros(1, 1, 64, 96)
    logits[..., :50, :70] = 3.0
    logits[..., :50, :10] = -3.0
    model._forward = lambda *_: logits
    data = dict(inputs=[photo(50, 70)], data_samples=[matte_sample(50, 70)])
    (sample,) = model.test_step(data)
    expected = torch.full((1, 50, 70), 3.0).sigmoid()
    expected[..., :10] = 1 - expected[..., :10]
    torch.testing.assert_close(sample.pred_alpha.data, expected)
    torch.testing.assert_close(sample.seg_logits.data, logits[0, :, :50, :70])
    assert sample.pred_sem_seg.data.sum() == 50 * 60
    for ori_shape in ((100, 140), (25, 33), (1, 1)):
        data['data_samples'] = [matte_sample(50, 70, ori_shape=ori_shape)]
        (sample,) = model.test_step(data)
        assert sample.pred_alpha.data.shape == (1, *ori_shape)
        # Without the padding: its zeros would pull the right and lower border towards 1/2.
        torch.testing.assert_close(sample.pred_alpha.data[0, -1, -1], torch.tensor(3.0).sigmoid())


@pytest.mark.parametrize(
    ('direction', 'axes'),
    [('horizontal', (2,)), ('vertical', (1,)), ('diagonal', (1, 2))],
    ids=['horizontal', 'vertical', 'diagonal'],
)
def test_predict__turns_mirrored_photos_back(direction, axes):
    model = build_tiny().eval()
    data = dict(inputs=[photo(50, 70)], data_samples=[matte_sample(50, 70)])
    (plain,) = model.test_step(data)
    meta = dict(flip=True, flip_direction=direction)
    (mirrored,) = model.test_step(dict(data, data_samples=[matte_sample(50, 70, **meta)]))
    torch.testing.assert_close(mirrored.pred_alpha.data, plain.pred_alpha.data.flip(axes))


def test_predict__a_mirror_without_direction_is_refused():
    data = dict(inputs=[photo(50, 70)], data_samples=[matte_sample(50, 70, flip=True)])
    with pytest.raises(ValueError, match='meta_keys'):
        build_tiny().eval().test_step(data)


def test_predict__without_samples():
    model = build_tiny().eval()
    (sample,) = model(torch.randn(1, 3, 64, 96), mode='predict')
    assert sample.pred_alpha.data.shape == (1, 64, 96)


def test_slide__averages_the_logits_of_overlapping_windows():
    config = tiny_matte_config()
    config['test_cfg'] = dict(mode='slide', crop_size=(32, 32), stride=(32, 16))
    model = MODELS.build(config).eval()
    # A window says its mean.
    model._forward = lambda x: x.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 1, 16, 16)
    inputs = torch.zeros(1, 3, 32, 48)
    inputs[..., 16:32] = 4
    inputs[..., 32:] = 8
    (sample,) = model(inputs, mode='predict')
    # Columns 0 to 31 have the mean 2, columns 16 to 47 the mean 6, and the middle both.
    columns = torch.tensor([2.0, 4.0, 6.0]).repeat_interleave(16)
    torch.testing.assert_close(sample.seg_logits.data, columns.expand(1, 32, 48))


def test_init__refuses():
    config = tiny_matte_config()
    stock = dict(type='mmseg.SegDataPreProcessor', size_divisor=32)
    with pytest.raises(ValueError, match='MattePreprocessor'):
        MODELS.build(dict(config, data_preprocessor=stock))
    head = dict(
        type='mmseg.FCNHead', in_channels=64, channels=8, num_classes=3, norm_cfg=dict(type='BN')
    )
    with pytest.raises(ValueError, match='3 logits'):
        MODELS.build(dict(config, decode_head=head))


def test_stock_head__learns_mattes_too():
    config = tiny_matte_config()
    config['decode_head'] = dict(
        type='mmseg.FCNHead', in_channels=64, in_index=4, channels=8, num_convs=1, num_classes=2,
        norm_cfg=dict(type='BN'), loss_decode=[dict(type='mmext.MatteBCELoss')],
    )  # fmt: skip
    config['auxiliary_head'] = dict(config['decode_head'], in_channels=32, in_index=3)
    model = MODELS.build(config)
    losses = losses_of(model.train(), batch((64, 64), (64, 64)))
    assert set(losses) == {
        f'{part}.{key}' for part in ('decode', 'aux_0') for key in ('loss_bce', 'acc_matte')
    }
    (sample,) = model.eval().test_step(batch((50, 70)))
    assert sample.pred_alpha.data.shape == (1, 50, 70)


class TestAttentionMaps:
    def test_attention_maps__one_for_each_skip_connection(self):
        model = build_tiny().eval()
        maps = model.attention_maps(torch.randn(2, 3, 64, 96))
        assert [tuple(m.shape) for m in maps] == [
            (2, 1, 64 // stride, 96 // stride) for stride in (16, 8, 4, 2)
        ]
        assert all(not m.requires_grad and ((m > 0) & (m < 1)).all() for m in maps)

    def test_attention_maps__not_in_training(self):
        with pytest.raises(ValueError, match='eval'):
            build_tiny().train().attention_maps(torch.randn(1, 3, 64, 64))


class TestTTA:
    def test_identical_views__equal_the_single_view(self):
        model = build_tiny().eval()
        data = batch((50, 70))
        (single,) = model.test_step(copy.deepcopy(data))
        views = dict(
            inputs=[data['inputs']] * 2,
            data_samples=[copy.deepcopy(data['data_samples']) for _ in range(2)],
        )
        (merged,) = MatteTTAModel(module=model).test_step(views)
        assert torch.equal(merged.pred_alpha.data, single.pred_alpha.data)
        assert torch.equal(merged.pred_sem_seg.data, single.pred_sem_seg.data)
        assert 'seg_logits' not in merged
        assert torch.equal(merged.gt_alpha.data, single.gt_alpha.data)

    def test_views__are_averaged_as_probabilities(self):
        model = build_tiny().eval()
        views = []
        for value in (0.2, 0.9):
            sample = matte_sample(4, 4)
            alpha = torch.full((1, 4, 4), value)
            sample.set_data(
                dict(pred_alpha=PixelData(data=alpha), seg_logits=PixelData(data=alpha.logit()))
            )
            views.append(sample)
        (merged,) = MatteTTAModel(module=model).merge_preds([views])
        torch.testing.assert_close(merged.pred_alpha.data, torch.full((1, 4, 4), 0.55))
        assert (merged.pred_sem_seg.data == 1).all()


class TestDeploy:
    @pytest.mark.parametrize('name', ['attn-unet-r18', 'attn-unet-light'])
    def test_deploy__same_results_and_same_checkpoint(self, name):
        torch.manual_seed(0)
        model = MODELS.build(copy.deepcopy(SYSTEMS[name]))
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.uniform_(-0.5, 0.5), norm.running_var.uniform_(0.5, 2)
        model.eval()
        inputs = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            before, names = model(inputs), list(model.state_dict())
            model.switch_to_deploy()
            after = model(inputs)
            torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
            assert not torch.equal(after, before)
            assert list(model.state_dict()) == names
            assert not any(isinstance(m, nn.BatchNorm2d) for m in model.folded.modules())
            # Loaded weights are folded again.
            zeros = {n: torch.zeros_like(v) for n, v in model.state_dict().items()}
            model.load_state_dict(zeros)
            assert (model(inputs) == 0).all()
        with pytest.raises(ValueError, match='deploy'):
            model.train()

    def test_deploy__not_in_training(self):
        with pytest.raises(ValueError, match='eval'):
            build_tiny().train().switch_to_deploy()
