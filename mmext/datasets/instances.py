"""The dataset of all detectors and instance segmenters: COCO boxes and masks, strict about mistakes."""

import os
from collections.abc import Mapping

from mmdet.datasets import CocoDataset
from mmengine.logging import MMLogger

from mmext.datasets.coco import CocoFile, category_labels, parse_instance, read_coco
from mmext.datasets.report import Report
from mmext.registry import DATASETS

FILTERS = ('filter_empty_gt', 'min_size')


@DATASETS.register_module()
class InstanceDataset(CocoDataset):
    """mmdet's `CocoDataset` that finds a wrong set-up before training and drops nothing in silence.

    - Classes come from the annotation file where `metainfo` names none.
    - A file that is no COCO file, has other classes or whose images are not on disk is a ValueError with a remedy.
    - Boxes are clipped to the image; boxes below one pixel, polygons with 2 points, run-length masks of another
      size and, where the pipeline loads masks, objects without one are left out. One warning counts all
      of this and names the first few.
    - Images without objects are normal samples and stay (`filter_cfg=dict(filter_empty_gt=True)` leaves them out
      in training; `min_size` leaves out images with a shorter side). Evaluation always keeps all, since
      `CocoMetric` reads the annotation file itself.

    `type='ClassBalancedDataset'` of mmengine can wrap it: images without objects are taken once, those with
    a rare class ceil(sqrt(oversample_thr / share of images with the class)) times.

    Args: as mmdet's `CocoDataset`.

    Raises:
        ValueError: See above. With `lazy_init=True` it comes with `full_init`, and so do the classes.
    """

    METAINFO: dict = {}

    def load_data_list(self) -> list[dict]:
        """Read the annotation file.

        Returns:
            One dict an image: `img_path`, `img_id`, `height`, `width` in pixels, `seg_map_path` (None), and `instances`,
            dicts with `bbox` [x1, y1, x2, y2], `bbox_label`, `ignore_flag` and, where there is one, `mask`.
        """
        report = Report()
        # pycocotools dies on a KeyError after the first epoch if one of the latter two is missing.
        keys = ['image_id', 'category_id', 'bbox']
        keys += ['area', 'iscrowd'] if self.test_mode else []
        coco = read_coco(self.ann_file, self.backend_args, keys, report)
        self._metainfo['classes'] = self._classes(coco)
        self.cat2label = category_labels(coco, self._metainfo['classes'], report)
        self.cat_ids = list(self.cat2label)
        images = self._present(coco, report)
        data_list = [self._parse_image(image, coco, report) for image in images]
        if report.num_problems:
            logger = MMLogger.get_current_instance()
            logger.warning(f'{self.ann_file}: {report.num_problems} problems\n{report.text()}')
        return data_list

    def filter_data(self) -> list[dict]:
        """The images that `filter_cfg` lets through; all of them in test mode."""
        settings = self.filter_cfg or {}
        strange = sorted(set(settings) - set(FILTERS))
        if strange:
            raise ValueError(f'filter_cfg has the keys {strange}; known are {list(FILTERS)}.')
        if not self.data_list:
            raise ValueError(f'{self.ann_file} lists no images.')
        if self.test_mode:
            return self.data_list
        min_size = settings.get('min_size', 0)
        kept = [info for info in self.data_list if min(info['width'], info['height']) >= min_size]
        if settings.get('filter_empty_gt', False):
            kept = [info for info in kept if info['instances']]
        if not kept:
            raise ValueError(
                f'filter_cfg {settings} leaves none of the {len(self.data_list)} images of {self.ann_file}.'
            )
        if len(kept) < len(self.data_list):
            MMLogger.get_current_instance().info(
                f'{self.ann_file}: filter_cfg {settings} leaves {len(kept)} of {len(self.data_list)} images'
            )
        return kept

    def _classes(self, coco: CocoFile) -> tuple[str, ...]:
        """The names in the order of the labels, from metainfo or else from the file."""
        classes = self._metainfo.get('classes')
        if classes is None:
            return tuple(coco.categories.values())
        if isinstance(classes, str):
            raise ValueError(
                f'metainfo has classes={classes!r}, a string. Write a tuple: classes=({classes!r},).'
            )
        if len(set(classes)) < len(classes):
            raise ValueError(f'metainfo names a class twice: {tuple(classes)}. Name each once.')
        return tuple(classes)

    def _present(self, coco: CocoFile, report: Report) -> list[dict]:
        """The images that are on disk; files of another backend are taken on trust."""
        if self.backend_args is not None:
            return coco.images
        folder = self.data_prefix.get('img') or ''
        files = {image['id']: os.path.join(folder, image['file_name']) for image in coco.images}
        missing = {index: path for index, path in files.items() if not os.path.isfile(path)}
        # A score would count the missing ones as misses, and none at all is the wrong split or folder.
        if missing and (self.test_mode or len(missing) == len(files)):
            raise ValueError(
                f'{len(missing)} of the {len(files)} images of {self.ann_file} are not on disk, the first is '
                f'{next(iter(missing.values()))}. Check `data_root` and `data_prefix=dict(img=...)`, and whether '
                'the annotation file is of this split.'
            )
        for path in missing.values():
            report.problem('image not on disk, left out', path)
        return [image for image in coco.images if image['id'] not in missing]

    def _parse_image(self, image: Mapping, coco: CocoFile, report: Report) -> dict:
        folder = self.data_prefix.get('img') or ''
        info = {
            'img_path': os.path.join(folder, image['file_name']),
            'img_id': image['id'],
            'seg_map_path': None,
            'height': image['height'],
            'width': image['width'],
            'instances': [],
        }
        if self.return_classes:
            info['text'] = self._metainfo['classes']
            info['caption_prompt'] = self.caption_prompt
            info['custom_entities'] = True
        for annotation in coco.annotations.get(image['id'], []):
            label = self.cat2label.get(annotation['category_id'])
            if label is None:
                continue  # reported by `category_labels`
            instance = parse_instance(annotation, image, label, self._needs_masks, report)
            if instance is not None:
                info['instances'].append(instance)
        return info

    @property
    def _needs_masks(self) -> bool:
        """Whether the pipeline has a transform that asks each object for its mask."""
        return any(getattr(step, 'with_mask', False) for step in self.pipeline.transforms)
