"""Where the frames of a video go: a file that keeps alpha, or a folder of PNG files."""

import os
import shutil
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mmext.apis.photo_files import write_png
from mmext.apis.video import VideoReader, import_av

BT709 = 1  # of FFmpeg's color_primaries, color_trc and colorspace
LIMITED_RANGE = 1


class Encoding(NamedTuple):
    """How a kind of file is written.

    Attributes:
        codec: FFmpeg's name.
        opaque: pixel format of RGB.
        transparent: pixel format of RGBA; None where alpha cannot be kept.
        options: of the codec.
        audio: codecs that the kind of file can hold.
    """

    codec: str
    opaque: str
    transparent: str | None
    options: dict[str, str]
    audio: frozenset[str]


ENCODINGS = {
    '.mov': Encoding(
        'prores_ks',
        'yuv444p10le',
        'yuva444p10le',
        {'profile': '4444', 'alpha_bits': '16', 'vendor': 'apl0'},
        frozenset({'aac', 'ac3', 'alac', 'mp3', 'pcm_s16le', 'pcm_s24le'}),
    ),
    '.webm': Encoding(
        'libvpx-vp9',
        'yuv420p',
        'yuva420p',
        # Alternate reference frames and alpha exclude each other.
        {'crf': '24', 'b': '0', 'cpu-used': '4', 'row-mt': '1', 'auto-alt-ref': '0'},
        frozenset({'opus', 'vorbis'}),
    ),
    '.mp4': Encoding(
        'libx264', 'yuv420p', None, {'crf': '18'}, frozenset({'aac', 'ac3', 'mp3', 'opus'})
    ),
}


class FrameWriter(Protocol):
    """Where finished frames go.

    Attributes:
        audio: what becomes of the sound: 'none', 'kept', or why it is left out.
    """

    audio: str

    def write(self, pixels: NDArray[np.uint8], pts: int | None) -> None:
        """Add a frame, (H, W, 3) RGB or (H, W, 4) straight RGBA."""

    def repeat(self) -> None:
        """Stand in for a frame that is not there."""

    def write_audio(self, packets: Iterable[Any]) -> None:
        """Add what is heard."""

    def close(self, *, complete: bool) -> None:
        """Finish the output, or give it up."""


class SequenceWriter:
    """A folder of PNG files, 000000.png and on, one for every frame; a repeated frame is a copy.

    Args:
        folder: made with the first frame.
        reader: the source.

    Raises:
        ValueError: it is a file, or has PNG files: frames of two videos would be mixed.
    """

    def __init__(self, folder: Path, reader: VideoReader) -> None:
        if folder.is_file():
            raise ValueError(
                f'{folder} is a file; expected a folder for PNG files, or a name ending in {", ".join(ENCODINGS)}'
            )
        if next(folder.glob('*.png'), None) is not None:
            raise ValueError(f'{folder} has PNG files already; choose an empty folder')
        self.folder = folder
        self.audio = 'none' if reader.audio is None else 'left out: PNG files are silent'
        self._count = 0

    def write(self, pixels: NDArray[np.uint8], pts: int | None) -> None:
        """See `FrameWriter`; the number of the file tells the time."""
        write_png(self._path(self._count), pixels)
        self._count += 1

    def repeat(self) -> None:
        """See `FrameWriter`."""
        shutil.copyfile(self._path(self._count - 1), self._path(self._count))
        self._count += 1

    def write_audio(self, packets: Iterable[Any]) -> None:
        """A sequence is silent."""

    def close(self, *, complete: bool) -> None:
        """What is written stays: every file is complete."""

    def _path(self, index: int) -> Path:
        return self.folder / f'{index:06d}.png'


