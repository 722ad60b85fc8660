"""Registries of mmext: one child of each of mmengine's root registries, under the scope `mmext`.

Configs name our parts as `type='mmext.X'`. Each registry knows where its modules live (`locations`), so a
stranger's mmdet or mmseg config can use `mmext.X` without `custom_imports`.

A config that inherits `_base_ = 'mmext::...'` gets `_scope_='mmext'` written into every part by mmengine, although
our configs are written for `default_scope='mmdet'` or `'mmseg'`. Therefore the scope `mmext` is transparent: a name
without a prefix is looked up here first and then where the enclosing default scope would have looked.

A name that is found nowhere ends in `UnknownNameError` with the nearest registered name. mmengine itself reports
names that never reach our registries (`Segment` under mmdet); `readable_registry_errors` rewords those.
"""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

import mmengine.registry as root
from mmengine.registry import DefaultScope, Registry

SCOPE = 'mmext'
_FAMILY = ('mmdet', 'mmseg')
# mmdet gives one kind a name of its own; here mmengine's names are used.
_KIND_ALIASES = {'optimizer constructor': 'optimizer wrapper constructor'}
_MISSING = re.compile(r'(?P<name>\S+) is not in the (?P<scope>\w+)::(?P<kind>.+?) registry')


class UnknownNameError(KeyError):
    """A `type` that no registry knows. A KeyError, as mmengine raises, whose text is not escaped."""

    def __str__(self) -> str:
        return str(self.args[0])


class ScopedRegistry(Registry):
    """A registry of mmext: transparent towards the enclosing scope, and helpful about names it does not know."""

    def get(self, key: str) -> type | None:
        """Find a registered class or function.

        Args:
            key: 'X', 'mmext.X', 'mmdet.X' or a whole import path such as 'torch.nn.ReLU'.

        Returns:
            The class or function. None for a path that cannot be imported, because mmengine asks for the remainder
            of an import path ('models.yolo.head.X') first and then imports the whole itself.

        Raises:
            UnknownNameError: no registry in reach knows the name; the message has the nearest one.
        """
        scope, name = self.split_scope_key(key)
        found = None
        if scope is None:
            self.import_from_location()
            found = self._module_dict.get(name)
            enclosing = self._enclosing_registry()
            if found is None and enclosing is not None:
                found = enclosing.get(name)
        if found is None:
            found = super().get(key)
        if found is None and (scope in (None, self.scope) or scope in self.root.children):
            raise UnknownNameError(describe_missing(key, self.scope, self.name))
        return found

    def __contains__(self, key: str) -> bool:
        try:
            return self.get(key) is not None
        except UnknownNameError:
            return False

    def _enclosing_registry(self) -> Registry | None:
        """The registry of this kind in the latest default scope below `mmext`; None where there is none.

        Only while `mmext` is the current scope: 'mmext.X' asked for from another scope means ours and no other.
        """
        # mmengine keeps the scopes as a stack (latest last) and offers no public way to read below its top.
        scopes = [instance.scope_name for instance in DefaultScope._instance_dict.values()]
        if not scopes or scopes[-1] != self.scope:
            return None
        outer = next((scope for scope in reversed(scopes) if scope != self.scope), None)
        if outer is None:
            return None
        # A scope joins the trees when its `registry` module is imported. One that has none holds nothing to find;
        # mmengine has warned about it when that scope was entered.
        with suppress(ImportError):
            import_module(f'{outer}.registry')
        return self.root._search_child(outer)


def _child(parent: Registry, location: str) -> ScopedRegistry:
    return ScopedRegistry(parent.name, parent=parent, scope=SCOPE, locations=[location])


# Every kind that mmdet has, also those that hold nothing of ours: with `_scope_='mmext'` mmengine looks for the
# scope in each tree and warns where it is missing.
MODELS = _child(root.MODELS, 'mmext.models')
MODEL_WRAPPERS = _child(root.MODEL_WRAPPERS, 'mmext.engine')
WEIGHT_INITIALIZERS = _child(root.WEIGHT_INITIALIZERS, 'mmext.models')
TASK_UTILS = _child(root.TASK_UTILS, 'mmext.models')
DATASETS = _child(root.DATASETS, 'mmext.datasets')
DATA_SAMPLERS = _child(root.DATA_SAMPLERS, 'mmext.datasets')
TRANSFORMS = _child(root.TRANSFORMS, 'mmext.datasets')
RUNNERS = _child(root.RUNNERS, 'mmext.engine')
LOOPS = _child(root.LOOPS, 'mmext.engine')
HOOKS = _child(root.HOOKS, 'mmext.engine')
LOG_PROCESSORS = _child(root.LOG_PROCESSORS, 'mmext.engine')
OPTIMIZERS = _child(root.OPTIMIZERS, 'mmext.engine')
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, 'mmext.engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS, 'mmext.engine')
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS, 'mmext.engine')
METRICS = _child(root.METRICS, 'mmext.evaluation')
EVALUATOR = _child(root.EVALUATOR, 'mmext.evaluation')
VISUALIZERS = _child(root.VISUALIZERS, 'mmext.visualization')
VISBACKENDS = _child(root.VISBACKENDS, 'mmext.visualization')

