"""Reading COCO annotation files: the three lists of one, with errors that name the file and the way to mend it."""

import json
import math
from collections.abc import Sequence
from typing import TypeGuard

from mmengine.fileio import get_text

LISTS = ('images', 'annotations', 'categories')


def read_coco_lists(
    path: str,
    backend_args: dict | None,
    *,
    image_keys: Sequence[str] = (),
    annotation_keys: Sequence[str] = (),
) -> dict[str, list[dict]]:
    """Read an annotation file and check the form of its entries, but not what they refer to.

    Args:
        path: The file.
        backend_args: Of mmengine's file backend; None for local files.
        image_keys: Keys that every image must have besides `id`.
        annotation_keys: Keys that every annotation must have besides `id`.

    Returns:
        The content, with the lists `images`, `annotations` and `categories`; the latter have `id` and `name`.

    Raises:
        ValueError: The file is missing, is no JSON, has not the three lists, or an entry lacks a key or has the
            id of another one.
    """
    content = load_json(path, backend_args)
    if not isinstance(content, dict):
        raise ValueError(
            f'{path} is no COCO annotation file: got a JSON {type(content).__name__}, expected an object '
            'with `images`, `annotations` and `categories`. Convert the data with tools/convert_dataset.py.'
        )
    keys = {'images': image_keys, 'annotations': annotation_keys, 'categories': ('name',)}
    for name in LISTS:
        _check_list(content, name, ('id', *keys[name]), path)
    return content


def is_box(bbox: object) -> TypeGuard[list[float]]:
    """Whether this is four finite numbers."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return False
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in bbox)


def is_polygon(part: object) -> TypeGuard[list[float]]:
    """Whether this is x and y of three or more points, all finite numbers."""
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return False
    try:
        # The sum of thousands of numbers takes microseconds, a look at each does not.
        return math.isfinite(sum(part))
    except TypeError:
        return False


def load_json(path: str, backend_args: dict | None) -> object:
    """The content of an annotation file in JSON.

    Raises:
        ValueError: The file is missing, a folder, or no JSON.
    """
    try:
        return json.loads(get_text(path, backend_args=backend_args))
    except FileNotFoundError as error:
        raise ValueError(
            f'The annotation file {path} does not exist. Check `data_root` and `ann_file` in the config.'
        ) from error
    except IsADirectoryError as error:
        raise ValueError(f'{path} is a folder. Give the annotation file in `ann_file`.') from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f'{path} is not JSON ({error}): it may be truncated or of another format. Download it again, or '
            'convert the data with tools/convert_dataset.py.'
        ) from error


def _check_list(content: dict, name: str, keys: Sequence[str], path: str) -> None:
    """The list `name` is there; each entry has the keys and an id of its own."""
    if not isinstance(content.get(name), list):
        raise ValueError(
            f'{path} has no list {name!r}: got the keys {sorted(content)}, expected images, annotations and '
            'categories. A test file without annotations needs `"annotations": []`.'
        )
    seen: set = set()
    for position, entry in enumerate(content[name]):
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(
                f'{path}: entry {position} of {name!r} lacks {missing}: {str(entry)[:100]}'
            )
        if entry['id'] in seen:
            raise ValueError(
                f'{path}: the id {entry["id"]} occurs twice in {name!r}. Number them anew.'
            )
        seen.add(entry['id'])
