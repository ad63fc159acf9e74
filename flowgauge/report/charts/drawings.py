# SPDX-License-Identifier: Apache-2.0
"""The drawings of a report: a chart for each question, and pictures of timelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flowgauge.report.charts.charts import Spec, spec
from flowgauge.report.charts.gantt import gantt_charts
from flowgauge.report.model.questions import Question
from flowgauge.results.timelines import Timeline


@dataclass(frozen=True)
class Drawing:
    """The drawings for one question.

    Attributes:
        chart: A Vega-Lite specification.
        pictures: Further drawings as SVG, by their file names without suffix.
    """

    chart: Spec
    pictures: Mapping[str, str] = field(default_factory=dict)


def draw(questions: Iterable[Question], timelines: Iterable[Timeline] = ()) -> dict[str, Drawing]:
    """Draw the answers to questions.

    Args:
        questions: The questions with their rows.
        timelines: The timelines of the same run; a question with `shows_timelines` shows those of
            its rows.

    Returns:
        A drawing for each question that has an answer, by the question's key.
    """
    all_timelines = tuple(timelines)
    return {
        question.key: Drawing(
            chart, gantt_charts(question.rows, all_timelines) if question.shows_timelines else {}
        )
        for question in questions
        if (chart := spec(question))
    }
