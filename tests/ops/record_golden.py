"""Record what mmcv's compiled ops return for the calls of `op_cases.py`.

With a compiled mmcv installed, or unpacked in a folder of its own in front of the installed one:

    pip install --no-deps --target FOLDER onedl_mmcv-2.3.6-...whl
    PYTHONPATH=FOLDER python -m tests.ops.record_golden
"""

from pathlib import Path

import numpy as np

from tests.ops.op_cases import CASES

GOLDEN = Path(__file__).parent.parent / 'golden' / 'ops.npz'


def main() -> None:
    recorded = {
        f'{name}/{key}': array for name, case in CASES.items() for key, array in case().items()
    }
    np.savez_compressed(GOLDEN, **recorded)
    print(f'{len(CASES)} cases, {GOLDEN.stat().st_size} bytes: {GOLDEN}')  # noqa: T201


if __name__ == '__main__':
    main()
