"""What came of a run of cut-outs, as JSON."""

from collections.abc import Sequence

from mmext.apis.cutout_jobs import Outcome
from mmext.apis.timing import time_summary


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
