"""A video, frame by frame, through a `BackgroundRemover`."""

from collections.abc import Iterator
from pathlib import Path

from mmext.apis.background import BackgroundRemover
from mmext.apis.cutout import PartSeconds
from mmext.apis.cutout_jobs import Product
from mmext.apis.photo_files import Photo
from mmext.apis.temporal import TemporalSmoother
from mmext.apis.video import VideoReader
from mmext.apis.video_files import FrameWriter, SequenceWriter, VideoWriter, video_encoding


def video_writer(path: Path, reader: VideoReader) -> FrameWriter:
    """A video file, or for a name without an ending a folder of PNG files.

    Raises:
        ValueError: an ending that is not known; a folder that has PNG files.
    """
    if not path.suffix or path.is_dir():
        return SequenceWriter(path, reader)
    video_encoding(path)
    return VideoWriter(path, reader)


def cut_video(
    remover: BackgroundRemover,
    reader: VideoReader,
    writer: FrameWriter,
    product: Product,
    smoother: TemporalSmoother,
) -> Iterator[PartSeconds]:
    """Cut out every frame; the times of each, as the iterator is asked for them. One frame at a time is in memory.

    The writer is closed at the end, and given up if anything fails or the iterator is left before.

    Args:
        remover: cuts the frames out.
        reader: the source.
        writer: of `video_writer`.
        product: what is made of the frames.
        smoother: of the alphas.

    Raises:
        ValueError: no frame can be decoded; the product does not fit the writer.
        OSError: the output cannot be written.
    """
    complete = False
    clock = remover.clock
    try:
        begin = clock()
        for frame in reader:
            if frame.is_broken:
                writer.repeat()
                continue
            decode = clock() - begin
            photo = Photo(frame.pixels)
            (matte,) = remover.mattes([photo])
            begin = clock()
            matte = matte._replace(alpha=smoother(matte.image, matte.alpha))
            smoothing = clock() - begin
            cutout = remover.finish(photo, matte, decode=decode)
            begin = clock()
            writer.write(product.render(cutout), frame.pts)
            writer.write_audio(reader.audio_packets)
            reader.audio_packets.clear()
            seconds = cutout.seconds
            yield seconds._replace(upsample=seconds.upsample + smoothing, encode=clock() - begin)
            begin = clock()
        writer.write_audio(reader.audio_packets)
        complete = True
    finally:
        writer.close(complete=complete)
