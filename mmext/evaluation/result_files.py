"""Scores of a run, from the files that mmengine leaves."""

import json
from pathlib import Path


def read_result_file(path: str | Path) -> dict[str, float]:
    """Scores of one run, the names without the prefix of the metric ('coco/').

    Args:
        path: of a test, WORK_DIR/<time>/<time>.json; or WORK_DIR/<time>/vis_data/scalars.json of a training, an object a
            line, of which the last validation counts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no scores.
    """
    text = Path(path).read_text(encoding='utf-8')
    try:
        records = [json.loads(text)] if text.count('{') == 1 else map(json.loads, text.splitlines())
        found = [scores for scores in map(_scores, records) if scores]
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(
            f'result file {path}: expected JSON as tools/test.py writes it ({error})'
        ) from error
    if not found:
        raise ValueError(
            f"result file {path}: got no scores, expected keys such as 'coco/segm_mAP'. Give the file "
            'WORK_DIR/<time>/<time>.json of a test.'
        )
    return found[-1]


def _scores(record: dict) -> dict[str, float]:
    """The entries that a metric wrote: their names have a prefix."""
    return {key.partition('/')[2]: float(value) for key, value in record.items() if '/' in key}
