"""Registries of mmext: one child of each of mmengine's root registries, under the scope `mmext`.

Configs name our parts as `type='mmext.X'`. Each registry knows where its modules live (`locations`), so a
stranger's mmdet or mmseg config can use `mmext.X` without `custom_imports`.
"""

import mmengine.registry as root
from mmengine.registry import Registry

SCOPE = 'mmext'


def _child(name: str, parent: Registry, *locations: str) -> Registry:
    return Registry(name, parent=parent, scope=SCOPE, locations=list(locations))


MODELS = _child('model', root.MODELS, 'mmext.models')
TASK_UTILS = _child('task util', root.TASK_UTILS, 'mmext.models')
DATASETS = _child('dataset', root.DATASETS, 'mmext.datasets')
DATA_SAMPLERS = _child('data sampler', root.DATA_SAMPLERS, 'mmext.datasets')
TRANSFORMS = _child('transform', root.TRANSFORMS, 'mmext.datasets')
HOOKS = _child('hook', root.HOOKS, 'mmext.engine')
OPTIM_WRAPPERS = _child('optim_wrapper', root.OPTIM_WRAPPERS, 'mmext.engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer constructor', root.OPTIM_WRAPPER_CONSTRUCTORS, 'mmext.engine'
)
PARAM_SCHEDULERS = _child('parameter scheduler', root.PARAM_SCHEDULERS, 'mmext.engine')
METRICS = _child('metric', root.METRICS, 'mmext.evaluation')
VISUALIZERS = _child('visualizer', root.VISUALIZERS, 'mmext.visualization')
