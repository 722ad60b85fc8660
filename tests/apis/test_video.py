"""Videos written by the test, cut out and read again."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mmext.apis.background import BackgroundRemover
from mmext.apis.cutout import Cutout
from mmext.apis.cutout_jobs import Product
from mmext.apis.cutout_video import cut_video, video_writer
from mmext.apis.temporal import TemporalSmoother
from mmext.apis.video import VideoReader
from mmext.apis.video_files import VideoWriter

SIZE = (46, 63)
NUM_FRAMES = 9
RGBA = Product('rgba', Cutout.rgba)
WHITE = Product('composite', lambda cut: cut.over((255, 255, 255)))


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A red square that moves before grey."""
    pixels = np.full((*size, 3), 90, np.uint8)
    pixels[10:30, 4 * index : 4 * index + 16] = 230, 40, 20
    return pixels


def redness(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] > 160).astype(np.float32)


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    pts: Sequence[int] | None = None,
    sound: bool = False,
) -> Path:
    """A lossless video of 25 frames a second: PNG in MOV, FFV1 in Matroska."""
    codec, pixel_format = ('ffv1', 'bgr0') if path.suffix == '.mkv' else ('png', 'rgb24')
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        speech = container.add_stream('aac', rate=16000) if sound else None
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, 'rgb24')
            frame.pts = index if pts is None else pts[index]
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if speech is not None:
            wave = (8000 * np.sin(np.arange(4096) / 20)).astype(np.int16)
            tone = av.AudioFrame.from_ndarray(wave[None], format='s16', layout='mono')
            tone.sample_rate = 16000
            container.mux([*speech.encode(tone), *speech.encode(None)])
    return path


def make_clip(folder: Path, **options) -> Path:
    return write_video(
        folder / 'clip.mov', [picture(index) for index in range(NUM_FRAMES)], **options
    )


def run(source: Path, target: Path, product: Product, strength: float = 0.0) -> VideoReader:
    with VideoReader(source) as reader:
        writer = video_writer(target, reader)
        remover = BackgroundRemover(redness, foreground='none')
        list(cut_video(remover, reader, writer, product, TemporalSmoother(strength)))
    return reader


def decoded(path: Path, codec: str | None = None) -> list[av.VideoFrame]:
    """All frames; `codec` is a decoder that keeps alpha."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if codec is None:
            return list(container.decode(stream))
        decoder = av.CodecContext.create(codec, 'r')
        packets = list(container.demux(stream))
        return [
            frame for packet in packets for frame in decoder.decode(packet if packet.size else None)
        ]


@pytest.mark.parametrize(
    ('suffix', 'decoder', 'colour_error'),
    [('.mov', None, 1), ('.webm', 'libvpx-vp9', 4)],
    ids=['ProRes', 'VP9'],
)
def test_cut_video__alpha_and_colours_come_back(tmp_path, suffix, decoder, colour_error):
    target = tmp_path / f'cut{suffix}'
    run(make_clip(tmp_path), target, RGBA)
    frames = decoded(target, decoder)
    assert len(frames) == NUM_FRAMES
    for index, frame in enumerate(frames):
        found = frame.to_ndarray(format='rgba').astype(int)
        assert found.shape == (*SIZE, 4)
        alpha = redness(picture(index))
        assert np.abs(found[..., 3] - 255 * alpha).mean() < 1
        # Halved chroma mixes the edges; inside the square is what must be seen.
        inside = (slice(13, 27), slice(4 * index + 3, 4 * index + 13))
        assert np.abs(found[inside][..., :3] - picture(index)[inside]).mean() < colour_error
    assert [path.name for path in tmp_path.iterdir() if '.part' in path.name] == []


def test_cut_video__png_sequence_is_exact(tmp_path):
    run(make_clip(tmp_path), tmp_path / 'frames', RGBA)
    names = sorted(path.name for path in (tmp_path / 'frames').iterdir())
    assert names == [f'{index:06d}.png' for index in range(NUM_FRAMES)]
    for index, name in enumerate(names):
        with Image.open(tmp_path / 'frames' / name) as image:
            rgba = np.asarray(image)
        alpha = redness(picture(index)).astype(bool)
        assert np.array_equal(rgba[..., 3] > 0, alpha)
        assert np.array_equal(rgba[..., :3], picture(index) * alpha[..., None])


def test_cut_video__composite_to_h264_of_odd_size(tmp_path):
    target = tmp_path / 'white.mp4'
    run(make_clip(tmp_path), target, WHITE)
    found = decoded(target)[0].to_ndarray(format='rgb24').astype(int)
    assert found.shape == (*SIZE, 3)
    assert np.abs(found[:5] - 255).max() <= 4
    assert np.abs(found[13:27, 3:13] - (230, 40, 20)).max() <= 12


@pytest.mark.parametrize(
    ('name', 'sound'),
    [('cut.mov', 'kept'), ('cut.webm', 'left out: aac'), ('cut', 'left out: PNG')],
)
def test_cut_video__times_and_sound_are_those_of_the_source(tmp_path, name, sound):
    # A camera that missed some moments.
    pts = [0, 1, 2, 5, 6, 9, 10, 11, 20]
    source = make_clip(tmp_path, pts=pts, sound=True)
    with VideoReader(source) as reader:
        writer = video_writer(tmp_path / name, reader)
        remover = BackgroundRemover(redness)
        list(cut_video(remover, reader, writer, RGBA, TemporalSmoother()))
    assert writer.audio.startswith(sound)
    if name == 'cut':
        return
    frames = decoded(tmp_path / name)
    assert [round(25 * frame.time) for frame in frames] == pts
    with av.open(str(tmp_path / name)) as container:
        assert len(container.streams.audio) == (sound == 'kept')
        if sound == 'kept':
            heard = sum(frame.samples for frame in container.decode(audio=0))
            assert heard >= 4096


def break_frames(path: Path, indices: Sequence[int]) -> None:
    """Overwrite these frames of the file with zeros."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for index in indices:
        start, size = places[index]
        data[start : start + size] = bytes(size)
    path.write_bytes(data)


