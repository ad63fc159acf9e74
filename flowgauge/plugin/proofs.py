# SPDX-License-Identifier: Apache-2.0
"""Bind tests to the guarantees and facts they prove, and record their outcomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowgauge.runners.table import RUNNERS

if TYPE_CHECKING:
    from flowgauge.report.model.guarantees import ProofOutcome

_PROPERTY = "flowgauge_guarantee"
"""The user property with the guarantee in a test's report; it reaches the xdist controller."""


def bind_proof(item: pytest.Item, mark: pytest.Mark) -> None:
    """Attach to a test what it proves, and expect it to fail on runners where that does not hold.

    Args:
        item: The test.
        mark: `guarantee(pattern, id, *, runners=None, reason=None, issue=None, run=True)`, or
            `fact` with the same arguments.

    Raises:
        pytest.UsageError: If the mark lacks an argument.
    """
    if len(mark.args) != 2:
        raise pytest.UsageError(
            f'{item.nodeid}: write @pytest.mark.{mark.name}("topic/pattern", "{mark.name}-id")'
        )
    holds_on: tuple[str, ...] | None = mark.kwargs.get("runners")
    reason: str = mark.kwargs.get("reason", "")
    if holds_on is not None and not reason:
        raise pytest.UsageError(
            f"{item.nodeid}: a {mark.name} that holds only on some runners needs reason=..."
        )
    callspec = getattr(item, "callspec", None)
    runner = callspec.params.get("runner_name") if callspec else None
    # What holds on a stock runner also holds on its lean replacement.
    stock = (RUNNERS[runner].stock or runner) if runner in RUNNERS else runner
    fails_here = holds_on is not None and runner is not None and stock not in holds_on
    if fails_here:
        item.add_marker(
            pytest.mark.xfail(
                reason=reason,
                run=mark.kwargs.get("run", True),
                raises=AssertionError,
                strict=True,
            )
        )
    runners_mark = item.get_closest_marker("runners")
    proof = {
        "only": list(runners_mark.args) if runners_mark else [],
        "pattern": mark.args[0],
        "guarantee": mark.args[1],
        "runner": runner,
        "reason": reason if fails_here else "",
        "issue": mark.kwargs.get("issue") if fails_here else None,
    }
    item.user_properties.append((_PROPERTY, proof))


class GuaranteeRecorder:
    """Collects the outcome of every proof and writes the guarantee matrix at the end.

    Args:
        config: The configuration of the pytest run.
        runners: The task runners of the run.
        directory: The folder for the matrix.
    """

    def __init__(self, config: pytest.Config, runners: tuple[str, ...], directory: Path) -> None:
        self.config = config
        self.runners = runners
        self.directory = directory
        self.outcomes: list[ProofOutcome] = []
        self.summary = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record what a finished test proves."""
        status = _status(report)
        if status is None:
            return
        from flowgauge.report.model.guarantees import ProofOutcome

        for name, value in report.user_properties:
            if name == _PROPERTY:
                fields: dict[str, Any] = dict(value)  # type: ignore[call-overload]
                reason = fields.pop("reason") or _skip_reason(report)
                only: list[str] = fields.pop("only")
                proof = ProofOutcome(**fields, status=status, reason=reason, test=report.nodeid)
                self.outcomes.append(proof)
                for runner in self.runners:
                    if only and runner not in only:
                        excluded = f"its test is only for {', '.join(only)}"
                        self.outcomes.append(
                            replace(proof, runner=runner, status="not run", reason=excluded)
                        )

    def pytest_sessionfinish(self) -> None:
        """Write the matrix, unless nothing was proved or this process is a pytest-xdist worker."""
        if hasattr(self.config, "workerinput"):
            return
        if all(outcome.status == "not run" for outcome in self.outcomes):
            return
        from flowgauge.catalogue.catalogue import CatalogueError, load_catalogue
        from flowgauge.report.model.guarantees import GuaranteeMatrix
        from flowgauge.report.render.guarantees import write_matrix

        catalogue = self.config.rootpath / "patterns"
        omission = ""
        try:
            patterns = load_catalogue(catalogue) if catalogue.is_dir() else ()
        except CatalogueError as error:
            patterns = ()
            omission = f"; without the catalogue: {error}"
        matrix = GuaranteeMatrix.build(patterns, self.runners, self.outcomes)
        page = _display_path(write_matrix(matrix, self.directory), self.config.rootpath)
        self.summary = f"guarantees: {matrix.summary()} ({page}){omission}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print one line on what was proved."""
        if self.summary:
            terminalreporter.write_line(self.summary)


def _status(report: pytest.TestReport) -> str | None:
    """Return the outcome that a report shows, None if another report of the test shows it."""
    if report.failed:
        return "failed"
    if report.skipped:
        return "does not hold" if hasattr(report, "wasxfail") else "not run"
    return "proved" if report.when == "call" else None


def _skip_reason(report: pytest.TestReport) -> str:
    """Return why a test was skipped, or an empty string if it was not."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return ""


def _display_path(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
