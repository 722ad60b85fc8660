"""The command line of `remove_background`."""

import argparse
from pathlib import Path

from mmext.apis.background import SNAP
from mmext.apis.compositing import BLUR
from mmext.apis.foreground import METHODS
from mmext.apis.photo_files import PNG_LEVEL
from mmext.apis.temporal import STRENGTH
from mmext.tools.command import add_config_options, add_traceback_argument


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of a command for photos, folders and videos, with the text that introduces it."""
    parser = argparse.ArgumentParser(
        prog='remove_background',
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest='kind', required=True, metavar='image|folder|video')
    image = kinds.add_parser('image', help='one photo')
    folder = kinds.add_parser('folder', help='all photos below a folder')
    video = kinds.add_parser('video', help='a video, to .mov, .webm, .mp4 or a folder of PNG files')
    add_arguments(image, source='photo', out='name of the picture, ending in .png')
    add_arguments(folder, source='folder of photos, at any depth', out='folder for the pictures')
    add_arguments(
        video,
        source='video, of any kind that FFmpeg reads',
        out='.mov (ProRes 4444) or .webm (VP9) with alpha, .mp4 with --bg, or a name without ending: a folder of PNG files',
    )
    add_own_arguments(folder, video)
    return parser


def add_own_arguments(folder: argparse.ArgumentParser, video: argparse.ArgumentParser) -> None:
    """Adds what folders and videos have for themselves."""
    folder.add_argument(
        '--batch-size',
        type=int,
        default=1,
        metavar='N',
        help='photos through the network at a time (1)',
    )
    folder.add_argument(
        '--workers',
        type=int,
        default=2,
        metavar='N',
        help='threads that read, and as many that write (2)',
    )
    folder.add_argument(
        '--skip-existing', action='store_true', help='leave out photos whose products are there'
    )
    for own in (folder, video):
        own.add_argument(
            '--report',
            type=Path,
            metavar='FILE.json',
            help='times and failures; default: OUT/report.json, or OUT.report.json of a video',
        )
    video.add_argument(
        '--smoothing',
        type=float,
        default=STRENGTH,
        metavar='SHARE',
        help=f'share of the past in an alpha where nothing moves, 0 to switch off ({STRENGTH})',
    )


def add_arguments(parser: argparse.ArgumentParser, *, source: str, out: str) -> None:
    """Adds what photos, folders and videos have in common; the texts say what input and output are."""
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('input', help=source)
    parser.add_argument('out', type=Path, help=out)
    parser.add_argument('--rgba', action='store_true', help='straight RGBA (default)')
    parser.add_argument('--alpha', action='store_true', help='the matte, in grey')
    parser.add_argument(
        '--bg',
        metavar='COLOR|IMAGE|blur',
        help="new background: 'white', '#ff8000', a file, or blur",
    )
    parser.add_argument('--bits', type=int, choices=(8, 16), default=8, help='of --alpha (8)')
    parser.add_argument(
        '--blur',
        type=float,
        default=BLUR,
        metavar='SHARE',
        help=f'of --bg blur, share of the longer side ({BLUR})',
    )
    parser.add_argument('--linear-light', action='store_true', help='mix light, not sRGB values')
    parser.add_argument(
        '--fg', choices=list(METHODS), default='blur', help='estimate of the foreground (blur)'
    )
    parser.add_argument('--tta', action='store_true', help='mean with the mirrored image')
    parser.add_argument(
        '--snap',
        type=float,
        default=SNAP,
        metavar='ALPHA',
        help=f'alpha this near to 0 or 1 becomes it ({SNAP})',
    )
    parser.add_argument(
        '--png-level', type=int, choices=range(10), default=PNG_LEVEL, metavar='0..9',
        help=f'compression; more takes longer ({PNG_LEVEL})',
    )  # fmt: skip
    parser.add_argument(
        '--device', help='cpu, cuda or cuda:<index>; default: a GPU if there is one'
    )
    add_config_options(parser)
    add_traceback_argument(parser)
