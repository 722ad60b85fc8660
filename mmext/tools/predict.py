"""Finds objects in photos, or the class of every pixel: `python -m mmext.tools.predict CONFIG CHECKPOINT INPUTS...`

Models of objects give pictures, COCO results and timings; semantic models overlays with a legend, class maps, the share
of every class (JSON and CSV) and timings.

    predict CONFIG CHECKPOINT photos/ --out found                       # pictures and found/results.json
    predict CONFIG CHECKPOINT 'big/*.png' --tile 640 --overlap 0.2 --whole
    predict CONFIG CHECKPOINT photos/ --csv submission.csv              # one object a photo
    predict CONFIG CHECKPOINT test.csv --images photos/ --csv submission.csv
    predict SEMANTIC_CONFIG CHECKPOINT photos/ --preset hf --style outline

Exit code 0 if every photo was predicted, else 2: photos that cannot be read are passed over and listed at the end.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device
from tqdm import tqdm

from mmext.apis import InstanceInferencer, Prediction, Tiling
from mmext.apis.image_inputs import find_images, relative_names
from mmext.apis.inferencer import prediction_config
from mmext.apis.model import deploy, init_tta_model, read_config
from mmext.apis.timing import Seconds, time_table
from mmext.engine.config_file import merge_options
from mmext.engine.dist import set_device
from mmext.evaluation.coco_results import coco_images, coco_results
from mmext.tools.command import (
    add_config_options,
    add_traceback_argument,
    check_checkpoint,
    run_command,
)
from mmext.tools.failures import Failures
from mmext.tools.instance_pictures import write_picture
from mmext.tools.predict_semantic import (
    add_semantic_arguments,
    check_arguments,
    is_semantic,
    predict_semantic,
)
from mmext.tools.single_objects import (
    Submission,
    add_single_object_arguments,
    list_photos,
    read_truth,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='predict',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help="image, folder or pattern such as 'a/**/*.png'; or one CSV with a column filename",
    )
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='folder to write to')
    parser.add_argument('--json', type=Path, metavar='FILE', help='default: OUT/results.json')
    parser.add_argument('--no-pictures', action='store_true', help='write the results only')
    add_single_object_arguments(parser)
    parser.add_argument(
        '--score-thr',
        type=float,
        help='lowest score of an object (default: 0.25, with --csv 0)',
    )
    parser.add_argument('--batch-size', type=int, default=1, help='photos, or tiles, at a time')
    parser.add_argument(
        '--tile', type=int, metavar='PX', help='cut photos into tiles of this side; default: do not'
    )
    parser.add_argument('--overlap', type=float, help='of neighbouring tiles (default: 0.2)')
    parser.add_argument(
        '--whole', action='store_true', help='the whole photo beside its tiles, for large objects'
    )
    parser.add_argument(
        '--tta', action='store_true', help="models of objects: the config's views, averaged"
    )
    add_semantic_arguments(parser)
    add_config_options(parser)
    parser.add_argument(
        '--device', help='cpu, cuda or cuda:<index>; default: a GPU if there is one'
    )
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def predict(args: argparse.Namespace) -> None:
    """Predicts as the command line says.

    Raises:
        ValueError: a wrong argument, before anything is predicted; photos that could not be read, at the end.
        FileNotFoundError: the config or the checkpoint does not exist.
    """
    if args.device:
        set_device(args.device)
    cfg = read_config(args.config)
    if args.cfg_options:
        merge_options(cfg, args.cfg_options)
    semantic = is_semantic(cfg)
    check_arguments(args, semantic=semantic)
    tiling = make_tiling(args)
    if semantic:
        if not args.no_pictures:
            check_folder(args.out, find_images(args.inputs))
        predict_semantic(args, cfg, tiling)
    else:
        predict_objects(args, cfg, tiling)


def predict_objects(args: argparse.Namespace, cfg: Config, tiling: Tiling | None) -> None:
    """Finds objects as the command line says.

    Args:
        args: of the command line.
        cfg: of the model, with the options of the command line.
        tiling: of the command line.

    Raises:
        ValueError: a wrong argument, before anything is predicted; photos that could not be read, at the end.
        FileNotFoundError: the checkpoint does not exist.
    """
    photos, listed = list_photos(args)
    names = dict(zip(map(str, photos), relative_names(photos), strict=True))
    truth = {} if args.truth is None else read_truth(args.truth, photos, skip_bad=args.skip_bad)
    if not args.no_pictures:
        check_folder(args.out, photos)
    inferencer = make_inferencer(args, cfg, tiling)
    meta = inferencer.dataset_meta
    run = PredictionRun(tuple(meta.get('classes', ())))
    submission = Submission(run.classes, listed)

    # Bad photos are counted by the bar too, which is why it follows the ids.
    with tqdm(total=len(photos), unit='photo', disable=not sys.stderr.isatty()) as bar:
        for prediction in inferencer(photos, on_error=run.failures.add):
            path = prediction.sample.img_path
            name = names[path]
            run.add(prediction, name)
            submission.add(prediction.sample.pred_instances, path, name)
            if not args.no_pictures:
                true = truth.get(path)
                write_picture(prediction, args.out / name, run.classes, meta.get('palette'), true)
            bar.update(prediction.sample.img_id + 1 - bar.n)
    finish(args, run, submission, len(photos))


def finish(
    args: argparse.Namespace, run: 'PredictionRun', submission: Submission, num_photos: int
) -> None:
    """Write and print what was found.

    Raises:
        ValueError: photos that could not be read, or that have no row in the CSV.
    """
    print(run.table())
    for path in run.write(args.json or args.out / 'results.json'):
        print(f'written: {path}')
    if not args.no_pictures:
        print(f'pictures: {args.out}')
    if args.csv is not None:
        submission.write(args.csv)
        print(f'written: {args.csv}')
    faults = [] if args.csv is None else submission.faults()
    faults += run.failures.faults(num_photos)
    if faults:
        raise ValueError('\n'.join(faults))


def make_tiling(args: argparse.Namespace) -> Tiling | None:
    """The tiling that the command line asks for.

    Raises:
        ValueError: a number outside its range, or an option without effect.
    """
    if args.tile is None:
        if args.whole or args.overlap is not None:
            raise ValueError('--overlap and --whole need --tile, the side of a tile in pixels')
        return None
    return Tiling(args.tile, 0.2 if args.overlap is None else args.overlap, args.whole)


def check_folder(out: Path, photos: Sequence[Path]) -> None:
    """Refuses a folder whose pictures would be taken for photos, or written over them.

    Raises:
        ValueError: photos lie in the folder, or the folder among the photos.
    """
    folder = out.resolve()
    for photo in photos:
        parent = photo.resolve().parent
        if parent.is_relative_to(folder):
            raise ValueError(
                f'--out {out} holds the photo {photo}: a picture could overwrite it. Choose another folder.'
            )


def make_inferencer(
    args: argparse.Namespace, cfg: Config, tiling: Tiling | None
) -> InstanceInferencer:
    """The model of the command line, on its device."""
    check_checkpoint(args.checkpoint)
    threshold = args.score_thr
    if threshold is None:
        threshold = 0.25 if args.csv is None else 0.0
    settings: dict = dict(score_thr=threshold, batch_size=args.batch_size, tiling=tiling)
    if args.tta:
        model = init_tta_model(prediction_config(cfg, None), args.checkpoint, get_device())
        deploy(model)
        return InstanceInferencer(model, **settings)
    return InstanceInferencer(cfg, args.checkpoint, get_device(), **settings)


class PredictionRun:
    """What a run has found so far.

    Args:
        classes: names by label; empty where nobody knows them.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self.images: list[dict] = []
        self.results: list[dict] = []
        self.seconds: list[Seconds] = []
        self.failures = Failures()

    def add(self, prediction: Prediction, name: str) -> None:
        """Take the objects and the time of one photo."""
        sample = prediction.sample
        height, width = sample.ori_shape
        image = dict(id=sample.img_id + 1, file_name=name, height=height, width=width)
        self.images.append(image)
        self.results += coco_results(sample.pred_instances, image['id'], name, self.classes)
        self.seconds.append(prediction.seconds)

    def write(self, path: Path) -> tuple[Path, Path]:
        """Write the results, and beside them the COCO file they refer to; returns both."""
        images = path.with_suffix('.images.json')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.results), encoding='utf-8')
        content = coco_images(self.images, self.results, self.classes)
        images.write_text(json.dumps(content), encoding='utf-8')
        return path, images

    def table(self) -> str:
        """Photos, objects of each class, and milliseconds for a photo."""
        counts = Counter(entry['category_name'] for entry in self.results)
        names = list(self.classes) or sorted(counts)
        lines = [f'{"photos":24} {len(self.images):8}', f'{"objects":24} {len(self.results):8}']
        lines += [f'  {name:22} {counts[name]:8}' for name in names]
        if self.seconds:
            lines.append(time_table(self.seconds, 'photo'))
        return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(predict, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
