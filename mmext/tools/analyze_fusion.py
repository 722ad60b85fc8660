"""What the sentences of a `mmext.DEIMMultimodal` bring: `analyze_fusion.py CONFIG CHECKPOINT --out work_dirs/fusion_report`.

Runs the model over the test data of the config once and writes OUT/report.html, which opens without anything else, and
OUT/report.json with every number: AP of each class with and without texts, confusion matrices, which places of an image answer
to which sentence, and what happens when sentences are dropped or swapped.
"""

import argparse
import copy
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmengine.config import Config
from terminaltables import AsciiTable

from mmext.apis import fusion_analysis as analysis
from mmext.apis.cutout_outputs import check_writable
from mmext.apis.fusion_analysis import VISION, WITH, WITHOUT, FusionRun
from mmext.apis.fusion_outputs import ImageQueries, image_queries
from mmext.apis.fusion_report import ablation_rows, heat_pictures, report_page, score_rows
from mmext.apis.fusion_texts import TextChange, class_indices, default_changes, look_up_texts
from mmext.engine.checkpoint import bare_model
from mmext.evaluation.detection_confusion import MIN_IOU, ObjectTruth, read_truth
from mmext.structures.coco import read_coco_lists
from mmext.structures.descriptions import read_descriptions
from mmext.tools.command import (
    add_config_options,
    add_hook,
    add_traceback_argument,
    build_runner,
    check_checkpoint,
    explained_datasets,
    load_config,
    run_command,
)
from mmext.tools.test import as_list, edit_config

# Settings of the config's metric that the report's metric shares.
_METRIC_KEYS = ('ann_file', 'max_dets', 'backend_args')
# What a detector without texts does not know.
_TEXT_SETTINGS = ('fusion', 'text', 'frozen')
BACKGROUND = 'background'
# Beyond it the default changes of the texts would take hours.
_MOST_CLASSES = 20


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='analyze_fusion',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config of a mmext.DEIMMultimodal')
    parser.add_argument('checkpoint', help='checkpoint of it')
    parser.add_argument('--out', type=Path, required=True, help='folder for the report')
    parser.add_argument(
        '--vision-only', metavar='CHECKPOINT', help='also score this detector without texts'
    )
    parser.add_argument('--images', type=int, default=6, help='images with heat maps (6)')
    parser.add_argument('--limit', type=int, help='score only so many images, the first ones')
    parser.add_argument(
        '--swap',
        nargs=2,
        action='append',
        metavar='CLASS',
        help='two classes whose sentences change places; may be given several times',
    )
    parser.add_argument(
        '--drop',
        nargs='*',
        metavar='CLASS',
        help='classes that lose their sentence, one after the other; with neither option each class is dropped, and those '
        'with the most alike sentences are swapped; --drop without names changes nothing',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score in the confusion matrix without texts; with texts there are as many detections (0.3)',
    )
    parser.add_argument(
        '--sentences', metavar='FILE.json', help='descriptions behind the texts, to be shown'
    )
    add_config_options(parser)
    parser.add_argument(
        '--device', help='cpu, cuda or cuda:<index>; default: a GPU if there is one'
    )
    add_traceback_argument(parser)
    parser.set_defaults(launcher='none', local_rank=0)
    return parser.parse_args(argv)


def analyze(args: argparse.Namespace) -> None:
    """Analyzes as the command line says."""
    _check_arguments(args)
    check_writable(args.out)
    # Logs and the config of the run lie beside the report.
    args.work_dir = str(args.out)
    cfg = load_config(args)
    with TemporaryDirectory() as scratch:
        prepare_config(cfg, args, Path(scratch))
        runner = build_runner(cfg)
        model = analysis.check_model(bare_model(runner.model))
        analysis.check_checkpoint_texts(args.checkpoint)
        check_changes(asked_changes(args), model.classes)
        metric = cfg.test_evaluator
        truth = read_truth(metric.ann_file, model.classes, metric.get('backend_args'))
        with explained_datasets(cfg, 'test_dataloader'):
            run = analysis.run_detector(runner)
        vision = run_vision_only(cfg, args.vision_only) if args.vision_only else None
    queries = list(image_queries(run.model, run.batches))
    report = dict(config=args.config, checkpoint=args.checkpoint, vision_only=args.vision_only)
    report |= collect(run, vision, truth, queries, args)
    report['text'] = look_up_texts(run.model, cfg.model.text, args.sentences)._asdict()
    pictures = heat_pictures(run, queries, truth, args.images)
    page = report_page(report, pictures)
    (args.out / 'report.html').write_text(page, encoding='utf-8')
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (args.out / 'report.json').write_text(f'{text}\n', encoding='utf-8')
    print(summary(report))
    print(f'written: {args.out / "report.html"} and {args.out / "report.json"}')


def prepare_config(cfg: Config, args: argparse.Namespace, scratch: Path) -> None:
    """Has the config tested as `tools/test.py` does it, by boxes of each class alone.

    Raises:
        ValueError: if it cannot be tested, or has no COCO metric.
        FileNotFoundError: if there is no such checkpoint.
    """
    plain = dict(out=None, show_dir=None, descriptions=None, tta=False)
    edit_config(cfg, argparse.Namespace(checkpoint=args.checkpoint, **plain))
    add_hook(cfg, dict(type='mmext.PreflightHook'))
    metrics = [own for own in as_list(cfg.test_evaluator) if own.get('ann_file')]
    if not metrics:
        raise ValueError(
            f'config {cfg.filename}: got a test_evaluator without ann_file, expected one of COCO, such as '
            "dict(type='mmext.InstanceCocoMetric', ann_file=..., metric='bbox')"
        )
    settings = {key: metrics[0][key] for key in _METRIC_KEYS if key in metrics[0]}
    if args.limit is not None:
        settings['ann_file'] = _first_images(cfg, settings, args.limit, scratch)
    cfg.test_evaluator = dict(
        type='mmext.InstanceCocoMetric', metric='bbox', classwise=True, **settings
    )


