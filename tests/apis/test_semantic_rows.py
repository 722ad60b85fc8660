"""Rows of enlarged logits against torch on the whole, transformers, and slow loops."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mmext.apis.semantic_rows import (
    BlendedRows,
    CroppedRows,
    ResizedRows,
    StoredRows,
    decide,
    ones,
    pyramid,
)
from mmext.apis.semantic_windows import Slide
from mmext.apis.tiling import Window


def logits_of(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('align_corners', [False, True], ids=['centres', 'corners'])
@pytest.mark.parametrize(
    ('low', 'size'),
    [
        ((12, 17), (50, 61)),
        ((12, 17), (7, 5)),
        ((1, 1), (9, 4)),
        ((1, 5), (1, 40)),
        ((16, 16), (1, 1)),
        ((5, 5), (5, 20)),
    ],
    ids=str,
)
def test_resized_rows__equal_interpolate_in_pieces_of_any_height(
    low: tuple[int, int], size: tuple[int, int], align_corners: bool
) -> None:
    logits = logits_of(3, *low)
    expected = functional.interpolate(logits, size, mode='bilinear', align_corners=align_corners)
    source = ResizedRows(StoredRows(logits), size, align_corners=align_corners)
    whole = source.rows(0, size[0])
    torch.testing.assert_close(whole, expected, atol=5e-6, rtol=0)
    for step in (1, 3, 4):
        pieces = [source.rows(y, min(y + step, size[0])) for y in range(0, size[0], step)]
        assert torch.equal(torch.cat(pieces, dim=2), whole)


def test_decide__equals_transformers_and_itself_in_pieces() -> None:
    logits = logits_of(7, 16, 16)
    output = SimpleNamespace(logits=logits)
    (expected,) = SegformerImageProcessorPil().post_process_semantic_segmentation(
        output, [(75, 91)]
    )
    resized = functional.interpolate(logits, (75, 91), mode='bilinear', align_corners=False)[0]
    for chunk in (1, 7 * 91 * 10, 10**9):
        source = ResizedRows(StoredRows(logits), (75, 91))
        found = decide(source, 7, with_confidence=True, chunk_values=chunk)
        assert found.class_map.dtype == np.uint8
        assert (found.class_map == expected.numpy()).all()
        assert found.confidence is not None
        np.testing.assert_allclose(found.confidence, resized.softmax(0).amax(0), atol=1e-5)


def test_decide__one_logit_by_its_threshold() -> None:
    # Probabilities 0.2689, 0.4502, 0.5498.
    logits = torch.tensor([[-1.0, -0.2, 0.2]])[None, None]
    found = decide(StoredRows(logits), 1, threshold=0.3, with_confidence=True)
    assert found.class_map.tolist() == [[0, 1, 1]]
    assert found.confidence is not None
    np.testing.assert_allclose(found.confidence, [[0.7311, 0.4502, 0.5498]], atol=1e-4)


def test_decide__more_classes_than_a_byte_holds() -> None:
    logits = torch.zeros(1, 300, 2, 2)
    logits[:, 299, 0, 0] = 1
    found = decide(StoredRows(logits), 300)
    assert found.class_map.dtype == np.uint16
    assert found.class_map.tolist() == [[299, 0], [0, 0]]


@pytest.mark.parametrize('weigh', [ones, pyramid], ids=['mean', 'pyramid'])
@pytest.mark.parametrize('step', [1, 23])
def test_blended_rows__equal_a_slow_loop(weigh, step: int) -> None:
    windows = Slide((8, 10), (5, 10)).windows((23, 31))
    parts = {window: logits_of(2, 8, 10) + index for index, window in enumerate(windows)}
    alive = []

    def make(own):
        assert len({window[1] for window in own}) == 1
        alive.append(own[0])
        return [StoredRows(parts[window]) for window in own]

    total, weights = np.zeros((1, 2, 23, 31)), np.zeros((23, 31))
    rows, columns = weigh(8).tolist(), weigh(10).tolist()
    for window, part in parts.items():
        for y in range(8):
            for x in range(10):
                weight = rows[y] * columns[x]
                total[..., window.y1 + y, window.x1 + x] += weight * part[..., y, x].numpy()
                weights[window.y1 + y, window.x1 + x] += weight
    source = BlendedRows(windows, make, weigh)
    assert source.size == (23, 31) and not alive
    pieces = [source.rows(y, min(y + step, 23)) for y in range(0, 23, step)]
    np.testing.assert_allclose(torch.cat(pieces, dim=2), total / weights, atol=1e-5)
    # Each row of windows is made once, and all of a row together.
    assert [window.y1 for window in alive] == [0, 5, 10, 15]


def test_blended_rows__forget_what_lies_above() -> None:
    windows = Slide(4, 4).windows((40, 4))
    source = BlendedRows(
        windows, lambda own: [StoredRows(torch.zeros(1, 2, 4, 4))] * len(own), ones
    )
    held = []
    for y in range(40):
        source.rows(y, y + 1)
        held.append(len(source._held))
    assert max(held) == 1


def test_pyramid__falls_from_the_middle() -> None:
    assert pyramid(5).tolist() == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    assert pyramid(1).tolist() == [1]


def test_cropped_rows__are_the_window() -> None:
    logits = logits_of(2, 9, 9)
    found = CroppedRows(StoredRows(logits), Window(1, 2, 6, 9))
    assert found.size == (7, 5)
    assert torch.equal(found.rows(3, 5), logits[:, :, 5:7, 1:6])


def test_slide__windows_of_mmseg() -> None:
    # By hand: rows start at 0, 5, 10 and at 23 - 8 = 15; columns at 0, 10, 20 and at 31 - 10 = 21.
    windows = Slide((8, 10), (5, 10)).windows((23, 31))
    assert sorted({window.y1 for window in windows}) == [0, 5, 10, 15]
    assert sorted({window.x1 for window in windows}) == [0, 10, 20, 21]
    assert Slide(512).stride == (341, 341)
    assert Slide(512).windows((100, 600)) == [Window(0, 0, 512, 100), Window(88, 0, 600, 100)]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((0,), 'got size=0'),
        ((8, 0), 'got stride=0'),
        ((8, 9), 'which leaves gaps'),
        (((8, 8, 8),), 'got size='),
    ],
    ids=['size', 'stride', 'gaps', 'three'],
)
def test_slide__mistakes(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Slide(*arguments)