_KINDS: dict[str, ScopedRegistry] = {
    registry.name: registry
    for registry in list(globals().values())
    if isinstance(registry, ScopedRegistry)
}


def register_all_modules(init_default_scope: bool = True) -> None:
    """Import every module that registers parts of mmext.

    Args:
        init_default_scope: Also make `mmext` the default scope. Names without a prefix then mean ours first, and
            those of the scope that was current before.
    """
    for registry in _KINDS.values():
        registry.import_from_location()
    if init_default_scope:
        root.init_default_scope(SCOPE)


def describe_missing(key: str, scope: str, kind: str) -> str:
    """One sentence about a name that a registry does not know.

    Args:
        key: The name as it was asked for: 'Segmnt', 'mmext.Segmnt', 'mmdet.Segment'.
        scope: The scope of the registry that was asked: 'mmdet'.
        kind: The name of that registry: 'model', 'hook', 'task util'.

    Returns:
        '`mmext.Segmnt` is not in the mmext::model registry; did you mean `mmext.Segment`?', or where the name lives
        instead, or the names there are.
    """
    prefix, _, name = key.rpartition('.')
    # mmengine hands a child registry the name without its prefix; written back it reads like the user's config.
    shown = key if prefix or scope != SCOPE else f'{SCOPE}.{key}'
    asked_scope = prefix if prefix in (SCOPE, *_FAMILY) else scope
    message = f'`{shown}` is not in the {asked_scope}::{kind} registry'
    other_kind = _other_kind(name, kind)
    known = _known_names(kind)
    suggestion = _nearest(name, known)
    if other_kind is not None:
        return f'{message}; `{SCOPE}.{name}` is in the {SCOPE}::{other_kind} registry: use it there'
    if suggestion is not None:
        return f'{message}; did you mean `{suggestion}`?'
    ours = sorted(text for text in known if text.startswith(f'{SCOPE}.'))
    return (
        f'{message}, nor anything like it; mmext has: {", ".join(ours) or "nothing of this kind"}'
    )


def explain_missing(error: KeyError) -> str | None:
    """Reword mmengine's 'X is not in the scope::kind registry'; None for a KeyError about something else."""
    if isinstance(error, UnknownNameError):
        return str(error)
    match = _MISSING.match(str(error.args[0])) if error.args else None
    return None if match is None else describe_missing(**_as_arguments(match))


@contextmanager
def readable_registry_errors() -> Iterator[None]:
    """Raise `UnknownNameError`, with the nearest name, for names that mmengine does not find."""
    try:
        yield
    except KeyError as error:
        message = explain_missing(error)
        if message is None or isinstance(error, UnknownNameError):
            raise
        raise UnknownNameError(message) from error


def _as_arguments(match: re.Match[str]) -> dict[str, str]:
    kind = _KIND_ALIASES.get(match['kind'], match['kind'])
    return {'key': match['name'], 'scope': match['scope'], 'kind': kind}


def _other_kind(name: str, kind: str) -> str | None:
    """The kind under which mmext registers exactly this name, if that is not the kind asked for."""
    for other, registry in _KINDS.items():
        registry.import_from_location()
        if name in registry.module_dict:
            return None if other == kind else other
    return None


def _known_names(kind: str) -> dict[str, str]:
    """Names registered under a kind: {'mmext.Segment': 'Segment', 'mmdet.RetinaHead': ..., 'BN': 'BN'}.

    mmext's come first, so that they win among equally near names; the others as far as they are imported.
    """
    own = _KINDS.get(kind)
    if own is None:
        return {}
    own.import_from_location()
    others = [child for scope, child in own.root.children.items() if scope != SCOPE]
    known = {f'{SCOPE}.{name}': name for name in own.module_dict}
    for child in others:
        known.update({f'{child.scope}.{name}': name for name in child.module_dict})
    known.update({name: name for name in own.root.module_dict})
    return known


def _nearest(name: str, known: dict[str, str]) -> str | None:
    """The written form whose bare name is nearest to `name`; an equal name under another scope wins."""
    matches = difflib.get_close_matches(name, list(dict.fromkeys(known.values())), n=1, cutoff=0.7)
    return next((text for text, bare in known.items() if matches and bare == matches[0]), None)
