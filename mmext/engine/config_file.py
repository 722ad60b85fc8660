"""Reading a config file, with errors that say which file asks for which."""

from pathlib import Path

from mmengine.config import Config


def load_config_file(path: str | Path) -> Config:
    """Reads a config file and the files it inherits from.

    Raises:
        FileNotFoundError: the config, or one that it or its bases name in `_base_`, does not exist.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist')
    try:
        return Config.fromfile(path)
    except FileNotFoundError as error:
        # mmengine names the missing file, but not the config that asks for it.
        complaint = _complaint_about_bases(str(path))
        if complaint is None:
            raise
        raise FileNotFoundError(complaint) from error


def _complaint_about_bases(config: str) -> str | None:
    """What is wrong with the first `_base_`, in a config or in its bases, that names a missing file."""
    # The same two steps as in mmengine, which has no public way to look at `_base_` alone.
    for name in Config._get_base_files(config):
        complaint = f'config {config}, line {_line_of(name, config)}: `_base_` names {name!r}'
        try:
            base, _ = Config._get_cfg_path(name, config)
        except FileNotFoundError as error:  # of a package: 'mmext::...'
            return f'{complaint}, which the package does not have ({error})'
        if not Path(base).is_file():
            return f'{complaint}, and there is no {base}; the path counts from the folder of the config'
        below = _complaint_about_bases(base)
        if below is not None:
            return below
    return None


def _line_of(text: str, path: str) -> int:
    lines = Path(path).read_text(encoding='utf-8').splitlines()
    return next((number for number, line in enumerate(lines, 1) if text in line), 1)
