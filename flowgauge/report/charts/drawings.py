# SPDX-License-Identifier: Apache-2.0
"""Everything that is drawn for the questions of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flowgauge.report.charts.charts import Spec, spec
from flowgauge.report.charts.gantt import gantt_charts
from flowgauge.report.model.questions import Question
from flowgauge.results.timelines import Timeline


@dataclass(frozen=True)
class Drawing:
    """What is drawn for a question.

    Attributes:
        chart: A Vega-Lite specification.
        pictures: More, as SVG, by the name of their file without its ending.
    """

    chart: Spec
    pictures: Mapping[str, str] = field(default_factory=dict)


def draw(questions: Iterable[Question], timelines: Iterable[Timeline] = ()) -> dict[str, Drawing]:
    """Draw the answers to questions.

    Args:
        questions: Each with its rows.
        timelines: Of the run that the rows are from; a question that shows when tasks ran shows
            those of its rows.

    Returns:
        A drawing for each question that has an answer, by the question's key.
    """
    kept = tuple(timelines)
    return {
        question.key: Drawing(
            chart, gantt_charts(question.rows, kept) if question.shows_timelines else {}
        )
        for question in questions
        if (chart := spec(question))
    }
