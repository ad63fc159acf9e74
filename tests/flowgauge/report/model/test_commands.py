# SPDX-License-Identifier: Apache-2.0
"""Each group of rows is shown with the command that measures it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.report.model.commands import command, files_of_groups
from flowgauge.results.joined import BENCHMARKS
from tests.flowgauge.report.conftest import row

FILES = {BENCHMARKS: {"features": ["bench/test_a.py", "bench/test_b.py"]}}


def test_a_group_is_measured_by_the_files_of_its_rows() -> None:
    """Every file that measured rows of a group is named, once."""
    features, noise = row("submit", 0.1), row("submit", 0.1, 1.0, group="noise")
    measured = {
        "bench/test_b.py::test_two[threads]": [features],
        "bench/test_a.py::test_one[threads]": [features, noise],
        "bench/test_a.py::test_one[processes]": [features],
    }
    assert files_of_groups(measured) == {
        "features": ["bench/test_a.py", "bench/test_b.py"],
        "noise": ["bench/test_a.py"],
    }


@pytest.mark.parametrize(
    ("run", "options"),
    [
        ("pytest --benchmark-only", ""),
        (
            "pytest benchmarks -k submit --benchmark-only --flow-full --flow-report-dir /x",
            " --flow-full",
        ),
        (
            "pytest --flow-file 'a b.json' --flow-time-scale=0.1",
            " --flow-file 'a b.json' --flow-time-scale=0.1",
        ),
        (
            "pytest --flow-runners threads -q --flow-workers 4",
            " --flow-runners threads --flow-workers 4",
        ),
    ],
)
def test_the_command_keeps_options_that_affect_measurements(run: str, options: str) -> None:
    """Options of the run that affect what is measured are repeated, and others are not."""
    found = command(FILES | {"command": run}, "features")
    assert found == f"pytest bench/test_a.py bench/test_b.py --benchmark-only{options}"


@pytest.mark.parametrize("marks", [{}, {BENCHMARKS: {}}, {BENCHMARKS: "somewhere"}])
def test_results_that_do_not_name_benchmarks_have_no_command(marks: dict[str, object]) -> None:
    """Results that do not name their benchmark files, such as older ones, have no command."""
    assert command(marks, "features") == ""


def test_page_and_markdown_show_the_command(report: Path) -> None:
    """The command is shown with the charts and tables of its group, and nowhere else."""
    page = (report / "index.html").read_text()
    text = (report / "report.md").read_text()
    # Two questions of METG and its table; three questions of features and theirs.
    for file, places in (("test_metg.py", 3), ("test_a.py", 4)):
        again = f"pytest benchmarks/{file} --benchmark-only"
        assert page.count(f'<p class="again"><code>{again}</code></p>') == places
        assert text.count(f"Measured by `{again}`") == places