def asked_changes(args: argparse.Namespace) -> list[TextChange] | None:
    """The changes of texts that the command line names; None where it leaves them open."""
    if args.swap is None and args.drop is None:
        return None
    drops = [TextChange('drop', (name,)) for name in args.drop or ()]
    swaps = [TextChange('swap', tuple(pair)) for pair in args.swap or ()]
    return list(dict.fromkeys(drops + swaps))


def run_vision_only(cfg: Config, checkpoint: str) -> FusionRun:
    """Tests a detector without texts on the same data."""
    cfg = copy.deepcopy(cfg)
    cfg.load_from, cfg.experiment_name = checkpoint, 'vision_only'
    cfg.model.type = 'mmext.DEIM'
    for key in _TEXT_SETTINGS:
        cfg.model.pop(key, None)
    return analysis.run_detector(build_runner(cfg))


def collect(
    run: FusionRun,
    vision: FusionRun | None,
    truth: Mapping[int, ObjectTruth],
    queries: Sequence[ImageQueries],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """All numbers of the report, but what is known about the texts."""
    classes = run.model.classes
    scores, samples = analysis.compare_scores(run)
    if vision is not None:
        scores, samples = {VISION: vision.scores, **scores}, {VISION: vision.samples, **samples}
    changes = asked_changes(args)
    if changes is None:
        changes = default_changes(run.model.fusion.context.text_embeddings, classes)
    labels = Counter(label for own in truth.values() for label in own.labels[~own.crowd].tolist())
    matrices, thresholds = analysis.count_confusions(samples, truth, len(classes), args.score_thr)
    confusion = {name: matrix.tolist() for name, matrix in matrices.items()}
    cosines, objects, own_first = analysis.object_similarity(queries, truth, len(classes))
    return dict(
        classes=list(classes),
        images=len(run.samples),
        objects={name: labels[index] for index, name in enumerate(classes)},
        fusion=analysis.describe_fusion(run.model),
        scores=scores,
        change=analysis.difference(scores[WITH], scores[WITHOUT]),
        confusion=dict(
            names=[*classes, BACKGROUND],
            thresholds=thresholds,
            min_iou=MIN_IOU,
            difference=(matrices[WITH] - matrices[WITHOUT]).tolist(),
            **confusion,
        ),
        object_similarity=dict(
            cosines=[[None if np.isnan(v) else v for v in row] for row in cosines.tolist()],
            objects=objects.tolist(),
            own_first=own_first.tolist(),
        ),
        ablation=[
            dict(
                **change._asdict(),
                name=str(change),
                scores=own,
                change={key: analysis.difference(new, scores[key]) for key, new in own.items()},
            )
            for change, own in analysis.ablate(run, changes).items()
        ],
    )


def summary(report: Mapping[str, Any]) -> str:
    """The short tables for the terminal."""
    fusion = report['fusion']
    gate = '' if fusion['gate'] is None else f', gate {fusion["gate"]:.4f}'
    lines = [
        f'{report["images"]} images, {sum(report["objects"].values())} objects{gate}, temperature '
        f'{fusion["temperature"]:.4f}'
    ]
    lines += [AsciiTable(score_rows(report, [name])).table for name in ('AP', 'AP50')]
    if report['ablation']:
        lines += ['AP under other texts, difference:']
        lines += [AsciiTable(ablation_rows(report, WITH, 'AP')).table]
    return '\n'.join([*lines, *report['text']['notes']])


def check_changes(changes: Sequence[TextChange] | None, classes: Sequence[str]) -> None:
    """The named classes exist; without names there are not too many of them.

    Raises:
        ValueError: they do not, or there are.
    """
    if changes is None and len(classes) > _MOST_CLASSES:
        raise ValueError(
            f'got {len(classes)} classes and neither --drop nor --swap, whose default scores the data more often than there are '
            f'classes; expected at most {_MOST_CLASSES}. Name the classes of interest, or give --drop without names.'
        )
    for change in changes or ():
        class_indices(change, classes)


def _check_arguments(args: argparse.Namespace) -> None:
    if args.images < 0:
        raise ValueError(f'--images: got {args.images}, expected at least 0')
    if args.limit is not None and args.limit < 1:
        raise ValueError(f'--limit: got {args.limit}, expected at least 1')
    if not 0 <= args.score_thr < 1:
        raise ValueError(f'--score-thr: got {args.score_thr}, expected 0 <= score < 1')
    if args.vision_only:
        check_checkpoint(args.vision_only)
    if args.sentences:
        read_descriptions(args.sentences)  # now, not after the run


def _first_images(cfg: Config, metric: Mapping[str, Any], limit: int, scratch: Path) -> str:
    """An annotation file of the first images alone, for data set and metric."""
    dataset = cfg.test_dataloader.dataset
    if 'ann_file' not in dataset:
        raise ValueError(
            f'--limit: config {cfg.filename} has no test_dataloader.dataset.ann_file to shorten; leave --limit out'
        )
    content = read_coco_lists(
        metric['ann_file'], metric.get('backend_args'), annotation_keys=('image_id',)
    )
    kept = content['images'][:limit]
    ids = {image['id'] for image in kept}
    annotations = [own for own in content['annotations'] if own['image_id'] in ids]
    path = scratch.resolve() / 'annotations.json'
    path.write_text(json.dumps(content | dict(images=kept, annotations=annotations)))
    dataset.ann_file = str(path)
    return str(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(analyze, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
