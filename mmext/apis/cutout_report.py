"""What a run of cut-outs took and what came of it, as a table and as JSON."""

from collections.abc import Sequence

import numpy as np

from mmext.apis.cutout import PartSeconds
from mmext.apis.cutout_jobs import Outcome


def time_summary(seconds: Sequence[PartSeconds]) -> dict[str, dict[str, float]]:
    """`p50`, `p95` and `mean` of each part and of their sum, `total`, in seconds; empty without any."""
    if not seconds:
        return {}
    times = np.array([[*own, sum(own)] for own in seconds])
    summary = {}
    for name, column in zip((*PartSeconds._fields, 'total'), times.T, strict=True):
        half, most = np.percentile(column, (50, 95))
        summary[name] = dict(p50=float(half), p95=float(most), mean=float(column.mean()))
    return summary


def time_table(seconds: Sequence[PartSeconds], unit: str) -> str:
    """The summary as text, in milliseconds for one `unit`; empty without any."""
    # The first pays for memory and caches that later ones reuse; P50 does not see it.
    lines = [
        f'  {name:22} {1e3 * own["p50"]:8.1f} {1e3 * own["p95"]:8.1f}'
        for name, own in time_summary(seconds).items()
    ]
    return '\n'.join([f'{f"ms a {unit}":24} {"P50":>8} {"P95":>8}', *lines]) if lines else ''


def folder_report(
    outcomes: Sequence[Outcome],
    settings: dict[str, object],
    *,
    skipped: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> dict[str, object]:
    """The report on a folder.

    Returns:
        `settings`; `num_done`; `skipped`, the photos whose products were there; `left_out`, files that are no images by
        their ending; `failures`, a list of `input` and `error`; `seconds`, see `time_summary`; `photos`, a list of `input`, `outputs` by product, `height`, `width` and
        `seconds` by part.
    """
    done = [outcome for outcome in outcomes if outcome.error is None]
    photos = []
    times = []
    for outcome in done:
        assert outcome.size is not None and outcome.seconds is not None
        times.append(outcome.seconds)
        photos.append(
            dict(
                input=str(outcome.job.source),
                outputs={name: str(path) for name, path in outcome.job.targets.items()},
                height=outcome.size[0],
                width=outcome.size[1],
                seconds=outcome.seconds._asdict(),
            )
        )
    failures = [
        dict(input=str(outcome.job.source), error=str(outcome.error))
        for outcome in outcomes
        if outcome.error is not None
    ]
    return dict(
        settings=settings,
        num_done=len(done),
        skipped=list(skipped),
        left_out=list(left_out),
        failures=failures,
        seconds=time_summary(times),
        photos=photos,
    )