def test_cut_video__a_broken_frame_is_counted_and_the_one_before_stands_for_it(tmp_path):
    source = make_clip(tmp_path)
    break_frames(source, [4])
    for name in ('frames', 'cut.mov'):
        reader = run(source, tmp_path / name, RGBA)
        assert (reader.num_broken, reader.end) == (1, '')
    pngs = [path.read_bytes() for path in sorted((tmp_path / 'frames').iterdir())]
    assert len(pngs) == NUM_FRAMES and pngs[4] == pngs[3] != pngs[5]
    times = [round(25 * frame.time) for frame in decoded(tmp_path / 'cut.mov')]
    assert times == [0, 1, 2, 3, 5, 6, 7, 8]


def test_reader__broken_frames_at_the_beginning_are_left_out(tmp_path):
    source = make_clip(tmp_path)
    break_frames(source, [0, 1])
    with VideoReader(source) as reader:
        frames = list(reader)
    assert reader.num_broken == 2
    assert np.array_equal(frames[0].pixels, picture(2))


def test_reader__a_file_that_ends_too_early_gives_what_is_there(tmp_path):
    # Matroska needs no table at its end.
    source = tmp_path / 'clip.mkv'
    write_video(source, [picture(index) for index in range(NUM_FRAMES)])
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    with VideoReader(source) as reader:
        frames = [frame for frame in reader if not frame.is_broken]
    assert 1 <= len(frames) < NUM_FRAMES
    assert np.array_equal(frames[0].pixels, picture(0))


def test_reader__all_frames_broken(tmp_path):
    source = make_clip(tmp_path)
    break_frames(source, range(NUM_FRAMES))
    with VideoReader(source) as reader, pytest.raises(ValueError, match='none of its 9 frames'):
        list(reader)


@pytest.mark.parametrize('content', [b'', b'no video' * 100], ids=['empty', 'text'])
def test_reader__refuses_what_is_no_video(tmp_path, content):
    (tmp_path / 'a.mp4').write_bytes(content)
    with pytest.raises(ValueError, match=r'cannot read the video .*a\.mp4'):
        VideoReader(tmp_path / 'a.mp4')
    with pytest.raises(FileNotFoundError, match='gone'):
        VideoReader(tmp_path / 'gone.mp4')


def test_cut_video__nothing_is_left_where_it_fails(tmp_path):
    source = make_clip(tmp_path)
    with VideoReader(source) as reader:
        writer = video_writer(tmp_path / 'cut.mov', reader)
        work = cut_video(BackgroundRemover(redness), reader, writer, RGBA, TemporalSmoother())
        next(work)
        work.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['clip.mov']


@pytest.mark.parametrize(
    ('name', 'message'),
    [('cut.mp4', 'keeps no alpha; choose .mov or .webm'), ('cut.avi', r"got the ending '\.avi'")],
)
def test_writer__refuses_files_that_cannot_hold_it(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        run(make_clip(tmp_path), tmp_path / name, RGBA)


def test_writer__a_folder_with_pictures_is_refused(tmp_path):
    (tmp_path / 'frames').mkdir()
    (tmp_path / 'frames' / 'other.png').touch()
    with pytest.raises(ValueError, match='choose an empty folder'):
        run(make_clip(tmp_path), tmp_path / 'frames', RGBA)


def test_writer__a_file_is_no_folder_for_pictures(tmp_path):
    (tmp_path / 'frames').touch()
    with pytest.raises(ValueError, match='frames is a file; expected a folder for PNG files, or a'):
        run(make_clip(tmp_path), tmp_path / 'frames', RGBA)


def test_writer__frames_without_times_follow_the_frame_rate(tmp_path):
    with VideoReader(make_clip(tmp_path)) as reader:
        writer = VideoWriter(tmp_path / 'a.mov', reader)
        for index in range(3):
            writer.write(picture(index), None)
        writer.close(complete=True)
    times = [frame.time for frame in decoded(tmp_path / 'a.mov')]
    np.testing.assert_allclose(np.diff(times), 1 / 25, atol=1e-3)
