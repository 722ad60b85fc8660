"""`SemanticSegmenter` against mmseg's own inference, transformers' post-processing, and itself in another form."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmseg.apis import inference_model
from mmseg.models.decode_heads import FCNHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from PIL import Image
from torch import nn
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mmext.apis import Segmentation, SemanticSegmenter, Slide, init_model
from mmext.apis.model import deploy
from mmext.apis.semantic_network import PresetPreparation, SemanticNetwork
from mmext.apis.semantic_passes import ImageOnWay, Passes
from mmext.apis.semantic_presets import Preset
from mmext.models.common.folding import is_deployed, restore_from_deploy
from mmext.registry import MODELS
from tests.apis.patch_network import CLASSES, patch_config
from tests.systems import attn_unet_light, query_seg_semantic, segformer

OWN_SIZE = Preset('own size', lambda image: image)


@MODELS.register_module()
class TurnedHead(FCNHead):
    """A head whose prediction is more than its forward pass."""

    def predict_by_feat(self, seg_logits, batch_img_metas):
        return super().predict_by_feat(-seg_logits, batch_img_metas)


@MODELS.register_module()
class TurnedModel(EncoderDecoder):
    """A model whose prediction is more than that of its head."""

    def encode_decode(self, inputs, batch_img_metas):
        return -super().encode_decode(inputs, batch_img_metas)


def make_model(config: Config) -> nn.Module:
    """The model with weights by which all classes appear."""
    torch.manual_seed(0)
    model = init_model(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def photo(height: int = 61, width: int = 90, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 BGR with regions of many colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def segment(model, image, **settings) -> Segmentation:
    (result,) = SemanticSegmenter(model, **settings)(image)
    return result


def mmseg_result(model: nn.Module, image: np.ndarray):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return inference_model(model, image)


def of_type(config: Config, kind: str) -> Config:
    config.model.type = kind
    return config


def without(config: Config, *keys: str) -> Config:
    for key in keys:
        config.model.decode_head.pop(key)
    return config


FCN_ONLY = ('num_convs', 'concat_input')
STOCK = {
    'fcn': lambda: patch_config(),
    'padded': lambda: patch_config(divisor=32),
    'psp, corners aligned': lambda: without(
        patch_config(type='mmseg.PSPHead', pool_scales=(1, 2), align_corners=True), *FCN_ONLY
    ),
    'own prediction': lambda: patch_config(type='mmext.TurnedHead'),
    'own model': lambda: of_type(patch_config(), 'mmext.TurnedModel'),
}


@pytest.mark.parametrize(
    'slide', [None, dict(mode='slide', crop_size=(32, 40), stride=(20, 24))], ids=['whole', 'slide']
)
@pytest.mark.parametrize('name', STOCK)
def test_segmenter__equals_inference_model_of_mmseg(name: str, slide: dict | None) -> None:
    model = make_model(STOCK[name]())
    if slide is not None:
        model.test_cfg = ConfigDict(slide)
    expected = mmseg_result(model, photo())
    found = segment(model, photo(), keep_confidence=True, batch_size=3)
    assert found.class_map.dtype == np.uint8
    assert (found.class_map == expected.pred_sem_seg.data[0].numpy()).all()
    assert len(np.unique(found.class_map)) > 2
    probability = expected.seg_logits.data.softmax(0).amax(0).numpy()
    np.testing.assert_allclose(found.confidence, probability, atol=1e-5)


def test_segmenter__one_logit() -> None:
    model = make_model(patch_config(num_logits=1))
    expected = mmseg_result(model, photo())
    found = segment(model, photo())
    assert found.classes == CLASSES[:2]
    assert (found.class_map == expected.pred_sem_seg.data[0].numpy()).all()
    assert 0 < found.class_map.mean() < 1


def test_segmenter__one_class_name_keeps_its_colour() -> None:
    config = patch_config(num_logits=1)
    config.test_dataloader.dataset.metainfo = dict(classes=('crack',), palette=[[10, 200, 30]])
    segmenter = SemanticSegmenter(make_model(config))
    assert segmenter.classes == ('background', 'crack')
    assert segmenter.palette.shape == (2, 3) and segmenter.palette[1].tolist() == [10, 200, 30]
    assert np.abs(segmenter.palette[0] - segmenter.palette[1].astype(int)).max() > 60


def test_segmenter__matting_models_by_their_threshold() -> None:
    pipeline = [
        dict(type='mmext.LoadImage'),
        dict(type='mmext.LoadAlpha'),
        dict(type='mmext.PackMatteInputs'),
    ]
    dataset = dict(type='mmext.MatteDataset', pipeline=pipeline)
    config = dict(
        default_scope='mmseg', model=attn_unet_light(), test_dataloader=dict(dataset=dataset)
    )
    torch.manual_seed(0)
    model = init_model(Config(config))
    image = photo(48, 64)
    inputs = torch.from_numpy(image.transpose(2, 0, 1).copy())
    sample = SegDataSample(metainfo=dict(ori_shape=(48, 64), img_shape=(48, 64)))
    with torch.no_grad():
        (expected,) = model.test_step(pseudo_collate([dict(inputs=inputs, data_samples=sample)]))
    found = segment(model, image)
    assert found.classes == ('background', 'foreground')
    assert (found.class_map == expected.pred_sem_seg.data[0].numpy()).all()


def test_segmenter__query_decoders_give_scores() -> None:
    config = patch_config()
    config.model = Config(dict(model=query_seg_semantic())).model
    config.test_dataloader.dataset.metainfo.classes = ('a', 'b', 'c')
    model = make_model(config)
    expected = mmseg_result(model, photo())
    assert (segment(model, photo()).class_map == expected.pred_sem_seg.data[0].numpy()).all()
    with pytest.raises(ValueError, match='keep_confidence: got a FastMask2FormerSegHead'):
        SemanticSegmenter(model, keep_confidence=True)


def test_segmenter__preset_of_transformers_with_its_post_processing() -> None:
    model = make_model(patch_config())
    processor = SegformerImageProcessorPil()
    rgb = Image.fromarray(photo()[..., ::-1])
    inputs = processor(rgb, return_tensors='pt')['pixel_values']
    with torch.no_grad():
        logits = model(inputs, mode='tensor')
    output = SimpleNamespace(logits=logits)
    (expected,) = processor.post_process_semantic_segmentation(output, [(61, 90)])
    found = segment(model, rgb, preset='hf', keep_logits=True)
    assert (found.class_map == expected.numpy()).all()
    assert found.logits is not None and found.logits.shape == (4, 128, 128)
    np.testing.assert_allclose(found.logits, logits[0], atol=1e-4)


def test_segmenter__fast_decoder_is_used_and_leads_back() -> None:
    model = make_model(
        Config(dict(patch_config(), model=dict(segformer(), type='mmseg.EncoderDecoder')))
    )
    model.dataset_meta = {}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    plain = segment(model, photo(), keep_confidence=True)
    deploy(model)
    assert is_deployed(model) and model.decode_head.folded is not None
    fast = segment(model, photo(), keep_confidence=True)
    assert (fast.class_map == plain.class_map).all()
    np.testing.assert_allclose(fast.confidence, plain.confidence, atol=1e-5)
    assert fast.classes == ('class 0', 'class 1', 'class 2')
    restore_from_deploy(model)
    assert not is_deployed(model)
    model.train()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_segmenter__a_config_is_deployed() -> None:
    config = Config(dict(patch_config(), model=dict(segformer(), type='mmseg.EncoderDecoder')))
    config.test_dataloader.dataset.metainfo.classes = ('a', 'b', 'c')
    assert is_deployed(SemanticSegmenter(config).network.model)


def test_segmenter__batches_of_many_sizes_equal_single_images() -> None:
    model = make_model(patch_config(divisor=32))
    images = [photo(61, 90, 0), photo(90, 61, 1), photo(61, 90, 2), photo(48, 48, 3), photo(1, 1)]
    singles = [segment(model, image).class_map for image in images]
    found = list(SemanticSegmenter(model, batch_size=4)(images))
    assert [result.index for result in found] == [0, 1, 2, 3, 4]
    for result, single in zip(found, singles, strict=True):
        assert (result.class_map == single).all()
        assert result.forward_ms > 0 and min(result.seconds) > 0


@pytest.mark.parametrize('size', [(37, 53), (16, 90), (61, 20)], ids=str)
def test_segmenter__windows_change_nothing_for_a_network_of_single_pixels(
    size: tuple[int, int],
) -> None:
    model = make_model(patch_config(stride=1))
    whole = segment(model, photo(*size), preset=OWN_SIZE, keep_confidence=True)
    for windows, batch_size in ((Slide(16), 1), (Slide((20, 16), (7, 16)), 5)):
        found = segment(
            model,
            photo(*size),
            preset=OWN_SIZE,
            windows=windows,
            batch_size=batch_size,
            keep_confidence=True,
        )
        assert (found.class_map == whole.class_map).all()
        np.testing.assert_allclose(found.confidence, whole.confidence, atol=1e-5)
        assert min(found.seconds) > 0


def test_segmenter__windows_pass_through_the_pipeline_as_images() -> None:
    model = make_model(patch_config(divisor=32))
    wide = np.concatenate([photo(40, 40, 0), photo(40, 40, 1)], axis=1)
    found = segment(model, wide, windows=Slide(40, 40), batch_size=2)
    parts = [segment(model, photo(40, 40, seed)).class_map for seed in (0, 1)]
    assert (found.class_map == np.concatenate(parts, axis=1)).all()


def test_segmenter__files_and_images_of_all_kinds(tmp_path: Path) -> None:
    image = photo()
    cv2.imwrite(str(tmp_path / 'rgb.png'), image)
    opaque = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    cv2.imwrite(str(tmp_path / 'rgba.png'), opaque)
    cv2.imwrite(str(tmp_path / 'deep.png'), image[..., 0].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / 'grey.png'), image[..., 0])
    model = make_model(patch_config())
    for preset in (None, 'mmseg'):
        segmenter = SemanticSegmenter(model, preset=preset)
        names = ('rgb', 'rgba', 'deep', 'grey')
        files = {name: tmp_path / f'{name}.png' for name in names}
        maps = dict(zip(names, segmenter(list(files.values())), strict=True))
        assert maps['rgb'].path == files['rgb']
        colour, grey = segment(model, image, preset=preset), maps['grey']
        for other in (maps['rgb'], maps['rgba'], *segmenter(Image.open(files['rgba']))):
            assert (other.class_map == colour.class_map).all()
        assert (maps['deep'].class_map == grey.class_map).all()
        assert (grey.class_map != colour.class_map).any()


def test_segmenter__bad_images_are_told_and_left_out(tmp_path: Path) -> None:
    (tmp_path / 'bad.png').write_text('no image')
    cv2.imwrite(str(tmp_path / 'good.png'), photo())
    segmenter = SemanticSegmenter(make_model(patch_config()), batch_size=3)
    told = []
    grey = np.zeros((4, 4), np.uint8)
    inputs = [tmp_path, grey, photo(40, 40)]
    found = list(segmenter(inputs, on_error=lambda *error: told.append(error)))
    assert [result.index for result in found] == [1, 3]
    assert [path for path, _ in told] == [tmp_path / 'bad.png', None]
    assert 'expected (H, W, 3) uint8 in BGR' in str(told[1][1])
    with pytest.raises(ValueError, match=r'^failed to load image: .*bad\.png$'):
        list(segmenter(tmp_path / 'bad.png'))


@pytest.mark.parametrize(
    ('windows', 'size'), [(None, '2 x 99'), (Slide(24), '2 x 24')], ids=['whole', 'windows']
)
def test_segmenter__images_too_thin_for_the_network_are_told_and_left_out(
    windows: Slide | None, size: str, tmp_path: Path
) -> None:
    for name, shape in (('a', (61, 90)), ('b', (2, 99)), ('c', (61, 90)), ('d', (48, 48))):
        cv2.imwrite(str(tmp_path / f'{name}.png'), photo(*shape))
    model = make_model(patch_config())  # whose first kernel has 4 x 4 pixels
    segmenter = SemanticSegmenter(model, preset=OWN_SIZE, windows=windows, batch_size=3)
    told = []
    found = list(segmenter(tmp_path, on_error=lambda *error: told.append(error)))
    assert [(result.index, result.path.stem) for result in found] == [(0, 'a'), (2, 'c'), (3, 'd')]
    for result in found:
        alone = segment(model, result.path, preset=OWN_SIZE, windows=windows)
        assert (result.class_map == alone.class_map).all()
    ((path, error),) = told
    assert path == tmp_path / 'b.png'
    message = rf'b\.png: the network failed on an input of {size} \(h, w\): .*[Kk]ernel size'
    with pytest.raises(ValueError, match=message):
        raise error
    with pytest.raises(ValueError, match=message):
        list(segmenter(tmp_path))


def test_segmenter__a_generator_is_asked_for_one_batch_at_a_time() -> None:
    def frames() -> Iterator[np.ndarray]:
        yield photo()
        raise AssertionError('nobody wanted a second one')

    result = next(SemanticSegmenter(make_model(patch_config()))(frames()))
    assert result.class_map.shape == (61, 90)


def test_segmenter__a_list_is_looked_through_before_the_first_image(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'gone\.png does not exist'):
        next(SemanticSegmenter(make_model(patch_config()))([photo(), tmp_path / 'gone.png']))


def test_passes__logits_are_held_once() -> None:
    network = SemanticNetwork(make_model(patch_config(stride=1)))
    passes = Passes(network, PresetPreparation(OWN_SIZE), None, batch_size=2)
    images = [ImageOnWay(index, None, photo(seed=index)) for index in range(2)]
    for image in images:
        image.prepared = passes.prepare(image)
    sources = passes.whole(images)
    for image, source in zip(images, sources, strict=True):
        assert image.logits.shape == (1, 4, 61, 90)
        # Nothing is resized: the rows are those in memory.
        assert source.rows(0, 61).data_ptr() == image.logits.data_ptr()


def test_passes__windows_of_a_row_are_prepared_batch_by_batch() -> None:
    model = make_model(patch_config(stride=1))
    passes = Passes(SemanticNetwork(model), PresetPreparation(OWN_SIZE), None, batch_size=2)
    steps = []
    prepare = passes.prepare
    passes.prepare = lambda *args: steps.append('prepare') or prepare(*args)
    model.register_forward_hook(lambda *_: steps.append('forward'))
    passes.blended(ImageOnWay(0, None, photo(16, 80)), Slide(16, 16)).rows(0, 16)
    assert steps == ['prepare', 'prepare', 'forward'] * 2 + ['prepare', 'forward']


@pytest.mark.parametrize('windows', [None, Slide(24)], ids=['whole', 'windows'])
def test_segmenter__logits_that_are_no_numbers_spoil_their_image_only(windows) -> None:
    model = make_model(patch_config(stride=1))

    def spoil(_, inputs, output):
        # White is spoilt.
        return (output[0].masked_fill((inputs[0] > 2).all(1, keepdim=True), torch.nan),)

    model.backbone.register_forward_hook(spoil)
    segmenter = SemanticSegmenter(model, preset=OWN_SIZE, batch_size=2, windows=windows)
    dark = (photo(40, 40) // 2).astype(np.uint8)
    white = dark.copy()
    white[30:] = 255
    told = []
    found = list(segmenter([white, dark], on_error=lambda *error: told.append(error)))
    assert [result.index for result in found] == [1]
    (error,) = [str(error) for _, error in told]
    assert 'logits that are infinite or no numbers' in error


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(preset='hg'), "preset: got 'hg', expected one of hf, mmseg, nvlabs"),
        (dict(batch_size=0), 'batch_size: got 0'),
        (dict(windows=Slide(8), keep_logits=True), 'keep_logits: got windows'),
        (dict(checkpoint='a.pth'), 'got a model and a checkpoint'),
    ],
    ids=['preset', 'batch', 'logits', 'checkpoint'],
)
def test_segmenter__mistakes(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticSegmenter(make_model(patch_config()), **settings)


def test_segmenter__models_of_another_kind() -> None:
    model = make_model(patch_config())
    with pytest.raises(ValueError, match='got a ReLU, expected a semantic model'):
        SemanticSegmenter(nn.ReLU())
    with pytest.raises(ValueError, match='got a DepthEstimator, which says distances'):
        SemanticSegmenter(make_model(of_type(patch_config(), 'mmseg.DepthEstimator')))
    with pytest.raises(ValueError, match='got 3 class names and a network of 4 classes'):
        model.dataset_meta = dict(classes=CLASSES[:3])
        SemanticSegmenter(model)
    with pytest.raises(ValueError, match='training mode'):
        SemanticSegmenter(model.train())


def test_segmentation__shares_and_overlay() -> None:
    found = segment(make_model(patch_config()), photo())
    counted = [(found.class_map == label).mean() for label in range(4)]
    np.testing.assert_allclose(found.shares(), counted)
    for style in ('fill', 'outline'):
        picture = found.overlay(style)
        assert picture.shape[0] >= 61 and picture.shape[1] > 90
        assert (picture[:61, :90] != photo()[..., ::-1]).any()
    with pytest.raises(ValueError, match="style: got 'contour', expected one of fill, outline"):
        found.overlay('contour')
