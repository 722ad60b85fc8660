"""Magnetic-tile surface defects (Huang, Qiu, Yuan: "Surface defect saliency of magnetic tile", 2018).

Raw layout: `MT_<Class>/Imgs/<name>.jpg` with a mask `<name>.png` of the same size; the class is the folder,
`MT_Free` holds tiles without defects. Names are `exp<exposure>_num_<num>.jpg`.

**What is one tile.** Every tile was photographed under up to six exposures, and the exposures of one tile
differ little in `num` (3191, 3211, 3223, 3234, 3247, 3279 are `exp1`..`exp6` of one cracked tile). A split by
photo would put the same scratch into training and test. Measured on all pairs of the 1344 photos, with
similarity = the highest normalised cross-correlation within 6 pixels of two photos shrunk to 96 x 96,
high-pass filtered (sigma 3) and divided by local contrast (sigma 6), which sees grinding marks, not lighting:

- Pairs whose `num` differ by less than 50 have a median similarity of 0.74, by 50-200 of 0.67, by 200-500 of
  0.11; pairs further apart have 0.12, and 99.9% of them less than 0.35. So exposures lie close, but gaps up to
  400 occur inside a tile and the photos of two tiles can be interleaved. Rule 1: photos belong together
  where neighbouring `num` differ by at most `MAX_GAP` = 500, which gives 150 groups. Joining two tiles in
  one group costs nothing; parting one tile would leak.
- Ten pairs of these groups reach a similarity of 0.71 to 0.99, and their photos show the same finger prints
  and scratches: these tiles came under the camera again, up to 12,000 numbers later. Rule 2: they are joined by
  name (`SEEN_AGAIN`), which leaves 142 groups. The next pair of groups reaches 0.62 and shows two different
  tiles of one grinding batch, and so do those below.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmext.datasets.converters.files import image_size
from mmext.datasets.converters.objects import connected_objects, object_from_mask, read_mask
from mmext.datasets.converters.records import ImageRecord, ObjectRecord, RawDataset, count
from mmext.datasets.report import Report

CLASSES = ['Blowhole', 'Break', 'Crack', 'Fray', 'Uneven']
FREE = 'Free'
NAME = re.compile(r'exp(\d+)_num_(\d+)')
MAX_GAP = 500
# `num` of two photos of one tile that rule 1 leaves apart; the similarity of the pair behind each.
SEEN_AGAIN = (
    (5959, 13568),  # 0.85
    (8676, 10448),  # 0.87
    (9196, 10790),  # 0.89
    (53038, 65067),  # 0.90
    (85897, 86892),  # 0.99
    (85665, 88201),  # 0.93
    (306654, 309443),  # 0.71
    (355732, 358179),  # 0.88
)


@dataclass
class MagneticTile:
    """Instances are the 8-connected components of mask > 127 with at least 9 pixels; maps of classes show the others too."""

    num_free: int | None = field(
        default=None,
        metadata={'type': count, 'help': 'keep N photos without defects (default: all)'},
    )
    min_pixels: int = field(
        default=9,
        metadata={
            'type': count,
            'help': 'components with fewer pixels are no objects; maps of classes show them (default: 9)',
        },
    )

    def read(self, raw: Path, report: Report) -> RawDataset:
        """See `Converter.read`; photos of one tile share their `group`, the class folder is the `stratum`."""
        paths = sorted(raw.glob('MT_*/Imgs/*.jpg'))
        if not paths:
            raise ValueError(
                f'No photo matches {raw}/MT_*/Imgs/*.jpg. Give the folder that holds MT_Blowhole.'
            )
        for mask_path in sorted(raw.glob('MT_*/Imgs/*.png')):
            if not mask_path.with_suffix('.jpg').is_file():
                report.problem('missing image, mask left out', mask_path.with_suffix('.jpg'))
        images = [image for path in paths if (image := self._read_image(path, report)) is not None]
        groups = tile_groups([_num(path) for path in paths if NAME.fullmatch(path.stem)])
        for image in images:
            image.group = f'tile {groups[_num(image.path)]}'
        self._choose_free(images)
        return RawDataset(list(CLASSES), images)

    def _read_image(self, path: Path, report: Report) -> ImageRecord | None:
        """One photo with its objects, or None with a problem reported."""
        category = path.parent.parent.name.removeprefix('MT_')
        if category not in (*CLASSES, FREE):
            report.problem(f'unknown class, image left out (known: {CLASSES} and {FREE})', path)
            return None
        if NAME.fullmatch(path.stem) is None:
            report.problem(
                'name is not exp<exposure>_num_<num>, tile unknown, image left out', path
            )
            return None
        size = None
        objects: list[ObjectRecord] = []
        specks: list[ObjectRecord] = []
        if category == FREE:
            size = image_size(path, report)
        elif (mask := read_mask(path.with_suffix('.png'), report)) is not None:
            size = image_size(path, report, stated=(mask.shape[1], mask.shape[0]))
            objects, specks = self._objects(mask, category, path.with_suffix('.png'), report)
        if size is None or (category != FREE and not objects):
            return None
        return ImageRecord(
            path,
            f'{category}/{path.name}',
            *size,
            objects=objects,
            stratum=category,
            specks=specks,
        )

    def _objects(
        self, mask: np.ndarray, category: str, mask_path: Path, report: Report
    ) -> tuple[list[ObjectRecord], list[ObjectRecord]]:
        """The objects, and what the mask marks besides."""
        # Masks are anti-aliased: their edges hold every value in between. Saved with one bit a pixel, they are bool.
        covered = mask if mask.dtype == bool else mask > 127
        objects, num_specks, pixels = connected_objects(covered, category, self.min_pixels)
        if num_specks:
            detail = f'{num_specks} components below {self.min_pixels} pixels'
            report.note(
                'specks in a mask, no objects (maps of classes show them)', mask_path, detail
            )
        if not objects:
            # Kept, the photo would teach that this defect is a normal surface.
            report.problem('mask of a defect is empty, image left out', mask_path)
        return objects, [object_from_mask(pixels, category)] if num_specks else []

    def _choose_free(self, images: list[ImageRecord]) -> None:
        """Mark all but `num_free` of the photos without defects, which are spread evenly over `num`."""
        free = sorted((i for i in images if i.stratum == FREE), key=lambda i: _num(i.path))
        if self.num_free is None or self.num_free >= len(free):
            return
        kept = np.linspace(0, len(free), self.num_free, endpoint=False).astype(int).tolist()
        for position, image in enumerate(free):
            image.kept = position in kept


def _num(path: Path) -> int:
    return int(path.stem.rpartition('_')[2])


def tile_groups(nums: list[int]) -> dict[int, int]:
    """The group of each photo: the smallest `num` that is reached by rules 1 and 2 of the module text.

    Args:
        nums: The `num` of every photo, in any order.

    Returns:
        `num` -> smallest `num` of its group.
    """
    group: dict[int, int] = {}
    previous = None
    for num in sorted(nums):
        joined = previous is not None and num - previous <= MAX_GAP
        group[num] = group[previous] if joined else num  # type: ignore[index]
        previous = num
    for first, second in SEEN_AGAIN:
        if first in group and second in group:
            low, high = sorted((group[first], group[second]))
            group = {num: low if root == high else root for num, root in group.items()}
    return group
