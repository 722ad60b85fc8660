"""The stack guard: `import mmext` ends in one readable error where the OpenMMLab stack cannot work.

The maintained forks (`onedl-*`) and upstream (`mmengine`, `mmcv`, `mmdet`, `mmsegmentation`) own the same import
names: installed together, one overwrites files of the other. pip does not see that, so mmext looks.

Only installed metadata is read: no torch, no mmengine, a few milliseconds. setup.py runs this file to write the
same ranges into the package's requirements, therefore it imports the standard library alone.
"""

import os
import re
import sys
import warnings
from importlib import metadata
from types import TracebackType
from typing import NamedTuple

OVERRIDE = 'MMEXT_UNTESTED_STACK'
# 2.6 is the first whose `safe_globals` takes named entries, which loading checkpoints safely needs.
TORCH_MINIMUM = '2.6'
OPENCV = 'opencv-python-headless<4.13'  # 4.13 breaks numpy < 2.3, which imgaug pins


class Requirement(NamedTuple):
    """One distribution of the supported stack: `minimum <= version < below`."""

    name: str
    minimum: str
    below: str

    def __str__(self) -> str:
        return f'{self.name}>={self.minimum},<{self.below}'


STACK = (
    Requirement('onedl-mmengine', '0.10.12', '0.11'),
    Requirement('onedl-mmcv', '2.3.6', '2.4'),
    Requirement('onedl-mmdetection', '3.5.1', '3.6'),
    Requirement('onedl-mmsegmentation', '1.4.2', '1.5'),
)
UPSTREAM = (
    'mmengine',
    'mmengine-lite',
    'mmcv',
    'mmcv-full',
    'mmcv-lite',
    'mmdet',
    'mmsegmentation',
)


class StackError(ImportError):
    """The installed packages cannot carry mmext; the message ends with the command that mends it."""


def check_stack() -> None:
    """Check torch and the OpenMMLab stack by their metadata.

    Warns where a version is newer than the tested range and `MMEXT_UNTESTED_STACK=1` is set, and where torchvision
    was built for another torch.

    Raises:
        StackError: torch is missing or too old; upstream OpenMMLab is installed; a part is missing, too old, or
            too new without the override. One message: got, expected, the command.
    """
    _check_torch(installed_version('torch'))
    _check_families()
    _check_versions()
    complaint = torchvision_complaint()
    if complaint:
        warnings.warn(complaint, stacklevel=3)


def show_without_traceback() -> None:
    """Have a StackError that ends the program print its message alone; other errors print as before."""
    show_others = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, StackError):
            sys.stderr.write(f'error: {error}\n')
        else:
            show_others(kind, error, trace)

    sys.excepthook = show


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """`'2.3.6.post1+cpu'` -> `(2, 3, 6)`: the leading numbers, which is all the ranges need."""
    match = re.match(r'\d+(\.\d+)*', version)
    return tuple(int(number) for number in match.group().split('.')) if match else ()


def torchvision_complaint() -> str | None:
    """What is wrong with the installed torchvision, from its metadata; None where nothing is.

    mmext does not use torchvision, but mmengine's Runner imports it to print its version, and a build for another
    torch dies there with `RuntimeError: operator torchvision::nms does not exist`.
    """
    torch, torchvision = installed_version('torch'), installed_version('torchvision')
    if torch is None or torchvision is None:
        return None
    pins = [re.match(r'torch==([\d.]+)', line) for line in metadata.requires('torchvision') or ()]
    wanted = next((pin.group(1) for pin in pins if pin), None)
    if wanted is None or release(wanted) == release(torch):
        return None
    return (
        f'torchvision {torchvision} was built for torch {wanted}, but torch {torch} is installed; mmengine imports it '
        'at the start of each run and stops there. mmext does not need it. Run:\n'
        '    pip uninstall -y torchvision'
    )


def _check_torch(version: str | None) -> None:
    if version is None or release(version) < release(TORCH_MINIMUM):
        raise StackError(
            f'mmext needs PyTorch.\n  got:      torch {version or "is not installed"}\n'
            f'  expected: torch>={TORCH_MINIMUM}\n'
            f'  run:      pip install --upgrade "torch>={TORCH_MINIMUM}"'
        )


def _check_families() -> None:
    """Refuse upstream OpenMMLab, alone or beside the onedl forks."""
    upstream = [name for name in UPSTREAM if installed_version(name)]
    if not upstream:
        return
    forks = [part.name for part in STACK if installed_version(part.name)]
    # A folder that both wrote into keeps leftovers of each, so both go before one comes back.
    command = f'pip uninstall -y {" ".join(upstream + forks)} && {_install(STACK)}'
    if forks:
        problem = 'two families of OpenMMLab are installed, and they overwrite each other'
    else:
        problem = 'mmext runs on the onedl forks of OpenMMLab, and upstream is installed'
    raise StackError(
        f'{problem}.\n  got:      {_describe(upstream + forks)}\n'
        f'  expected: {_describe_stack()}, and no upstream package\n  run:      {command}'
    )


def _check_versions() -> None:
    """Refuse missing, older and (without the override) newer parts of the onedl stack."""
    wrong, untested = [], []
    for part in STACK:
        version = installed_version(part.name)
        if version is None or release(version) < release(part.minimum):
            wrong.append(part)
        elif release(version) >= release(part.below):
            untested.append(part)
    override = os.environ.get(OVERRIDE) == '1'
    if wrong or (untested and not override):
        raise StackError(_version_message(wrong, untested))
    if untested:
        warnings.warn(
            f'untested OpenMMLab stack: got {_describe([part.name for part in untested])}; '
            f'tested with {", ".join(map(str, untested))} ({OVERRIDE}=1 is set, so mmext goes on)',
            stacklevel=4,
        )


def _version_message(wrong: list[Requirement], untested: list[Requirement]) -> str:
    parts = wrong + untested
    message = (
        'the OpenMMLab stack does not fit mmext.\n'
        f'  got:      {_describe([part.name for part in parts])}\n'
        f'  expected: {", ".join(map(str, parts))}\n'
        f'  run:      {_install(parts)}'
    )
    if untested and not wrong:
        message += f'\n  or:       set {OVERRIDE}=1 to go on with the newer version and a warning'
    return message


def _describe(names: list[str]) -> str:
    return ', '.join(f'{name} {installed_version(name) or "is not installed"}' for name in names)


def _describe_stack() -> str:
    return ', '.join(map(str, STACK))


def _install(parts: tuple[Requirement, ...] | list[Requirement]) -> str:
    requirements = [str(part) for part in parts] + [OPENCV]
    return 'pip install ' + ' '.join(f'"{requirement}"' for requirement in requirements)
