"""Scores the alpha files of any tool against true ones.

    python tools/eval_mattes.py PRED GT
    python tools/eval_mattes.py PRED data/person_parsing/alpha --list data/person_parsing/val.txt
    python tools/eval_mattes.py PRED GT --clips --metrics region error dtssd --out scores.json

Files belong together by their path below the folder, without the suffix. Grey files of 8 or 16 bits and the alpha channel of
RGBA files are read; predictions of which no file holds more than 1 are masks of 0 and 1. With `--clips` each folder of
frames is a video. What is missing, superfluous, of another size or unreadable is listed, the rest is scored, and the
exit code is 1.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mmext.apis.image_inputs import find_images
from mmext.datasets.image_files import damage
from mmext.datasets.transforms.alpha_files import decode_alpha, read_bytes
from mmext.evaluation.matte_scores import (
    DEFAULT_METRICS,
    METRICS,
    TRIMAP_RADII,
    ImageScores,
    MatteScorer,
)
from mmext.evaluation.matte_table import check_table_name, write_score_table
from mmext.tools.command import add_traceback_argument, run_command

# Columns of the table of images; the file of --out has all.
COLUMNS = 'IoU SAD_k MAD_x1e3 MSE_x1e3 Grad_k Conn_k SSIM boundary_F LPIPS dtSSD_x1e2'.split()
NOT_SCORED = 1


class Fault(NamedTuple):
    """A file that could not be scored, and why."""

    name: str
    reason: str


class Pair(NamedTuple):
    """A prediction and its truth."""

    name: str
    prediction: Path
    truth: Path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='eval_mattes',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('pred', type=Path, metavar='PRED', help='folder of predicted alphas')
    parser.add_argument('gt', type=Path, metavar='GT', help='folder of true alphas')
    parser.add_argument(
        '--metrics', nargs='+', choices=list(METRICS), default=list(DEFAULT_METRICS), metavar='NAME',
        help=f'some of {" ".join(METRICS)} (default: {" ".join(DEFAULT_METRICS)})',
    )  # fmt: skip
    parser.add_argument('--clips', action='store_true', help='folders are videos; adds dtssd')
    parser.add_argument(
        '--pred-suffix', default='', metavar='TEXT', help='what ends the names of PRED: _alpha'
    )
    parser.add_argument('--threshold', type=float, default=0.5, help='of foreground (0.5)')
    parser.add_argument(
        '--radii', nargs='+', type=int, default=list(TRIMAP_RADII), metavar='PX', help='of trimaps'
    )
    parser.add_argument('--images', type=Path, metavar='DIR', help='the photos, for lpips')
    parser.add_argument(
        '--lpips-files', nargs=2, metavar=('ALEXNET.pth', 'LINEAR.pth'), help='weights, for lpips'
    )
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='write all numbers here')
    parser.add_argument(
        '--table', type=Path, metavar='FILE.csv', help='write a line an image here, the worst first'
    )
    add_list_argument(parser)
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def add_list_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that `listed_names` reads."""
    parser.add_argument(
        '--list',
        type=Path,
        metavar='FILE.txt',
        help='only these images, as a MatteDataset lists them',
    )


def listed_names(path: Path | None) -> set[str] | None:
    """Names without suffix of a list of images, one a line (up to a tab); None without a list.

    Raises:
        ValueError: it names no image.
    """
    if path is None:
        return None
    # As MatteDataset reads it: some editors begin a file with a byte order mark.
    text = path.read_text('utf-8-sig')
    lines = [line.partition('\t')[0].strip() for line in text.splitlines()]
    names = {Path(own).with_suffix('').as_posix() for own in lines if own and own[0] != '#'}
    if not names:
        raise ValueError(f'{path} names no image; expected one a line')
    return names


def files_by_name(folder: Path, suffix: str = '') -> tuple[dict[str, Path], list[Fault]]:
    """Image files by their path below the folder without its ending; of equal names the first, the others as faults.

    Raises:
        ValueError: the folder does not exist or has no images.
    """
    if not folder.is_dir():
        raise ValueError(f'{folder} is no folder; expected one of alpha files')
    files: dict[str, Path] = {}
    faults = []
    for path in find_images(folder):
        name = path.relative_to(folder).with_suffix('').as_posix().removesuffix(suffix)
        if name in files:
            faults.append(Fault(name, f'{path.name} has the name of {files[name].name}'))
        else:
            files[name] = path
    return files, faults


def match(
    pred: Path, gt: Path, *, suffix: str = '', listed: set[str] | None = None
) -> tuple[list[Pair], list[Fault]]:
    """Pairs in the natural order of their names, and what has no counterpart.

    Args:
        pred: folder of predictions.
        gt: folder of truths.
        suffix: taken off the names of predictions.
        listed: the names that count; None for all.

    Raises:
        ValueError: a folder does not exist or has no images, or no file of one has a counterpart in the other.
    """
    predictions, faults = files_by_name(pred, suffix)
    truths, more = files_by_name(gt)
    wanted = predictions.keys() | truths.keys() if listed is None else listed
    faults = [own for own in (*faults, *more) if own.name in wanted]
    faults += [
        Fault(name, f'not in {folder}')
        for folder, files in ((pred, predictions), (gt, truths))
        for name in sorted(wanted - files.keys())
    ]
    names = sorted(wanted & predictions.keys() & truths.keys(), key=natural_order)
    if not names:
        raise ValueError(
            f'no file of {pred} has the name of one of {gt}: got {min(predictions)!r}, expected such as '
            f'{min(truths)!r}. Give folders of the same names; --pred-suffix takes off what a tool adds.'
        )
    return [Pair(name, predictions[name], truths[name]) for name in names], faults


