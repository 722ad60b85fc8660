"""What can be generated: a surface, its defect classes and how many of them an image has.

`NORMAL` is no annotation category: a sound image has no object that could carry it, and a detector
whose class list held it would have to find a box for nothing. It is an image without annotations,
and its record in the COCO file says so (`image_labels: ['NORMAL']`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mmext.datasets.synthetic import look_alikes, metal_defects, tile_defects
from mmext.datasets.synthetic.metal_defects import Drawing
from mmext.datasets.synthetic.shapes import Shape
from mmext.datasets.synthetic.surfaces import Surface, brushed_metal, magnetic_tile

NORMAL = 'NORMAL'


@dataclass(frozen=True)
class DefectClass:
    """One class of defects.

    Attributes:
        name: The category's name.
        alias: Its name in English.
        color: RGB, for pictures.
        draw: Draws one defect on a surface; returns the image and the mask.
        weight: How often it is drawn, relative to the others.
    """

    name: str
    alias: str
    color: tuple[int, int, int]
    draw: Callable[[np.random.Generator, Surface], Drawing]
    weight: float = 1.0


@dataclass(frozen=True)
class Preset:
    """One kind of images.

    Attributes:
        name: As given on the command line.
        surface: Makes a sound surface of shape (h, w).
        classes: In the order of the category ids, which start at 1.
        normal_fraction: Share of images without defects.
        num_defects: Probabilities of 1, 2, ... defects in the other images.
        aspect_range: Of the sides (short / long), drawn per image; the long side is the given one.
        grey: Whether the camera sees no colour.
        defect_scale: Length of the defects relative to their usual one.
    """

    name: str
    surface: Callable[[np.random.Generator, Shape], Surface]
    classes: tuple[DefectClass, ...]
    normal_fraction: float
    num_defects: tuple[float, ...]
    aspect_range: tuple[float, float]
    grey: bool
    defect_scale: float = 1.0

    @property
    def metainfo(self) -> dict:
        """For `metainfo=` of a data set: `classes`, `palette` (RGB), `aliases` (English names)."""
        return {
            'classes': tuple(defect.name for defect in self.classes),
            'palette': [defect.color for defect in self.classes],
            'aliases': {
                NORMAL: 'normal',
                **{defect.name: defect.alias for defect in self.classes},
            },
        }


METAL = Preset(
    name='metal',
    surface=brushed_metal,
    classes=(
        DefectClass('DEFORMACIONES', 'deformation', (230, 159, 0), metal_defects.draw_deformation),
        DefectClass('ROTURA_FRACTURA', 'fracture', (213, 94, 0), metal_defects.draw_fracture),
        DefectClass('RAYONES_ARANAZOS', 'scratch', (86, 180, 233), metal_defects.draw_scratch),
        DefectClass('PERFORACIONES', 'perforation', (0, 158, 115), metal_defects.draw_perforation),
        DefectClass(
            'CONTAMINACION', 'contamination', (204, 121, 167), metal_defects.draw_contamination
        ),
    ),
    normal_fraction=1 / 6,
    num_defects=(0.45, 0.3, 0.15, 0.1),
    aspect_range=(1.0, 1.0),
    grey=False,
)

TILE = Preset(
    name='tile',
    surface=magnetic_tile,
    classes=(
        DefectClass('Blowhole', 'blowhole', (0, 158, 115), tile_defects.draw_blowhole, 1.2),
        DefectClass('Break', 'break', (213, 94, 0), tile_defects.draw_break),
        DefectClass('Crack', 'crack', (86, 180, 233), tile_defects.draw_crack),
        DefectClass('Fray', 'fray', (204, 121, 167), tile_defects.draw_fray, 0.7),
        DefectClass('Uneven', 'uneven', (230, 159, 0), tile_defects.draw_uneven),
    ),
    normal_fraction=1 / 6,
    num_defects=(0.7, 0.2, 0.1),
    aspect_range=(0.5, 1.0),
    grey=True,
)

# Pairs of the same outline, on the surface and in it; see look_alikes.py. For what sentences about classes are worth.
LOOK_ALIKE = Preset(
    name='look-alike',
    surface=brushed_metal,
    classes=(
        DefectClass('RAYON', 'scratch', (86, 180, 233), look_alikes.draw_scratch_mark),
        DefectClass(
            'FISURA', 'hairline fracture', (0, 114, 178), look_alikes.draw_hairline_fracture
        ),
        DefectClass('MANCHA', 'stain', (204, 121, 167), look_alikes.draw_flat_stain),
        DefectClass('ABOLLADURA', 'dent', (230, 159, 0), look_alikes.draw_shallow_dent),
        DefectClass('MOTA', 'speck', (240, 228, 66), look_alikes.draw_speck),
        DefectClass('PORO', 'pore', (0, 158, 115), look_alikes.draw_pore),
    ),
    normal_fraction=1 / 10,
    num_defects=(0.2, 0.3, 0.3, 0.2),
    aspect_range=(1.0, 1.0),
    grey=False,
)


def crowded(preset: Preset, fewest: int, most: int) -> Preset:
    """A preset whose images with defects get `fewest` to `most` of them, each number as likely.

    Defects never touch: one without a place is left out, so that of many only small ones all find room, see
    `Preset.defect_scale`.

    Raises:
        ValueError: not 1 <= fewest <= most.
    """
    if not 1 <= fewest <= most:
        raise ValueError(
            f'got {fewest} to {most} defects an image; expected at least 1, the smaller number first'
        )
    count = most - fewest + 1
    return replace(preset, num_defects=(0.0,) * (fewest - 1) + (1 / count,) * count)


PRESETS = {preset.name: preset for preset in (METAL, TILE, LOOK_ALIKE)}
