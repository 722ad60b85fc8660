"""Pictures of samples and of training runs."""

from mmext.visualization.curves import plot_curves, read_scalars
from mmext.visualization.instances import InstanceVisualizer, draw_instances, to_bitmaps
from mmext.visualization.mattes import MatteVisualizer, matte_panel
from mmext.visualization.semantic import draw_overlay, outline_classes, paint_classes

__all__ = [
    'InstanceVisualizer',
    'MatteVisualizer',
    'draw_instances',
    'draw_overlay',
    'matte_panel',
    'outline_classes',
    'paint_classes',
    'plot_curves',
    'read_scalars',
    'to_bitmaps',
]
