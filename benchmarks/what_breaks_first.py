# SPDX-License-Identifier: Apache-2.0
"""What breaks first in large runs: the task runs that one server takes, and what limits the rest.

Not part of the suite, because it takes more than half an hour:

    uv run pytest benchmarks/what_breaks_first.py --benchmark-only --flow-full \
        --flow-report-dir reports/limits

Rows of group `load` are measured: up to which rate a server stores states in time, how fast it
catches up, and what it loses. So are the runs of up to 10,000 tasks, which say how far off what is
computed from costs is. The other rows of group `limits` are computed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prefect.task_runners import TaskRunner

from flowgauge.measure.graph_flow import submit_all
from flowgauge.measure.host import inside_flow
from flowgauge.measure.intervals import median_interval
from flowgauge.measure.server_burst import burst_rows
from flowgauge.measure.server_limit import find_limit, limit_row
from flowgauge.measure.server_load import Clients
from flowgauge.plugin.paired import Paired
from flowgauge.predict.fitting import fit
from flowgauge.predict.held_out import Timed, compared, time_workflows
from flowgauge.predict.limit_rows import computed_rows, predicted_row
from flowgauge.predict.mapped import Mapped
from flowgauge.predict.observations import sampled
from flowgauge.predict.prediction import Predictor
from flowgauge.predict.simulation import Machine
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group
from flowgauge.runners.chosen import default_workers
from flowgauge.runners.started import StartedRunners
from flowgauge.runners.table import names_where
from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.workflow import Workflow
from patterns.deployments.self_hosted_server import postgres, prefect_server

SERVERS: dict[str, dict[str, str]] = {
    "SQLite": {},
    "SQLite, in batches": {
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    },
    "PostgreSQL": {},
}
"""Databases of a server, and the settings of Prefect that it has beside its defaults.

An interval below a second would be rounded down to none, and a processor kept busy
(`prefect.server.services.task_run_recorder`)."""
FIRST = 10.0
"""The rate to begin with, in task runs per second."""
SECONDS, BRIEFLY = 5.0, 0.3
"""For how long each rate is offered."""
CLIENTS = (1, 2, 4, 8)
BURSTS, FEW, BURST_CLIENTS = (1000, 3000, 10_000), (8,), 2
"""Task runs that start as fast as two clients can. The first burst says how long the second takes;
of the third, a server that is slower than its clients drops a part.
"""
TASKS = ((1000, 0.0), (1000, 0.01), (3000, 0.0), (3000, 0.01), (10_000, 0.0))
FEW_TASKS = ((8, 0.0),)
"""Numbers of tasks, and seconds of work in each, of the runs that are predicted."""
LONGEST = 120.0
"""The longest that a run may be expected to take, in seconds; a longer one is not run."""
FITTED, ROUNDS = (0.0, 0.01, 0.1), 3
"""Seconds of work in the tasks that costs are fitted to, and how often they are run."""
STEADY, FEWEST, MOST = 3.0, 8, 300
"""For how long such a run should last, in seconds: for a moment at its beginning tasks cost more or
less than later. And the fewest and the most tasks for each worker."""
with_workers = pytest.mark.runners(
    *names_where(lambda runner: runner.common and not runner.execution.inline)
)
pytestmark = pytest.mark.timeout(1800)
STORED: dict[str, Interval] = {}
"""The task runs that a server stored in a second while it was behind, by its database."""
PREDICTORS: list[Predictor] = []
"""Those of the task runners measured so far."""


@pytest.fixture(scope="class", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Yield the name of a database, and the API address of a self-hosted server on it."""
    folder, name = tmp_path_factory.mktemp("load"), request.param
    with ExitStack() as stack:
        url = stack.enter_context(postgres(folder / "data")) if name == "PostgreSQL" else None
        at_home = prefect_server(folder / "server", url, settings=SERVERS[name])
        yield name, stack.enter_context(at_home)


