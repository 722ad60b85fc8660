"""`BackgroundRemover` with functions for a network: sizes, orientation, transparency, batches, memory."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmext.apis.background import BackgroundRemover, snap_alpha
from mmext.apis.cutout import Cutout
from mmext.apis.memory import in_fresh_process, peak_on_cpu
from mmext.apis.photo_files import Photo


def brightness(image: np.ndarray) -> np.ndarray:
    """An alpha that says how bright a place is, at a quarter of the size."""
    size = max(1, image.shape[1] // 4), max(1, image.shape[0] // 4)
    low = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return low.mean(axis=2).astype(np.float32) / 255


def right_half(image: np.ndarray) -> np.ndarray:
    """An alpha that does not look at the image."""
    alpha = np.zeros(image.shape[:2], np.float32)
    alpha[:, image.shape[1] // 2 :] = 1
    return alpha


def photo(height: int, width: int) -> np.ndarray:
    """A bright disc before a dark colour."""
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(y - height / 2, x - width / 2) < min(height, width) / 3
    return np.where(disc[..., None], (255, 250, 252), (5, 2, 0)).astype(np.uint8)


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (37, 53), (120, 90)], ids=str)
@pytest.mark.parametrize('foreground', ['blur', 'none'])
def test_remover__everything_has_the_size_of_the_photo(size, foreground):
    (cut,) = BackgroundRemover(brightness, foreground=foreground)(photo(*size))
    assert cut.alpha.shape == size and cut.alpha.dtype == np.float32
    assert cut.foreground.shape == (*size, 3)
    assert cut.rgba().shape == (*size, 4)
    assert cut.alpha_picture(16).shape == size
    for background in ((0, 0, 255), photo(9, 7), 'blur'):
        assert cut.over(background).shape == (*size, 3)


def test_remover__alpha_follows_the_upright_photo(tmp_path: Path):
    pixels = photo(60, 100)
    pixels[:, :50] = 0  # the disc's right half is left
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / 'a.jpg', quality=95, exif=exif)
    (cut,) = BackgroundRemover(brightness)(tmp_path / 'a.jpg')
    assert cut.alpha.shape == (100, 60)
    # A quarter turn to the right brings right to below.
    assert cut.alpha[60, 30] == 1 and cut.alpha[40, 30] == 0
    assert cut.path == tmp_path / 'a.jpg'


def test_remover__alpha_is_never_stretched():
    faint = BackgroundRemover(lambda image: np.full((4, 4), 0.005, np.float32))
    (cut,) = faint(photo(20, 20))
    assert not cut.alpha.any() and not cut.rgba().any()


def test_remover__what_was_transparent_stays_so():
    given = np.full((8, 8), 0.25, np.float32)
    remover = BackgroundRemover(right_half)
    own = Photo(photo(8, 8), given)
    cut = remover.finish(own, *remover.mattes([own]))
    np.testing.assert_allclose(cut.alpha, 0.25 * right_half(own.pixels))


def test_remover__tta_is_the_mean_with_the_mirror_image():
    (cut,) = BackgroundRemover(right_half, tta=True)(photo(6, 7))
    # Columns 3..6 from the image, 0..3 from its mirror image.
    assert cut.alpha[0].tolist() == [0.5, 0.5, 0.5, 1, 0.5, 0.5, 0.5]


def test_snap_alpha__by_hand():
    alpha = np.array([[0, 0.009, 0.01, 0.5, 0.99, 0.995, 1]], np.float32)
    expected = np.array([[0, 0, 0.01, 0.5, 0.99, 1, 1]], np.float32)
    assert np.array_equal(snap_alpha(alpha, 0.01), expected)


class Recorder:
    """A network that halves its images and notes what comes together."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, ...]]] = []

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image[::2, ::2]

    def predict(self, images: list[np.ndarray]) -> list[np.ndarray]:
        self.batches.append([image.shape[:2] for image in images])
        return [image[..., 0].astype(np.float32) / 255 for image in images]


