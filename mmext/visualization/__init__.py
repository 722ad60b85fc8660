"""Pictures of samples and of training runs."""

from mmext.visualization.curves import plot_curves, read_scalars
from mmext.visualization.instances import InstanceVisualizer, draw_instances, to_bitmaps

__all__ = ['InstanceVisualizer', 'draw_instances', 'plot_curves', 'read_scalars', 'to_bitmaps']