class TestServer:
    """Each server is up for its own measurements only."""

    @pytest.mark.parametrize("clients", CLIENTS)
    def test_rate(
        self, paired: Paired, server: tuple[str, str], clients: int, tmp_path: Path
    ) -> None:
        """The rate up to which states are stored within a second and nothing is lost."""
        database, api = server
        paired.benchmark.group = Group.LOAD
        if paired.benchmark.disabled and clients > 1:
            pytest.skip("one client shows that it works")
        with Clients(api, tmp_path, clients) as running:
            if paired.benchmark.disabled:
                assert paired.benchmark.pedantic(running.offer, args=(FIRST, BRIEFLY)).lost == 0
                return
            paired.benchmark.pedantic(lambda: None)
            limit = find_limit(lambda rate: running.offer(rate, SECONDS), FIRST)
        paired.add([limit_row(limit, database, clients)])

    def test_burst(self, paired: Paired, server: tuple[str, str], tmp_path: Path) -> None:
        """How fast a server catches up with task runs that come faster than it stores them."""
        database, api = server
        paired.benchmark.group = Group.LOAD
        paired.benchmark.pedantic(lambda: None)
        disabled = paired.benchmark.disabled
        with Clients(api, tmp_path, BURST_CLIENTS) as running:
            bursts = [
                running.burst(number // BURST_CLIENTS) for number in (FEW if disabled else BURSTS)
            ]
        if disabled:
            assert bursts[0].lost == (0, 0, 0)
            return
        STORED[database] = median_interval([burst.stored for burst in bursts])
        few, many, _ = bursts
        computed = many.number / min(few.stored, many.sent)
        params = {"database": database, "tasks": many.number}
        labels = {"group": Group.LIMITS, "runner": None, "params": params}
        figure = "time until all states are stored, and computed over measured"
        paired.add(
            [
                *(row for burst in bursts for row in burst_rows(burst, database)),
                compared([computed], [many.seconds], labels | {"id": "burst", "figure": figure}),
            ]
        )


@with_workers
def test_many_tasks(
    paired: Paired,
    task_runner: TaskRunner[Any],
    runner_name: str,
    bare_pool: Executor,
    speeds: Speeds,
    started_runners: StartedRunners,
) -> None:
    """The makespans of runs of thousands of tasks, relative to what the costs of few predict."""
    disabled, workers = paired.benchmark.disabled, started_runners.workers
    paired.benchmark.group = Group.LIMITS
    paired.benchmark.pedantic(lambda: None)

    def equal(steps: int, seconds: float) -> Workflow:
        return shape("trivial", workers, steps, seconds=seconds, kernel="native")

    def timed(workflows: Sequence[Workflow], rounds: int) -> list[Timed]:
        run = functools.partial(submit_all, speeds=speeds)
        return time_workflows(workflows, run, bare_pool, speeds, workers, rounds)

    def measure() -> None:
        submit_all(equal(1, 0.0), speeds)
        [first] = timed([equal(2 if disabled else FEWEST, 0.0)], 1)
        cost = first.seconds[0] / len(first.workflow.tasks) * workers
        fitted = [equal(1 if disabled else steady(cost + seconds), seconds) for seconds in FITTED]
        machine = Machine(workers, default_workers())
        rounds = [each.observed(machine) for each in timed(fitted, 1 if disabled else ROUNDS)]
        predictor = fit(runner_name, [sampled(each) for each in itertools.chain(*rounds)], machine)
        PREDICTORS.append(predictor)
        for number, seconds in FEW_TASKS if disabled else TASKS:
            mapped = Mapped(seconds, number, "native")
            if mapped.makespan(1, predictor) < LONGEST:
                [once] = timed([shape("trivial", number, 1, seconds=seconds, kernel="native")], 1)
                paired.add([predicted_row(mapped, once, predictor)])

    inside_flow(task_runner, measure)


def steady(seconds: float) -> int:
    """Return how many tasks a worker should do if one takes it so long."""
    return round(min(max(STEADY / seconds, FEWEST), MOST))


def test_limits(paired: Paired) -> None:
    """What limits larger runs on more workers, computed from what the tests above measured."""
    paired.benchmark.group = Group.LIMITS
    paired.benchmark.pedantic(lambda: None)
    if not (STORED and PREDICTORS):
        pytest.skip("it is computed from a server's rate and a task runner's costs")
    paired.add(list(computed_rows(PREDICTORS, STORED)))
