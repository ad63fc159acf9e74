# SPDX-License-Identifier: Apache-2.0
"""Binds tests to the guarantees and facts they prove, and records what came of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowgauge.runners.table import RUNNERS

if TYPE_CHECKING:
    from flowgauge.report.model.guarantees import ProofOutcome

_PROPERTY = "flowgauge_guarantee"
"""The user property that carries a guarantee in a test's report, also between processes."""


def bind_proof(item: pytest.Item, mark: pytest.Mark) -> None:
    """Note which guarantee or fact a test proves, and let it fail on runners on which it must.

    Args:
        item: The test.
        mark: `guarantee(pattern, id, *, runners=None, reason=None, issue=None, run=True)`, or
            `fact` with the same.

    Raises:
        pytest.UsageError: If the mark lacks something.
    """
    if len(mark.args) != 2:
        raise pytest.UsageError(
            f'{item.nodeid}: write @pytest.mark.{mark.name}("topic/pattern", "{mark.name}-id")'
        )
    holds_on: tuple[str, ...] | None = mark.kwargs.get("runners")
    reason: str = mark.kwargs.get("reason", "")
    if holds_on is not None and not reason:
        raise pytest.UsageError(
            f"{item.nodeid}: a {mark.name} that holds on some runners only needs reason=..."
        )
    callspec = getattr(item, "callspec", None)
    runner = callspec.params.get("runner_name") if callspec else None
    # A lean runner does what the one does that it stands in for.
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
    narrowed = item.get_closest_marker("runners")
    bound = {
        "only": list(narrowed.args) if narrowed else [],
        "pattern": mark.args[0],
        "guarantee": mark.args[1],
        "runner": runner,
        "reason": reason if fails_here else "",
        "issue": mark.kwargs.get("issue") if fails_here else None,
    }
    item.user_properties.append((_PROPERTY, bound))


class GuaranteeRecorder:
    """Gathers the outcome of every proof and writes the guarantee matrix at the end."""

    def __init__(self, config: pytest.Config, runners: tuple[str, ...], directory: Path) -> None:
        self.config = config
        self.runners = runners
        self.directory = directory
        self.outcomes: list[ProofOutcome] = []
        self.summary = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a finished test says about its guarantees."""
        status = _status(report)
        if status is None:
            return
        from flowgauge.report.model.guarantees import ProofOutcome

        for name, value in report.user_properties:
            if name == _PROPERTY:
                bound: dict[str, Any] = dict(value)  # type: ignore[call-overload]
                reason = bound.pop("reason") or _skip_reason(report)
                only: list[str] = bound.pop("only")
                proof = ProofOutcome(**bound, status=status, reason=reason, test=report.nodeid)
                self.outcomes.append(proof)
                for runner in self.runners:
                    if only and runner not in only:
                        unasked = f"its test is for {', '.join(only)} only"
                        self.outcomes.append(
                            replace(proof, runner=runner, status="not run", reason=unasked)
                        )

    def pytest_sessionfinish(self) -> None:
        """Write the matrix, if this run proved anything and is not a worker of another."""
        if hasattr(self.config, "workerinput"):
            return
        if all(outcome.status == "not run" for outcome in self.outcomes):
            return
        from flowgauge.catalogue.catalogue import CatalogueError, load_catalogue
        from flowgauge.report.model.guarantees import GuaranteeMatrix
        from flowgauge.report.render.guarantees import write_matrix

        catalogue = self.config.rootpath / "patterns"
        unread = ""
        try:
            patterns = load_catalogue(catalogue) if catalogue.is_dir() else ()
        except CatalogueError as error:
            patterns = ()
            unread = f"; without the catalogue: {error}"
        matrix = GuaranteeMatrix.build(patterns, self.runners, self.outcomes)
        page = _shown(write_matrix(matrix, self.directory), self.config.rootpath)
        self.summary = f"guarantees: {matrix.summary()} ({page}){unread}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say in one line what was proved."""
        if self.summary:
            terminalreporter.write_line(self.summary)


def _status(report: pytest.TestReport) -> str | None:
    """Return what a report says about a guarantee, None if another report will say it."""
    if report.failed:
        return "failed"
    if report.skipped:
        return "does not hold" if hasattr(report, "wasxfail") else "not run"
    return "proved" if report.when == "call" else None


def _skip_reason(report: pytest.TestReport) -> str:
    """Return why a test was skipped, empty if it was not."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return ""


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
