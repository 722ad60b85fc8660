"""The report of `tools/analyze_fusion.py` as one HTML page, from the numbers of its JSON file and some pictures."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.registry import TRANSFORMS

from mmext.apis.fusion_analysis import ALL, PRECISIONS, WITH, WITHOUT, FusionRun, choose_images
from mmext.apis.fusion_outputs import ImageQueries
from mmext.evaluation.detection_confusion import ObjectTruth
from mmext.visualization.exploration_page import figure_tag, html_page, html_table
from mmext.visualization.heat_maps import draw_heat_maps, grid_shape, heat_maps
from mmext.visualization.instances import class_colors, draw_instances
from mmext.visualization.matrices import draw_counts, draw_difference, draw_similarities

NOTHING = '-'
# Differences below it are shown as 0.
_SAME = 5e-5
# Longer side of a photo in the report, pixels.
_LONGEST = 640


def number(value: float | None, form: str = '{:.3f}') -> str:
    """A number of a table; '-' where there is none, and '0' for differences that are none."""
    if value is None:
        return NOTHING
    is_nothing = '+' in form and abs(value) < _SAME
    return '0' if is_nothing else form.format(value)


def score_rows(report: Mapping[str, Any], precisions: Sequence[str]) -> list[list[str]]:
    """A header and a line for each class: averages of every detector, and what texts change."""
    scores, changes = report['scores'], report['change']
    detectors = list(scores)
    header = ['class', 'objects']
    for name in precisions:
        header += [f'{name} {detector}' for detector in detectors] + [f'{name}: {WITH} - {WITHOUT}']
    rows = [header]
    for own in (*report['classes'], ALL):
        objects = report['objects'].get(own, sum(report['objects'].values()))
        row = [own, str(objects)]
        for name in precisions:
            row += [number(scores[detector][own][name]) for detector in detectors]
            row.append(number(changes[own][name], '{:+.3f}'))
        rows.append(row)
    return rows


def ablation_rows(report: Mapping[str, Any], detector: str, precision: str) -> list[list[str]]:
    """A header and a line for each change of the texts: by how much every class's average of a detector moves."""
    names = [ALL, *report['classes']]
    rows = [['texts', *names]]
    for own in report['ablation']:
        values = (own['change'][detector][name][precision] for name in names)
        rows.append([own['name'], *(number(value, '{:+.3f}') for value in values)])
    return rows


def confusion_rows(confusion: Mapping[str, Any], key: str, form: str = '{:d}') -> list[list[str]]:
    """A header and the lines of a matrix."""
    names = confusion['names']
    rows = [['is \\ found as', *names]]
    for name, values in zip(names, confusion[key], strict=True):
        rows.append([name, *(form.format(value) if value else '0' for value in values)])
    return rows


def report_page(report: Mapping[str, Any], heat_pictures: Sequence[str]) -> str:
    """The page.

    Args:
        report: see `mmext.tools.analyze_fusion`.
        heat_pictures: of some images, HTML already.
    """
    sections = [
        ('Model, texts and data', _head(report)),
        ('Sentences', _sentences(report)),
        ('Average precision of each class', _scores(report)),
        ('What is taken for what', _confusions(report)),
        ('What the queries on objects answer to', _object_similarity(report)),
        ('Which places answer to which sentence', _heat_maps(heat_pictures)),
        ('Other sentences', _ablation(report)),
    ]
    return html_page(f'Texts of {report["checkpoint"]}', sections)


