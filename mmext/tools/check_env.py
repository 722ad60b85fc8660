"""Says whether this machine can run mmext: `python -m mmext.tools.check_env`.

One line for each part, `ok` or `problem` with the command that mends it. Exit code 1 if there is a problem.
"""

import importlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mmext._stack import OPENCV, STACK, installed_version, torchvision_complaint

WHERE = '# shows where it fails'
REINSTALL_MMCV = 'pip install --no-cache-dir --force-reinstall --no-deps onedl-mmcv'


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        subject: what was looked at: 'torch'.
        state: what was found: '2.13.0+cpu'.
        remedy: the command that mends it; None where nothing is wrong.
    """

    subject: str
    state: str
    remedy: str | None = None


def check_versions() -> Iterator[Finding]:
    """Python, torch and the OpenMMLab stack; the guard at `import mmext` has refused what cannot work."""
    yield Finding('python', platform.python_version())
    for name in ('torch', 'numpy', 'transformers', 'pycocotools', *(part.name for part in STACK)):
        version = installed_version(name)
        remedy = None if version else f'pip install {name}'
        yield Finding(name, version or 'is not installed', remedy)


def check_opencv() -> Finding:
    """OpenCV loads; the build with windows needs libGL, which servers and containers lack."""
    error = import_error('cv2')
    if error is None:
        return Finding('opencv', 'imports')
    remedy = f'pip uninstall -y opencv-python opencv-python-headless && pip install "{OPENCV}"'
    return Finding('opencv', error, remedy)


def check_torchvision() -> Finding:
    """torchvision is absent or works: mmengine's Runner imports it, and a broken one ends every run."""
    version = installed_version('torchvision')
    if version is None:
        return Finding('torchvision', 'is not installed, and not needed')
    error = import_error('torchvision') or torchvision_complaint()
    if error is None:
        return Finding('torchvision', f'{version}, not used')
    return Finding('torchvision', f'{version}: {error}', 'pip uninstall -y torchvision')


def check_ops() -> Finding:
    """mmcv's ops compute: the compiled ones, or mmext's in torch."""
    spec = importlib.util.find_spec('mmcv._ext')
    fallback = spec is None or spec.origin == 'mmext.ops'
    kind = "mmext's torch implementations" if fallback else 'compiled'
    # A compiled build that fails gives way to the torch ops; where those fail, only the traceback helps.
    remedy = f'python -c "import mmcv.ops"   {WHERE}' if fallback else REINSTALL_MMCV
    try:
        nms = importlib.import_module('mmcv.ops').nms
        torch = importlib.import_module('torch')
        # Two equal boxes and one apart: the better of the two and the single one stay.
        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0], [9.0, 9.0, 12.0, 12.0]])
        kept = nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5)[1].tolist()
    except (ImportError, RuntimeError, NotImplementedError) as error:
        return Finding('mmcv ops', f'{kind}: {last_line(str(error))}', remedy)
    if kept != [1, 2]:
        return Finding(
            'mmcv ops', f'{kind}: nms kept boxes {kept}, expected [1, 2]', REINSTALL_MMCV
        )
    return Finding('mmcv ops', kind)


def check_models() -> Iterator[Finding]:
    """The model zoos import as a whole."""
    for module in ('mmdet.models', 'mmseg.models', 'mmext.models'):
        try:
            importlib.import_module(module)
        except (ImportError, AttributeError, RuntimeError) as error:
            remedy = f'python -c "import {module}"   {WHERE}'
            yield Finding(module, last_line(str(error)), remedy)
        else:
            yield Finding(module, 'imports')


def check_hardware() -> Iterator[Finding]:
    """What a run can use; nothing here is a problem."""
    torch = importlib.import_module('torch')
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    yield Finding('cpu', f'{usable} cores, {torch.get_num_threads()} torch threads')
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    none = f'none that torch can use (built for {torch.version.cuda or "the CPU"})'
    yield Finding('gpu', ', '.join(names) or none)


def import_error(module: str) -> str | None:
    """Import a module in a process of its own, since a bad build can abort it; the last line of its error."""
    command = [sys.executable, '-c', f'import {module}']
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return None
    return last_line(result.stderr) or f'the import ended with exit code {result.returncode}'


def last_line(text: str) -> str:
    """The last line that is not empty: of a traceback, the error itself."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), '')


def collect() -> Iterator[Finding]:
    """All findings, one after another."""
    yield from check_versions()
    single: tuple[Callable[[], Finding], ...] = (check_opencv, check_torchvision, check_ops)
    for check in single:
        yield check()
    yield from check_models()
    yield from check_hardware()


def main() -> int:
    """Print the report; returns the exit code."""
    num_problems = 0
    for finding in collect():
        verdict = 'ok' if finding.remedy is None else 'problem'
        print(f'{verdict:8} {finding.subject:20} {finding.state}', flush=True)
        if finding.remedy is not None:
            num_problems += 1
            print(f'{"":8} {"":20} run: {finding.remedy}', flush=True)
    print(f'{num_problems} problem(s)' if num_problems else 'mmext can run here')
    return 1 if num_problems else 0


if __name__ == '__main__':
    sys.exit(main())
