# SPDX-License-Identifier: Apache-2.0
"""The `metg` fixture: the minimum effective task granularity (METG) of a case, as rows."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from flowgauge.measure.granularity import Granularity, MetgCase, measure_case
from flowgauge.measure.graph_flow import Submit, perform_task, submit_all
from flowgauge.measure.host import inside_flow
from flowgauge.results.rows import Group
from flowgauge.runners.table import RUNNERS
from flowgauge.workflows.work_items import RunWorkflow, check_results

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

    from flowgauge.plugin.paired import Paired
    from flowgauge.workflows.kernels import Speeds

_LONGEST, _LONGEST_WITHOUT_EDGES = 0.6, 1.0
"""The longest tasks tried, in seconds of work: in general, and where METG(90 %) is looked for
without edges."""
_NOISE_ROUNDS = 8
"""The rounds of the A/A row of a full run: as few as other rows of METG have say nothing."""


class MetgBenchmark:
    """Measures cases relative to the bare pool of this pytest run."""

    def __init__(self, paired: Paired, pool: Executor, speeds: Speeds, workers: int) -> None:
        """Measure relative to a bare pool.

        Args:
            paired: The fixture of the same test, which keeps the rows.
            pool: The bare process pool.
            speeds: How much work a second is.
            workers: How many tasks run at once.
        """
        self.paired, self.pool, self.speeds, self.workers = paired, pool, speeds, workers

    def __call__(self, case: MetgCase, run: RunWorkflow, probes: int | None = None) -> None:
        """Measure a case, or only check that it runs if nothing is timed.

        Args:
            case: What is measured.
            run: Runs a workflow of the case.
            probes: How many amounts of work are tried for the first target; by default two or
                three.
        """
        benchmark = self.paired.benchmark
        benchmark.group = Group.METG
        if benchmark.disabled:
            workflow = case.workflow(self.workers, 2, 0.001)
            check_results(workflow, self.speeds, benchmark.pedantic(run, args=(workflow,)))
            return
        full = self.paired.recorder.full
        benchmark.pedantic(lambda: None)
        # METG(90 %) takes the longest to measure.
        targets = (0.5, 0.9) if full and not case.feature else (0.5,)
        rare = bool(case.feature) or _is_rare(case.runner)
        thorough = full and not rare and case.shape == "trivial"
        effort = 3 if thorough and case.kernel == "native" else 2
        granularity = Granularity(
            case,
            run,
            self.pool,
            self.speeds,
            self.workers,
            rounds=effort,
            noise_rounds=_NOISE_ROUNDS if full else effort,
        )
        longest = _LONGEST_WITHOUT_EDGES if thorough else _LONGEST
        self.paired.add(measure_case(granularity, longest, targets, probes or effort))

    def flow(
        self, case: MetgCase, task_runner: TaskRunner[Any], submit: Submit = perform_task.submit
    ) -> None:
        """Measure a case in a separate flow run.

        Args:
            case: What is measured.
            task_runner: What runs its tasks.
            submit: Submits one of them.
        """
        inside_flow(
            task_runner,
            lambda: self(case, lambda graph: submit_all(graph, self.speeds, submit)),
        )


def _is_rare(name: str) -> bool:
    """Return whether a runner is measured less thoroughly: few use it, or it has one worker."""
    runner = RUNNERS.get(name)
    return runner is not None and (runner.execution.inline or not runner.common)
