"""mmengine's name for one function: `mmengine.hub.get_model('mmext::...')` calls `mmext.utils.register_all_modules`.

Nothing else belongs into this file (the name is mmengine's convention, not ours).
"""

from mmext.registry import register_all_modules

__all__ = ['register_all_modules']