def heat_pictures(
    run: FusionRun, queries: Sequence[ImageQueries], truth: Mapping[int, ObjectTruth], count: int
) -> list[str]:
    """Heat maps of some images with objects, chosen so that all classes are seen, as HTML.

    See `heat_maps` and `draw_heat_maps` for what is painted; the weight of a query is its highest fused score.
    """
    load = TRANSFORMS.build(dict(type='mmext.LoadImage'))
    classes = run.model.classes
    palette = class_colors(run.evaluator.dataset_meta.get('palette'), len(classes))
    pictures = []
    for image in choose_images(queries, truth, count):
        height, width = image.ori_shape
        photo = load(dict(img_path=image.img_path, height=height, width=width))['img'][..., ::-1]
        # No panel shows more pixels, and boxes one pixel wide are to be seen.
        factor = min(_LONGEST / max(height, width), 1.0)
        photo = cv2.resize(photo, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        own = truth[image.img_id]
        annotated = draw_instances(
            photo,
            own.boxes * factor,
            names=[classes[label] for label in own.labels],
            colors=[palette[label] for label in own.labels],
        )
        shape = grid_shape(image.ori_shape)
        scale = np.array([shape[1] / width, shape[0] / height] * 2)
        maps = heat_maps(image.boxes * scale, image.scores, image.similarity, shape)
        name = Path(image.img_path).name
        pictures.append(figure_tag(draw_heat_maps(photo, annotated, maps, classes, name), name))
    return pictures


def _table(rows: Sequence[Sequence[str]]) -> str:
    return html_table(rows[0], rows[1:])


def _text(text: str) -> str:
    return f'<p>{html.escape(text)}</p>'


def _head(report: Mapping[str, Any]) -> str:
    fusion, text = report['fusion'], report['text']
    facts = [('config', report['config']), ('checkpoint', report['checkpoint'])]
    facts += [('vision only', report['vision_only'])] if report['vision_only'] else []
    facts += [('head', fusion['kind']), ('gate', number(fusion['gate'], '{:.4f}'))]
    facts += [
        ('temperature', f'{fusion["temperature"]:.4f} (scale {1 / fusion["temperature"]:.2f})')
    ]
    facts += [('bias of the text logits', number(fusion['bias'], '{:.3f}'))]
    facts += [
        (key.replace('_', ' '), value or 'not known') for key, value in text['source'].items()
    ]
    facts += [('images', report['images']), ('objects', sum(report['objects'].values()))]
    notes = list(text['notes'])
    if fusion['gate'] == 0:
        notes.append(
            "The gate is 0: the texts do not reach the scores, which are the detector's own."
        )
    return html_table(('what', 'value'), facts) + ''.join(_text(note) for note in notes)


def _sentences(report: Mapping[str, Any]) -> str:
    text, classes = report['text'], report['classes']
    rows = [
        (
            name,
            text['owners'][name] or 'not known',
            '; '.join(text['sentences'].get(name, [NOTHING])),
        )
        for name in classes
    ]
    pictures = ''.join(
        figure_tag(draw_similarities(np.array(report['fusion'][key]), classes, title), title)
        for key, title in (
            ('embeddings', 'cosines of the texts, by the text model'),
            ('projected', 'cosines of the texts, as the head sees them'),
        )
    )
    return html_table(('class', 'has the text of', 'prompts'), rows) + pictures


def _scores(report: Mapping[str, Any]) -> str:
    text = (
        "COCO's protocol for boxes. Without texts: the logits of the detector within this model; with: what the model finds; "
        'texts alone: the logits that the texts give without those of the detector.'
    )
    tables = [_table(score_rows(report, [name])) for name in PRECISIONS]
    return _text(text) + '<br>'.join(tables)


def _confusions(report: Mapping[str, Any]) -> str:
    confusion = report['confusion']
    names = confusion['names']
    bounds = ', '.join(f'{name} {value:.3f}' for name, value in confusion['thresholds'].items())
    text = (
        f'Detections matched with objects by an IoU of at least {confusion["min_iou"]:g}, whatever their classes; rows are '
        'objects, columns what they were found as. Last row: detections without an object; last column: objects without a '
        f'detection. Lowest scores: {bounds}; that without texts is chosen (--score-thr), the others so that all have as many '
        'detections, since texts may raise or lower all scores. In the difference more is red and less is blue: red is good '
        'on the diagonal, blue elsewhere.'
    )
    pictures = ''.join(
        figure_tag(draw_counts(np.array(confusion[key]), names, key), key)
        for key in (WITHOUT, WITH)
    )
    title = f'{WITH} - {WITHOUT}'
    pictures += figure_tag(draw_difference(np.array(confusion['difference']), names, title), title)
    tables = ''.join(_text(key) + _table(confusion_rows(confusion, key)) for key in (WITHOUT, WITH))
    tables += _text(title) + _table(confusion_rows(confusion, 'difference', '{:+d}'))
    return _text(text) + pictures + f'<details><summary>as tables</summary>{tables}</details>'


def _object_similarity(report: Mapping[str, Any]) -> str:
    own, classes = report['object_similarity'], report['classes']
    text = (
        'Mean cosine of the query that lies best on each object (IoU of at least 0.5, whatever it was found as) with each '
        'sentence (column). Last column: of how many of the objects with such a query the sentence of their own class is the '
        'most similar.'
    )
    rows = [['object', *classes, 'own sentence first']]
    for name, values, count, first in zip(
        classes, own['cosines'], own['objects'], own['own_first'], strict=True
    ):
        share = f'{first} of {count} ({first / count:.0%})' if count else NOTHING
        rows.append([name, *(number(value, '{:.3f}') for value in values), share])
    values = np.array(own['cosines'], dtype=float)
    title = 'cosines of queries on objects (row) and sentences (column)'
    return _text(text) + figure_tag(draw_similarities(values, classes, title), title) + _table(rows)


def _heat_maps(pictures: Sequence[str]) -> str:
    text = (
        'Painted is the mean cosine of all queries whose box covers a place, weighted with their highest fused score, above '
        '(red) or below (blue) the mean of all sentences at that place. Colours are the more opaque the higher the best score '
        'at the place is; one scale for all sentences of an image.'
    )
    return _text(text) + (''.join(pictures) or _text('No image with objects.'))


def _ablation(report: Mapping[str, Any]) -> str:
    if not report['ablation']:
        return _text('No text was changed.')
    text = (
        'What the same queries become under other texts; the checkpoint stays as it is. Drop: the text of the class gives way '
        'to the mean of the texts of all others, of the same length, which says nothing of its own. Swap: two classes exchange '
        'their texts. Numbers are differences to the own texts: of the whole model, whose gate may hide what a text does, and of '
        'the texts alone.'
    )
    if report['fusion']['kind'] == 'SoftmaxMultimodalFusion':
        text += (
            ' This head does not know which text is whose: its context is the same for every order of the texts, and its last '
            'layer has a row for each class. So a swap changes nothing.'
        )
    tables = (
        f'<h3>{name}, {detector}</h3>' + _table(ablation_rows(report, detector, name))
        for detector in report['ablation'][0]['change']
        for name in PRECISIONS
    )
    return _text(text) + ''.join(tables)
