"""The dataset of single objects: one class and one box an image, from CSV or COCO, strict about mistakes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger

from mmext.datasets.coco import category_labels, parse_instance, read_coco
from mmext.datasets.localization_csv import find_image, read_rows
from mmext.datasets.report import Report
from mmext.registry import DATASETS


@DATASETS.register_module()
class LocalizationDataset(BaseDataset):
    """Images with one object each.

    From CSV (`*.csv`): the columns `filename,xmin,ymin,xmax,ymax,class`, boxes in pixels or all of them in [0, 1]; with the
    column `filename` alone the images have no labels and nothing can be scored. Bad rows (`read_rows` and `find_image` of
    `mmext.datasets.localization_csv` list them) are all named with their lines in one ValueError, or left out and
    counted in a warning under `skip_bad`.

    From COCO (`*.json`): the images that have exactly one box that is not a crowd; a log line counts the others. Make
    COCO from VOC, YOLO and other formats with tools/convert_dataset.py, or CSV with its option --csv.

    Labels follow `metainfo['classes']`; without it they are the names of the file in alphabetical order (CSV) or in its own
    order (COCO). State them in the config: a split without one of the classes would number the others differently.

    Args:
        ann_file: CSV or COCO file, below `data_root`.
        metainfo: `classes`, names in the order of the labels, and maybe `palette`.
        data_root: folder that `ann_file` and `data_prefix` start from.
        data_prefix: `img`, the folder of the images.
        pipeline: transforms.
        test_mode: whether this is for validation or test.
        skip_bad: leave bad rows out instead of stopping.
        indices: take the first so many images, or those with these numbers.
        lazy_init: read the file later, at `full_init`.

    Raises:
        ValueError: see above; also a file that is missing, empty, of another format or without the columns, and classes
            that are named twice.
    """

    METAINFO: dict = {}

    def __init__(
        self,
        ann_file: str,
        *,
        metainfo: dict[str, Any] | None = None,
        data_root: str = '',
        data_prefix: dict[str, str] | None = None,
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
        skip_bad: bool = False,
        indices: int | Sequence[int] | None = None,
        lazy_init: bool = False,
    ) -> None:
        self.skip_bad = skip_bad
        super().__init__(
            ann_file=ann_file,
            metainfo=metainfo,
            data_root=data_root,
            data_prefix={'img': ''} if data_prefix is None else data_prefix,
            pipeline=list(pipeline),
            test_mode=test_mode,
            indices=indices,
            lazy_init=lazy_init,
        )

    def load_data_list(self) -> list[dict]:
        """Read the annotation file.

        Returns:
            One dict an image: `img_path`, `img_id` (its number from 0, or that of the COCO file), `height` and `width` in
            pixels of the upright image, and `instances` with one dict, `bbox` [x1, y1, x2, y2] in pixels, `bbox_label`,
            `ignore_flag` 0; no instance where there are no labels.
        """
        _check_classes(self._metainfo.get('classes'))
        suffix = Path(self.ann_file).suffix.lower()
        if suffix not in ('.csv', '.json'):
            raise ValueError(
                f'LocalizationDataset: got ann_file={self.ann_file!r}, expected a .csv or a COCO .json file'
            )
        data_list = self._read_csv() if suffix == '.csv' else self._read_coco()
        if not data_list:
            raise ValueError(f'{self.ann_file}: no image with one object is left; see the log.')
        return data_list

    @property
    def _folder(self) -> str:
        return self.data_prefix.get('img') or ''

    def _read_csv(self) -> list[dict]:
        report = Report()
        rows, num_rows = read_rows(self.ann_file, report)
        classes = self._metainfo.get('classes')
        images = [find_image(row, self._folder, report, classes=classes) for row in rows]
        found = [image for image in images if image is not None]
        if report.num_problems:
            self._tell(report, num_rows)
        if classes is None and (names := sorted({image.row.category for image in found} - {''})):
            self._metainfo['classes'] = classes = tuple(names)
        data_list = []
        for index, image in enumerate(found):
            info = dict(img_path=str(image.path), img_id=index, instances=[])
            info |= dict(height=image.height, width=image.width)
            if image.box is not None:
                label = list(classes or ()).index(image.row.category)
                info['instances'] = [dict(bbox=list(image.box), bbox_label=label, ignore_flag=0)]
            data_list.append(info)
        return data_list

    def _tell(self, report: Report, num_rows: int) -> None:
        """Stop at bad rows, or say that they are left out."""
        text = f'{self.ann_file}: {report.num_problems} of {num_rows} rows are bad'
        # The problems of a row end it: each is counted once.
        if not self.skip_bad:
            raise ValueError(
                f'{text}\n{report.text()}\nMend them, or set skip_bad=True to leave these rows out.'
            )
        logger = MMLogger.get_current_instance()
        logger.warning(f'{text} and left out (skip_bad)\n{report.text()}')

    def _read_coco(self) -> list[dict]:
        report = Report()
        coco = read_coco(self.ann_file, None, ['image_id', 'category_id', 'bbox'], report)
        if self._metainfo.get('classes') is None:
            self._metainfo['classes'] = tuple(coco.categories.values())
        labels = category_labels(coco, self._metainfo['classes'], report)
        data_list = []
        for image in coco.images:
            path = os.path.join(self._folder, image['file_name'])
            instances = [
                parse_instance(own, image, labels[own['category_id']], False, report)
                for own in coco.annotations.get(image['id'], [])
                if own['category_id'] in labels and not own.get('iscrowd')
            ]
            kept = [instance for instance in instances if instance is not None]
            if len(instances) != 1 or not kept:
                kind = f'image with {"one bad object" if len(instances) == 1 else "no object or several"}, left out'
                report.note(kind, image['file_name'])
            elif not os.path.isfile(path):
                report.problem('image that does not exist', path)
            else:
                size = dict(height=image['height'], width=image['width'])
                data_list.append(dict(img_path=path, img_id=image['id'], instances=kept, **size))
        if report.num_problems and not self.skip_bad:
            self._tell(report, len(coco.images))
        if report.num_problems or report.notes:
            MMLogger.get_current_instance().info(f'{self.ann_file}\n{report.text(max_shown=2)}')
        return data_list


def _check_classes(classes: Sequence[str] | None) -> None:
    if classes is None:
        return
    if isinstance(classes, str) or len(set(classes)) < len(classes) or not classes:
        raise ValueError(
            f'LocalizationDataset: got classes={classes!r} in metainfo, expected different names, such as '
            "classes=('with_mask', 'without_mask')"
        )
