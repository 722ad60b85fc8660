"""Pictures of samples and of training runs."""

from mmext.visualization.curves import plot_curves, read_scalars
from mmext.visualization.instances import InstanceVisualizer, draw_instances, to_bitmaps
from mmext.visualization.mattes import MatteVisualizer, matte_panel

__all__ = [
    'InstanceVisualizer',
    'MatteVisualizer',
    'draw_instances',
    'matte_panel',
    'plot_curves',
    'read_scalars',
    'to_bitmaps',
]
