"""What a tool writes about a user's mistake: one line, and the hint how to see more."""

import pytest

HINT = '(--traceback shows where it was raised)'


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The message that stands alone on stderr, above the hint."""
    message, hint = capsys.readouterr().err.splitlines()
    assert message.startswith('error: ')
    assert hint == HINT
    return message