def test_remover__equal_sizes_go_together_and_order_stays():
    remover = BackgroundRemover(brightness, snap=0)
    remover.network = network = Recorder()
    sizes = [(8, 10), (6, 6), (7, 9), (8, 10), (6, 6)]
    images = [np.full((*size, 3), 40 * index + 20, np.uint8) for index, size in enumerate(sizes)]
    cuts = list(remover(images, batch_size=4))
    assert network.batches == [[(4, 5)] * 3, [(3, 3)], [(3, 3)]]
    for index, (size, cut) in enumerate(zip(sizes, cuts, strict=True)):
        assert cut.alpha.shape == size
        np.testing.assert_allclose(cut.alpha, (40 * index + 20) / 255, atol=1e-6)


def test_remover__files_that_cannot_be_read_are_reported(tmp_path: Path):
    Image.fromarray(photo(9, 9)).save(tmp_path / 'b.png')
    (tmp_path / 'a.png').write_bytes(b'no image')
    remover, seen = BackgroundRemover(brightness), []
    cuts = list(
        remover(tmp_path, on_error=lambda path, error: seen.append((path.name, str(error))))
    )
    assert [cut.path.name for cut in cuts] == ['b.png']
    assert seen[0][0] == 'a.png' and 'cannot read the image' in seen[0][1]
    with pytest.raises(ValueError, match=r'cannot read the image .*a\.png'):
        list(remover(tmp_path))


def test_remover__times_of_the_parts_are_those_of_the_clock():
    ticks = iter(range(100))
    remover = BackgroundRemover(brightness, clock=lambda: float(next(ticks)))
    (cut,) = remover(photo(9, 9))
    assert cut.seconds == (0, 1, 1, 1, 1, 0)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(foreground='deep'), "got 'deep', expected one of"),
        (dict(snap=0.5), 'expected 0 <= snap < 0.5'),
        (dict(checkpoint='a.pth'), 'load it with init_model first'),
    ],
    ids=['method', 'snap', 'checkpoint'],
)
def test_remover__refuses_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        BackgroundRemover(brightness, **options)


@pytest.mark.parametrize(
    'alpha', [np.full((4, 4), np.nan, np.float32), np.full((4, 4), 2, np.float32), np.zeros((4, 4))]
)
def test_remover__refuses_what_a_function_must_not_give(alpha):
    with pytest.raises(ValueError, match='got an alpha'):
        list(BackgroundRemover(lambda image: alpha)(photo(8, 8)))


@pytest.mark.parametrize(
    'image', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)], ids=['grey', 'float']
)
def test_remover__refuses_what_is_no_image(image):
    with pytest.raises(ValueError, match='expected .H, W, 3. uint8'):
        list(BackgroundRemover(brightness)(image))


@pytest.mark.parametrize('background', ['sharp', (1, 2), (0, 0, 300), 7], ids=str)
def test_over__refuses_what_is_no_background(background):
    cut = Cutout(photo(4, 4), np.ones((4, 4), np.float32), photo(4, 4))
    with pytest.raises(ValueError, match='background: got'):
        cut.over(background)


def cut_large(height: int, width: int) -> int:
    """Bytes that a cut-out and its RGBA need at most, beyond the photo."""
    image = photo(height, width)
    remover = BackgroundRemover(brightness_512)

    def work() -> None:
        (cut,) = remover(image)
        cut.rgba()

    return peak_on_cpu(work)


def brightness_512(image: np.ndarray) -> np.ndarray:
    """What a network at 512 pixels would give."""
    return cv2.resize(image, (512, 512), interpolation=cv2.INTER_AREA)[..., 0] / np.float32(255)


@pytest.mark.slow
@pytest.mark.parametrize(('height', 'width'), [(1500, 2000), (6000, 8000)], ids=str)
def test_remover__memory_is_bounded(height, width):
    peak = in_fresh_process(cut_large, height, width)
    # alpha twice, foreground, RGBA and marks; and what a piece of the work needs, however large the photo.
    assert peak < 18 * height * width + 150 * 2**20
