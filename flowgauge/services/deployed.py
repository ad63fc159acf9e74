# SPDX-License-Identifier: Apache-2.0
"""Starts services: for a flow that it deploys, or for the deployments of a work pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowgauge.services import in_processes, in_threads
from flowgauge.services.scheduled import OfDeployment, OfWorkPool
from flowgauge.services.service import Service

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import WorkPool

    from flowgauge.clock.process import ClockProcess


@dataclass(frozen=True)
class Services:
    """The services of one test; `serve` and `worker` are its fixtures.

    Attributes:
        home: The folder of the pytest run.
        clock: This process's side of the virtual clock, if the test uses it.
        started: Receives each service that is started.
    """

    home: Path
    clock: ClockProcess | None
    started: Callable[[Service], object]

    def serve(
        self,
        flow: Flow[..., Any],
        name: str | None = None,
        *,
        limit: int | None = None,
        processes: bool = False,
        **options: Any,
    ) -> Service:
        """Deploy a flow, and execute its runs until the test is over.

        Args:
            flow: The flow.
            name: The name of the deployment; by default that of the flow.
            limit: How many runs are executed at once; None for any number.
            processes: Whether each run has a process of its own, which loads the flow from its
                file. Otherwise it has a thread of this process, and this very flow.
            **options: What else `flow.to_deployment` takes, for instance `cron` or `parameters`.

        Returns:
            The service.
        """
        name = name or flow.name
        to_deployment: Any = flow.to_deployment
        deployment = to_deployment(name=name, _sync=True, **options)
        source = OfDeployment(deployment.apply(_sync=True))
        if processes:
            command = in_processes.of_entrypoint(deployment.entrypoint)
            execute = in_processes.executes(self.home, lambda run: command)
        else:
            execute = in_threads.executes(lambda run: flow)
        service = Service(f"{flow.name}/{name}", source, execute, self.clock, limit)
        self.started(service)
        return service

    def worker(self, pool: str, *, limit: int | None = None, processes: bool = False) -> Service:
        """Execute the flow runs of a work pool until the test is over.

        Args:
            pool: The name of the work pool. If there is none, one of the type "process" is created.
            limit: How many runs are executed at once; None for any number.
            processes: Whether each run has a process of its own, with its job variables. Otherwise
                it has a thread of this process, which loads the flow.

        Returns:
            The service.
        """
        found = _work_pool(pool)
        if processes:
            execute = in_processes.executes(self.home, lambda run: in_processes.of_pool(run, found))
        else:
            execute = in_threads.executes(in_threads.loaded)
        service = Service(pool, OfWorkPool(pool), execute, self.clock, limit)
        self.started(service)
        return service


def _work_pool(name: str) -> WorkPool:
    """Return a work pool, creating it if there is none, as `prefect worker start` does."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            return client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            new = WorkPoolCreate(name=name, type="process", base_job_template=template)
            return client.create_work_pool(new)
