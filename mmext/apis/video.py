"""Videos through PyAV, frame by frame."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Below this height videos that do not name their matrix are BT.601, from it on BT.709.
HD_HEIGHT = 720
UNSPECIFIED = 2  # of FFmpeg's colorspace


class VideoFrame(NamedTuple):
    """One picture of a video.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright; all of a video have one size. Of a broken frame, those of the one before.
        pts: time in units of the reader's `time_base`; None where the file does not say.
        is_broken: the frame could not be decoded.
    """

    pixels: NDArray[np.uint8]
    pts: int | None
    is_broken: bool


class VideoReader:
    """The frames of a video, one after the other; use it in a `with` statement.

    Args:
        path: any file that FFmpeg reads.

    Attributes:
        rate: frames a second.
        time_base: seconds of one unit of `pts`.
        num_frames: as the file says, 0 where it does not.
        audio: the first audio stream, or None.
        audio_packets: packets of it that came before the last frame; whoever uses them empties the list.
        num_broken: frames that could not be decoded so far.
        num_damaged: frames that the decoder has mended as well as it could.
        end: why reading stopped before the end of the file; ''.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no video.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self._av = import_av()
        if not Path(path).is_file():
            raise FileNotFoundError(f'video {path} does not exist')
        try:
            self._container = self._av.open(str(path))
        except self._av.error.FFmpegError as error:
            raise ValueError(f'cannot read the video {path}: {error}') from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f'{path} has no video, only {_kinds(self._container.streams)}')
        self._stream = self._container.streams.video[0]
        # Threads that work on several frames at once report errors late, the last ones never.
        self._stream.thread_type = 'SLICE'
        self.path = Path(path)
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self.time_base: Fraction = self._stream.time_base
        self.num_frames: int = self._stream.frames
        self.audio = next(iter(self._container.streams.audio), None)
        self.audio_packets: list[Any] = []
        self.num_broken = 0
        self.num_damaged = 0
        self.end = ''
        self._last: NDArray[np.uint8] | None = None

    def __enter__(self) -> 'VideoReader':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        """Frames in the order in which they are shown.

        In place of one that cannot be decoded comes the one before again, marked as broken; broken frames at the very
        beginning are left out.

        Raises:
            ValueError: not a single frame can be decoded.
        """
        for packet in self._packets():
            if packet.stream is self.audio:
                self.audio_packets.append(packet)
                continue
            try:
                frames = packet.decode()
            except self._av.error.FFmpegError:
                self.num_broken += 1
                if self._last is not None:
                    yield VideoFrame(self._last, packet.pts, True)
                continue
            for frame in frames:
                self.num_damaged += frame.is_corrupt
                self._last = self._upright_pixels(frame)
                yield VideoFrame(self._last, frame.pts, False)
        if self._last is None:
            raise ValueError(
                f'cannot read the video {self.path}: none of its {self.num_broken} frames can be decoded'
            )

    def _packets(self) -> Iterator[Any]:
        streams = [self._stream] if self.audio is None else [self._stream, self.audio]
        packets = self._container.demux(streams)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._av.error.FFmpegError as error:
                self.end = str(error)
                return
            yield packet

    def _upright_pixels(self, frame: Any) -> NDArray[np.uint8]:
        matrix = None
        if frame.colorspace == UNSPECIFIED and frame.height >= HD_HEIGHT:
            matrix = self._av.video.reformatter.Colorspace.ITU709
        pixels = frame.reformat(format='rgb24', src_colorspace=matrix).to_ndarray()
        pixels = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
        if self._last is not None and pixels.shape != self._last.shape:
            raise ValueError(
                f'{self.path}: the frames change from {self._last.shape[:2]} to {pixels.shape[:2]} (height, width) within '
                'the video; expected one size. Split the video there.'
            )
        return pixels


def import_av() -> ModuleType:
    """PyAV.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("videos need PyAV: pip install 'mmext[app]'") from error
    return av


def _kinds(streams: Any) -> str:
    return ', '.join(sorted({stream.type for stream in streams})) or 'nothing'
