# SPDX-License-Identifier: Apache-2.0
"""Executes a flow run in a process of its own, as the runner of a served flow or a worker does."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowgauge.services.service import Execute, Running

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, WorkPool

HOME = "FLOWGAUGE_SERVICE_HOME"
"""The environment variable with the folder of the pytest run."""

PARENT = "FLOWGAUGE_SERVICE_RUN"
"""The environment variable with the key by which the virtual clock knows what runs the process."""


class ChildError(RuntimeError):
    """The process of a flow run that ended unsuccessfully."""


@dataclass(frozen=True)
class Command:
    """How to start the process of a flow run.

    Attributes:
        words: The program and its arguments.
        environment: Variables in addition to those of this process.
        folder: Its working directory; None for this process's.
    """

    words: list[str] = field(default_factory=lambda: [sys.executable, "-m", __package__])
    environment: Mapping[str, str | None] = field(default_factory=dict)
    folder: Path | None = None


def executes(home: Path, command: Callable[[FlowRun], Command]) -> Execute:
    """Return what executes flow runs in processes.

    Args:
        home: The folder of the pytest run, so that they follow its virtual clock and faults.
        command: Returns how to start the process of a flow run.

    Returns:
        See `Execute`.
    """

    def execute(run: FlowRun, running: Running) -> None:
        how = command(run)
        with running(False) as key, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                how.words,
                env=_environment(run, how, {HOME: str(home), PARENT: key}),
                cwd=how.folder,
                stderr=errors,
            )
            # The virtual clock takes a thread that joins another one for one that waits.
            waiting = threading.Thread(target=process.wait)
            waiting.start()
            waiting.join()
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        sys.stderr.write(said)
        if process.returncode:
            last = next(iter(said.strip().splitlines()[-1:]), "")
            raise ChildError(f"its process ended with exit status {process.returncode}: {last}")

    return execute


def of_entrypoint(entrypoint: str) -> Command:
    """Return how to start a flow run as a served flow does.

    Args:
        entrypoint: The entrypoint of the deployment.

    Returns:
        The command.
    """
    return Command(environment={"PREFECT__FLOW_ENTRYPOINT": entrypoint})


def of_pool(run: FlowRun, pool: WorkPool) -> Command:
    """Return how to start a flow run as a worker does, with its job variables.

    Args:
        run: The flow run.
        pool: The work pool.

    Returns:
        The command.
    """
    from prefect.client.orchestration import get_client
    from prefect.workers.process import ProcessJobConfiguration

    async def configuration() -> Any:
        async with get_client() as client:
            assert run.deployment_id is not None
            deployment = await client.read_deployment(run.deployment_id)
            variables = {**(deployment.job_variables or {}), **(run.job_variables or {})}
            job: Any = await ProcessJobConfiguration.from_template_and_values(
                base_job_template=pool.base_job_template, values=variables, client=client
            )
            given = job.command
            job.prepare_for_flow_run(run, deployment)
            return given, job

    command, job = asyncio.run(configuration())
    words = {"words": shlex.split(command)} if command else {}
    return Command(environment=job.env, folder=job.working_dir, **words)


def _environment(run: FlowRun, how: Command, ours: Mapping[str, str]) -> dict[str, str]:
    from prefect.settings import get_current_settings

    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    variables = {**os.environ, **settings, **how.environment, **ours}
    variables["PREFECT__FLOW_RUN_ID"] = str(run.id)
    return {name: value for name, value in variables.items() if value is not None}
