"""Photos of a run that came to nothing, told at its end."""

from pathlib import Path

from mmext.tools.command import error_message


class Failures:
    """What was wrong with photos.

    Attributes:
        messages: one for each, with its name.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, path: Path | None, error: Exception) -> None:
        """Take a photo that cannot be read, or that the network cannot take."""
        self.messages.append(failure_line(path, error))

    def faults(self, num_photos: int) -> list[str]:
        """One text that lists them, of so many photos in all; none where all is well."""
        if not self.messages:
            return []
        listed = '\n  '.join(self.messages)
        return [f'{len(self.messages)} of {num_photos} photos could not be predicted:\n  {listed}']


def failure_line(path: Path | None, error: Exception) -> str:
    """One line on a photo that failed, with its name."""
    text = error_message(error)
    return text if str(path) in text else f'{path}: {text}'