class VideoWriter:
    """A video file; it appears under its name when it is complete.

    Times are those of the source, so that files with a varying frame rate stay in step with their sound, and the picture
    before a missing one is shown for longer.

    Args:
        path: ending in one of `ENCODINGS`; `.mov` is ProRes 4444, `.webm` VP9, both with alpha; `.mp4` H.264.
        reader: the source, for frame rate and sound.

    Raises:
        ValueError: another ending.
    """

    def __init__(self, path: Path, reader: VideoReader) -> None:
        self._encoding = video_encoding(path)
        self._av = import_av()
        self._path, self._part = path, path.with_name(f'.{path.stem}.part{path.suffix}')
        self._reader = reader
        self._container: Any = None
        self._stream: Any = None
        self._audio_stream: Any = None
        self._last_pts = -1
        self.audio = 'none'
        if reader.audio is not None:
            codec = reader.audio.codec_context.name.removesuffix('float')
            kept = codec in self._encoding.audio
            self.audio = 'kept' if kept else f'left out: {codec} does not fit into {path.suffix}'

    def write(self, pixels: NDArray[np.uint8], pts: int | None) -> None:
        """See `FrameWriter`.

        Raises:
            ValueError: RGBA for a kind of file without alpha.
            OSError: the file cannot be written.
        """
        if self._stream is None:
            self._open(pixels)
        frame = self._av.VideoFrame.from_ndarray(
            pixels, 'rgb24' if pixels.shape[2] == 3 else 'rgba'
        )
        if pts is None:
            pts = round(Fraction(self._last_pts) + 1 / (self._reader.rate * self._reader.time_base))
        # Encoders refuse times that do not rise.
        self._last_pts = max(pts, self._last_pts + 1)
        matrix = self._av.video.reformatter.Colorspace.ITU709
        frame = frame.reformat(format=self._stream.pix_fmt, dst_colorspace=matrix)
        frame.pts, frame.time_base = self._last_pts, self._reader.time_base
        self._container.mux(self._stream.encode(frame))

    def repeat(self) -> None:
        """The frame before stays in sight until the next one."""

    def write_audio(self, packets: Iterable[Any]) -> None:
        """See `FrameWriter`; as it is, where the kind of file can hold it."""
        if self._audio_stream is None:
            return
        for packet in packets:
            # The packet that ends a stream has no time.
            if packet.dts is not None:
                packet.stream = self._audio_stream
                self._container.mux(packet)

    def close(self, *, complete: bool) -> None:
        """See `FrameWriter`."""
        if self._container is None:
            return
        try:
            if complete:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if complete:
                os.replace(self._part, self._path)
        finally:
            self._part.unlink(missing_ok=True)

    def _open(self, pixels: NDArray[np.uint8]) -> None:
        """Start the file with what the first frame says."""
        height, width, channels = pixels.shape
        pixel_format = self._encoding.opaque if channels == 3 else self._encoding.transparent
        if pixel_format is None:
            raise ValueError(
                f'{self._path}: {self._path.suffix} keeps no alpha; choose .mov or .webm, or a folder for PNG files, or '
                'a new background'
            )
        if self._encoding.codec == 'libx264' and (height % 2 or width % 2):
            pixel_format = 'yuv444p'  # 420 halves both sides
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = self._av.open(str(self._part), 'w')
        stream = self._container.add_stream(
            self._encoding.codec, rate=self._reader.rate, options=dict(self._encoding.options)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = self._reader.time_base
        stream.color_primaries = stream.color_trc = stream.colorspace = BT709
        stream.color_range = LIMITED_RANGE
        self._stream = stream
        if self.audio == 'kept':
            self._audio_stream = self._container.add_stream_from_template(self._reader.audio)


def video_encoding(path: Path) -> Encoding:
    """How a file of this name is written.

    Raises:
        ValueError: an ending that is not among `ENCODINGS`.
    """
    if path.suffix.lower() not in ENCODINGS:
        raise ValueError(
            f'{path}: got the ending {path.suffix!r}, expected {", ".join(ENCODINGS)}, or a name without ending for a '
            'folder of PNG files'
        )
    return ENCODINGS[path.suffix.lower()]
