# SPDX-License-Identifier: Apache-2.0
"""How to read a report, in the words that the page and the Markdown share."""

from __future__ import annotations

from flowgauge.report.model.headline import noise
from flowgauge.report.model.verdicts import Bands

COMMAND = "flowgauge report results.json -o DIR"
NOT_MEASURED = "Not measured in this run."


def glossary(bands: Bands) -> tuple[tuple[str, str], ...]:
    """Explain the terms of a report.

    Args:
        bands: The A/A bands of the run, which tell how far the same thing differs from itself.

    Returns:
        Pairs of a term and what it means here.
    """
    return (
        (
            "Median",
            "The middle of all rounds: half took longer, half did not. One slow round does not"
            " move it.",
        ),
        (
            "95 % interval",
            "The rounds were drawn again many times, with repeats (a bootstrap): 95 % of the"
            " medians fell in here.",
        ),
        (
            "Paired rounds",
            "Each round of what is measured stands right after a round of what it is compared"
            " with, in the same process, so a busy machine slows both.",
        ),
        (
            "Ratio",
            "The time of a round over the time of the round beside it, then the median of those:"
            " ×2 takes twice as long, ×0.5 half. It carries over to another machine better than"
            " seconds do.",
        ),
        (
            "No difference seen",
            "The ratio's interval holds ×1, or the ratio lies inside what the same thing shows"
            " against itself, in that group and on that runner; in short tables this is ≈."
            f" {noise(bands)}",
        ),
        (
            "Start-up",
            "Starting a server, a process pool or a cluster is paid once. It has rows of its own"
            " and is in no other figure.",
        ),
    )
