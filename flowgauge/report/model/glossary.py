# SPDX-License-Identifier: Apache-2.0
"""The glossary of a report, and other texts that the page and the Markdown share."""

from __future__ import annotations

from flowgauge.report.model.headline import noise
from flowgauge.report.model.verdicts import Bands
from flowgauge.results.rows import PRECISION

COMMAND = "flowgauge report results.json -o DIR"
NOT_MEASURED = "Not measured in this run."


def glossary(bands: Bands) -> tuple[tuple[str, str], ...]:
    """Return the terms of a report with their explanations.

    Args:
        bands: The A/A bands of the run: how far the same thing differs from itself.

    Returns:
        Pairs of a term and its meaning.
    """
    return (
        (
            "Median",
            "The middle of all rounds: half took longer, half did not. One slow round does not"
            " change it.",
        ),
        (
            "95 % interval",
            "The rounds were resampled many times, with replacement (a bootstrap): 95 % of the"
            " medians lay in this interval. Where one of its ends is farther than"
            f" {PRECISION:.0%} from the median, the distance is added, such as ± 12%: the time for"
            " that figure was used before it was more precise.",
        ),
        (
            "Paired rounds",
            "Each round runs right after a round of its reference, in the same process, so a busy"
            " machine slows both.",
        ),
        (
            "Ratio",
            "The time of a round divided by that of its reference's round, then the median of"
            " these: ×2 takes twice as long, ×0.5 half. It carries over to another machine better"
            " than seconds do.",
        ),
        (
            "No difference seen",
            "The ratio's interval contains ×1, or the ratio is within the range that the same thing"
            " shows when compared with itself, in that group and on that runner; in short tables"
            f" this is ≈. {noise(bands)}",
        ),
        (
            "Relative IQR",
            "The interquartile range of the rounds as a share of their median: how much the"
            " middle half of them varies.",
        ),
        (
            "METG",
            "Minimum effective task granularity: METG(50 %) is the time that a worker must have"
            " for each task so that half of it goes into the work.",
        ),
        (
            "Memory",
            "The peak in the round before those that are timed, beyond what was held before that"
            " round: in pytest's process and in the processes that it started, without Prefect's"
            " server. The reference has been called before, and the candidate has not: what it"
            " alone starts or loads counts, such as a module of a few MiB.",
        ),
        (
            "Start-up",
            "Starting a server, a process pool or a cluster is paid once. It has its own rows"
            " and is included in no other figure.",
        ),
    )
