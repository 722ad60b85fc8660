"""Checks this machine; the same as `python -m mmext.tools.check_env`."""

import sys

try:
    from mmext.tools.check_env import main
except ImportError as error:
    # The stack guard: its message says what to do, a traceback adds nothing.
    sys.exit(f'problem  {error}')

if __name__ == '__main__':
    sys.exit(main())