def natural_order(name: str) -> list[tuple[str, list[tuple[bool, int, str]]]]:
    """Sort key by which frame 10 comes after frame 9, folder by folder."""
    return [
        (re.sub(r'\d+', '', part), [(t.isdecimal(), int(t) if t.isdecimal() else 0, t) for t in re.split(r'(\d+)', part)])
        for part in name.split('/')
    ]  # fmt: skip


def raw_alpha(path: Path) -> NDArray:
    """The channel (H, W) of a predicted alpha, uint8 or uint16, as stored.

    Raises:
        ValueError: the file cannot be decoded, is coloured, or has another type.
    """
    data = read_bytes(str(path))
    if problem := damage(data):
        raise ValueError(f'it is truncated or damaged ({problem})')
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError('it cannot be decoded as an image')
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'got values of {pixels.dtype}, expected 8 or 16 bits')
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., :3]
    is_grey = np.array_equal(colours[..., :2], colours[..., 1:])
    full = 255 if pixels.dtype == np.uint8 else 65535
    # An opaque grey file with an alpha channel is a grey matte.
    if pixels.shape[2] == 4 and not (is_grey and pixels[..., 3].min() == full):
        return pixels[..., 3]
    if not is_grey:
        raise ValueError('got a colour image, expected grey, or RGBA with the matte as its alpha')
    return pixels[..., 0]


def are_labels(paths: Sequence[Path]) -> bool:
    """Whether no file holds more than 1: masks of 0 and 1. One soft file settles it, mostly the first."""
    for path in paths:
        try:
            if raw_alpha(path).max() > 1:
                return False
        except ValueError:  # told when its turn comes
            continue
    return True


def score_pairs(
    pairs: Sequence[Pair], scorer: MatteScorer, args: argparse.Namespace
) -> tuple[list[ImageScores], list[Fault]]:
    """Scores of the pairs, and those that could not be scored."""
    labels = are_labels([pair.prediction for pair in pairs])
    photos = files_by_name(args.images)[0] if args.images else {}
    scored, faults = [], []
    for pair in tqdm(pairs, unit='image', disable=None):
        try:
            raw = raw_alpha(pair.prediction)
            prediction = raw / np.float32(1 if labels else np.iinfo(raw.dtype).max)
            truth = decode_alpha(read_bytes(str(pair.truth)), str(pair.truth))
            scores = scorer.score(
                pair.name,
                prediction,
                truth,
                clip=str(Path(pair.name).parent) if args.clips else '',
                image=None if scorer.lpips is None else read_photo(photos, pair.name),
            )
            scored.append(scores)
        except (ValueError, OSError) as error:
            faults.append(Fault(pair.name, str(error)))
            scorer.forget_frame()
    return scored, faults


def read_photo(photos: Mapping[str, Path], name: str) -> NDArray[np.uint8]:
    """RGB (H, W, 3).

    Raises:
        ValueError: it is missing or damaged.
    """
    if name not in photos:
        raise ValueError('its photo is missing in --images, which LPIPS needs')
    image = cv2.imdecode(
        np.frombuffer(read_bytes(str(photos[name])), np.uint8), cv2.IMREAD_COLOR_RGB
    )
    if image is None:
        raise ValueError(f'its photo {photos[name]} cannot be decoded')
    return np.asarray(image, np.uint8)


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A line an image, with the columns that any has."""
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    width = max(map(len, rows))
    lines = [f'{"":{width}}  ' + ' '.join(f'{name:>10}' for name in columns)]
    for name, row in rows.items():
        cells = [f'{row[column]:10.4f}' if column in row else f'{"-":>10}' for column in columns]
        lines.append(f'{name:{width}}  ' + ' '.join(cells))
    return '\n'.join(lines)


def evaluate(args: argparse.Namespace) -> int:
    """Scores, prints and writes; returns the exit code."""
    metrics = list(dict.fromkeys([*args.metrics, *(['dtssd'] if args.clips else [])]))
    if 'dtssd' in metrics and not args.clips:
        raise ValueError('dtssd compares frames of videos: give --clips, with a folder a video')
    if 'lpips' in metrics and args.lpips_files and not args.images:
        raise ValueError('lpips needs the photos: give their folder as --images')
    check_table_name(args.table)
    files = dict(zip(('backbone', 'linear'), args.lpips_files or (), strict=False))
    scorer = MatteScorer(
        metrics, threshold=args.threshold, trimap_radii=args.radii, lpips_files=files or None
    )
    pairs, faults = match(
        args.pred, args.gt, suffix=args.pred_suffix, listed=listed_names(args.list)
    )
    scored, more = score_pairs(pairs, scorer, args)
    faults += more
    rows = {own.name: scorer.row(own) for own in scored}
    summary = scorer.summarise(scored) if scored else {}
    if scored:
        print(table(rows))
        print('\n' + '\n'.join(f'{name:24} {value:.4f}' for name, value in summary.items()))
    print(f'\n{len(scored)} images scored')
    if args.table:
        write_score_table(args.table, list(rows.items()))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        report = dict(summary=summary, images=rows, not_scored=[own._asdict() for own in faults])
        args.out.write_text(json.dumps(report, indent=1), encoding='utf-8')
    if faults:
        print(f'{len(faults)} files not scored:', file=sys.stderr)
        print('\n'.join(f'  {own.name}: {own.reason}' for own in faults), file=sys.stderr)
    return NOT_SCORED if faults else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(evaluate, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
