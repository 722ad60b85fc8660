"""Preflight of mattes: some alpha files are loaded as the pipeline of their data set loads them, and looked at.

A folder of masks of which none shows anything trains to the end, and so do masks that are foreground everywhere, or
whose size or values no loader understands but in the one file that comes up in the third epoch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmext.engine.preflight_checks import Finding, error, some, warning
from mmext.engine.preflight_probe import evenly_spread, no_loader, untouched_randomness

# Evenly spread over the data set. A photo of half a megapixel and its alpha take about 15 ms.
NUM_MATTES = 32
# Mattes with a larger share of pixels between the two ends are drawn softly, not only at their edges.
EDGE = (0.02, 0.98)


class MatteFacts(NamedTuple):
    """What is known of one alpha file.

    Attributes:
        path: of the file.
        foreground: mean of alpha.
        soft: share of pixels that are neither background nor foreground.
        lowest: least alpha.
        highest: largest alpha.
    """

    path: str
    foreground: float
    soft: float
    lowest: float
    highest: float


def check_mattes(where: str, dataset: Any) -> list[Finding]:
    """Checks of one data set without wrappers; nothing where its samples name no alpha file.

    Logs a line with the number of pairs, the share of foreground and of soft pixels.

    Args:
        where: place of the data set in the config, such as 'train_dataloader.dataset'.
        dataset: built; its samples have `img_path` and `alpha_path`, and a step of its pipeline makes `gt_alpha` of them.
    """
    indices = matte_indices(dataset)
    if not indices:
        return []
    facts, unread = [], []
    with untouched_randomness():
        for index in indices:
            record = dataset.get_data_info(index)
            try:
                alpha = load_alpha(dataset, record)
            except (ValueError, OSError) as reason:
                unread.append(f'{record["alpha_path"]} ({reason})')
                continue
            if alpha is None:
                return [no_loader(where, 'alpha files', 'mmext.LoadAlpha')]
            facts.append(matte_facts(record['alpha_path'], alpha))
    print_log(summary(where, len(dataset), facts), 'current')
    if unread:
        text = f'{where}: {len(unread)} of {len(indices)} alpha files looked at cannot be loaded: {some(unread, 2)}'
        return [error(text), *judge_mattes(where, facts)]
    return judge_mattes(where, facts)


def matte_indices(dataset: Any) -> list[int]:
    """Indices of samples that are looked at; none for data sets without mattes."""
    if not len(dataset) or 'alpha_path' not in dataset.get_data_info(0):
        return []
    return evenly_spread(len(dataset), NUM_MATTES)


def load_alpha(dataset: Any, record: dict[str, Any]) -> NDArray[np.float32] | None:
    """Alpha (h, w) in [0, 1] as the first step of the pipeline leaves it that makes it; None where none does."""
    for step in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
        record = step(record)
        if record is None:
            return None
        if 'gt_alpha' in record:
            return record['gt_alpha']
        # Test-time augmentation loads and packs in one step: a list of views, each with the same truth.
        views = record.get('data_samples')
        if isinstance(views, list) and views and 'gt_alpha' in views[0]:
            return views[0].gt_alpha.data[0].numpy()
    return None


def matte_facts(path: str, alpha: NDArray[np.float32]) -> MatteFacts:
    """Facts of a matte (h, w) in [0, 1]."""
    return MatteFacts(
        path=path,
        foreground=float(alpha.mean()),
        soft=float(((alpha > EDGE[0]) & (alpha < EDGE[1])).mean()),
        lowest=float(alpha.min()),
        highest=float(alpha.max()),
    )


def judge_mattes(where: str, facts: Sequence[MatteFacts]) -> list[Finding]:
    """Findings on the values of mattes: all or some of them empty, or foreground everywhere."""
    findings = []
    for kind, outcome, paths in (
        ('empty (alpha 0 everywhere)', 'nothing', [f.path for f in facts if f.highest <= EDGE[0]]),
        ('full (alpha 1 everywhere)', 'everything', [f.path for f in facts if f.lowest >= EDGE[1]]),
    ):
        if not paths:
            continue
        if len(paths) == len(facts):
            findings.append(
                error(
                    f'{where}: all {len(facts)} alpha files looked at are {kind}: a model learns that {outcome} is '
                    f'foreground. Check {where}.data_prefix and what the values of {paths[0]} mean (0 is background, '
                    'the largest value foreground)'
                )
            )
        else:
            findings.append(
                warning(
                    f'{where}: {len(paths)} of {len(facts)} alpha files looked at are {kind}: {some(paths)}'
                )
            )
    return findings


def summary(where: str, num_pairs: int, facts: Sequence[MatteFacts]) -> str:
    """One line on the mattes of a data set."""
    text = f'preflight {where}: {num_pairs} pairs of image and alpha, {len(facts)} looked at'
    if not facts:
        return text
    foreground, soft = (np.mean([getattr(f, key) for f in facts]) for key in ('foreground', 'soft'))
    return f'{text}: {foreground:.1%} foreground, {soft:.1%} soft pixels'
