"""Maps of classes beside a written data set of defects, for semantic segmentation.

Value 0 is `NORMAL`: in a map of pixels the sound surface is what all of them show that belong to no defect. The
defects are those of the preset: five make six classes, the six of `look-alike` seven.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mmext.datasets.converters.label_maps import (
    FOLDER,
    common_suffix,
    config_line,
    draw_objects,
    split_line,
    write_lists,
)
from mmext.datasets.converters.planes import encode_png
from mmext.datasets.converters.records import ObjectRecord
from mmext.datasets.synthetic.presets import NORMAL
from mmext.structures.label_maps import count_values


def write_semantic(out: Path, splits: Mapping[str, dict]) -> list[str]:
    """Write `OUT/labels/`, `OUT/classes.txt` and `OUT/{train,val}.txt` beside what `write_dataset` wrote.

    Args:
        out: The folder of `write_dataset`.
        splits: What it returned: the COCO dict of each split.

    Returns:
        A line of text a split, and one with what the config must say.
    """
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    categories = next(iter(splits.values()))['categories']
    names = {category['id']: category['name'] for category in categories}
    classes = [NORMAL, *names.values()]
    values = {name: value for value, name in enumerate(classes)}
    suffix = common_suffix(i['file_name'] for coco in splits.values() for i in coco['images'])
    lists: dict[str, list[str]] = {split: [] for split in splits}
    lines = []
    for split, coco in splits.items():
        objects: dict[int, list[ObjectRecord]] = {image['id']: [] for image in coco['images']}
        for own in coco['annotations']:
            record = ObjectRecord(
                names[own['category_id']], own['bbox'], own['area'], own['segmentation']
            )
            objects[own['image_id']].append(record)
        counts: Counter[int] = Counter()
        for image in coco['images']:
            drawing = draw_objects(objects[image['id']], values, (image['width'], image['height']))
            stem = image['file_name'].removesuffix(suffix)
            (folder / f'{stem}.png').write_bytes(encode_png(drawing.labels))
            counts += count_values(drawing.labels)
            lists[split].append(stem)
        lines.append(split_line(split, len(lists[split]), counts, classes))
    write_lists(out, classes, lists)
    return [*lines, config_line(classes, suffix)]
