"""COCO annotation files for training and evaluation: references checked, objects parsed, all losses reported."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmext.datasets.report import Report
from mmext.structures.coco import is_box, is_polygon, read_coco_lists

# Boxes are written with one or two decimals: below this, reaching over the edge is rounding.
EDGE_TOLERANCE = 0.1


@dataclass
class CocoFile:
    """A COCO file whose lists have the keys that are needed and whose references are sound.

    Attributes:
        path: Of the file, for messages.
        categories: id -> name, in the order of the file.
        images: The image dicts: `id`, `file_name`, `width`, `height`.
        annotations: Image id -> its annotation dicts.
    """

    path: str
    categories: dict[int, str]
    images: list[dict]
    annotations: dict[int, list[dict]]


def read_coco(
    path: str, backend_args: dict | None, annotation_keys: Sequence[str], report: Report
) -> CocoFile:
    """Read and check an annotation file.

    Args:
        path: The file.
        backend_args: Of mmengine's file backend; None for local files.
        annotation_keys: Keys that every annotation must have besides `id`.
        report: Takes annotations of images that the file does not list; they are left out.

    Raises:
        ValueError: The file is missing, is no JSON, lacks keys, repeats ids or category names, or an
            annotation points to a category that is not listed.
    """
    lists = read_coco_lists(
        path,
        backend_args,
        image_keys=('file_name', 'width', 'height'),
        annotation_keys=annotation_keys,
    )
    categories = lists['categories']
    names = [category['name'] for category in categories]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f'{path} lists the category names {twice} more than once. Join their ids.')
    coco = CocoFile(path, {c['id']: c['name'] for c in categories}, lists['images'], {})
    coco.annotations = _by_image(coco, lists['annotations'], report)
    return coco


def category_labels(coco: CocoFile, classes: Sequence[str], report: Report) -> dict[int, int]:
    """Category id -> label, the position of its name in `classes`.

    mmdet numbers labels in the order of the annotation file, whatever the order of `classes`, and so does its
    `CocoMetric`. A class that the file does not know shifts all labels behind it. Both are refused here.

    Args:
        coco: The annotation file.
        classes: Names in the order of the labels; a part of the file's categories will do.
        report: Takes the annotations of categories that are not among the classes; they are left out.

    Raises:
        ValueError: A class is not in the file, or the orders differ.
    """
    known = list(coco.categories.values())
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise ValueError(
            f'The classes {unknown} are not among the categories of {coco.path}.\n'
            f'  got (metainfo):  {list(classes)}\n'
            f'  expected (file): {known}\n'
            'Write the names of the file into `metainfo=dict(classes=(...))`, or leave metainfo out to take them '
            'from the file.'
        )
    in_file_order = [name for name in known if name in classes]
    if in_file_order != list(classes):
        raise ValueError(
            f'The classes stand in another order than in {coco.path}; CocoMetric would mix them up.\n'
            f'  got (metainfo):  {list(classes)}\n'
            f'  expected (file): {in_file_order}\n'
            'Write them in the order of the file.'
        )
    labels = {name: label for label, name in enumerate(classes)}
    for image in coco.images:
        for annotation in coco.annotations.get(image['id'], []):
            name = coco.categories[annotation['category_id']]
            if name not in labels:
                report.problem(
                    'object of a category that is not among the classes, left out',
                    image['file_name'],
                    f'annotation {annotation["id"]}: {name}',
                )
    return {index: labels[name] for index, name in coco.categories.items() if name in labels}


def parse_instance(
    annotation: Mapping, image: Mapping, label: int, needs_mask: bool, report: Report
) -> dict | None:
    """One object in the form of mmdet's `instances`, or None with a problem reported.

    Args:
        annotation: COCO annotation with `id`, `bbox` (x, y, w, h), and maybe `segmentation`, `iscrowd`, `ignore`.
        image: COCO image with `file_name`, `width`, `height`.
        label: The class.
        needs_mask: Whether an object without a mask is of no use.
        report: Takes what was left out or changed.

    Returns:
        `bbox` [x1, y1, x2, y2] inside the image, `bbox_label`, `ignore_flag` 0 or 1, and `mask` (list of
        polygons with at least 3 points, or run-length dict) where there is one.
    """
    where = (image['file_name'], f'annotation {annotation["id"]}')
    bbox = _clipped_box(annotation['bbox'], image, where, report)
    if bbox is None:
        return None
    instance = {
        'bbox': bbox,
        'bbox_label': label,
        'ignore_flag': int(bool(annotation.get('iscrowd') or annotation.get('ignore'))),
    }
    segmentation = annotation.get('segmentation')
    if segmentation:
        mask = _checked_mask(segmentation, image, where, report)
        if mask is None:
            return None
        instance['mask'] = mask
    elif needs_mask:
        report.problem('object without a mask, left out', *where)
        return None
    return instance


def _by_image(coco: CocoFile, annotations: list[dict], report: Report) -> dict[int, list[dict]]:
    """Annotations by image id; categories must be listed, annotations without an image are left out."""
    strangers = sorted({a['category_id'] for a in annotations} - set(coco.categories), key=str)
    if strangers:
        count = sum(a['category_id'] in strangers for a in annotations)
        raise ValueError(
            f'{coco.path}: {count} annotations have the category ids {strangers[:10]}, which are not listed: the '
            f'categories are {coco.categories}. Add them to `categories` or mend the annotations.'
        )
    image_ids = {image['id'] for image in coco.images}
    result = defaultdict(list)
    for annotation in annotations:
        if annotation['image_id'] in image_ids:
            result[annotation['image_id']].append(annotation)
        else:
            detail = f'annotation {annotation["id"]}'
            report.problem('annotation of an image that is not listed, left out', coco.path, detail)
    return dict(result)


def _clipped_box(
    bbox: object, image: Mapping, where: tuple[str, str], report: Report
) -> list[float] | None:
    """[x1, y1, x2, y2] inside the image, or None with a problem if less than one pixel wide or high is left."""
    if not is_box(bbox):
        report.problem('box that is not four numbers, left out', where[0], f'{where[1]}: {bbox}')
        return None
    x1, y1, width, height = bbox
    x2, y2 = x1 + width, y1 + height
    # A box of a pixel or less cannot be learnt (mmdet leaves it out too, without a word).
    if width < 1 or height < 1:
        report.problem('box smaller than one pixel, left out', where[0], f'{where[1]}: {bbox}')
        return None
    clipped = [max(x1, 0), max(y1, 0), min(x2, image['width']), min(y2, image['height'])]
    if clipped[2] - clipped[0] < 1 or clipped[3] - clipped[1] < 1:
        size = f'{image["width"]} x {image["height"]}'
        detail = f'{where[1]}: {bbox} in an image of {size}'
        report.problem('box outside the image, left out', where[0], detail)
        return None
    if max(abs(a - b) for a, b in zip(clipped, (x1, y1, x2, y2), strict=True)) > EDGE_TOLERANCE:
        report.problem('box reaches outside the image, clipped', where[0], f'{where[1]}: {bbox}')
    return clipped


def _checked_mask(
    segmentation: object, image: Mapping, where: tuple[str, str], report: Report
) -> dict | list | None:
    """The usable part of a segmentation, or None with a problem."""
    if isinstance(segmentation, dict):
        size = [image['height'], image['width']]
        if not isinstance(segmentation.get('counts'), (str, list)):
            report.problem('run-length mask without counts, left out', *where)
            return None
        if list(segmentation.get('size', [])) != size:
            detail = f'{where[1]}: size {segmentation.get("size")}, image (h, w) {size}'
            report.problem(
                'run-length mask of another size than the image, left out', where[0], detail
            )
            return None
        return segmentation
    polygons = (
        [part for part in segmentation if is_polygon(part)]
        if isinstance(segmentation, list)
        else []
    )
    if not polygons:
        report.problem('polygon that is not three or more points, object left out', *where)
        return None
    if len(polygons) < len(segmentation):  # type: ignore[arg-type]
        report.problem('polygon that is not three or more points, that part left out', *where)
    return polygons
