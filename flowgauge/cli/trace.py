# SPDX-License-Identifier: Apache-2.0
"""`flowgauge trace`: write a flow run of a Prefect server as a workflow file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowgauge.cli.patterns import Force
from flowgauge.mistake import Mistake


def trace(
    flow_run_id: Annotated[str, Parameter(name="FLOW_RUN_ID", help="The id of a flow run.")],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="The WfFormat file to write.")],
    force: Force = False,
) -> None:
    """Write a flow run of a Prefect server as a workflow, for `advise` and the benchmarks.

    It is read from the server that Prefect's settings point to (PREFECT_API_URL).
    """
    if output.exists() and not force:
        raise Mistake(f"{output} exists: give another file, or --force to overwrite it")
    from flowgauge.workflows.flow_run import read_flow_run
    from flowgauge.workflows.recorded import as_workflow
    from flowgauge.workflows.wfformat import dump_workflow

    workflow = as_workflow(*read_flow_run(flow_run_id))
    dump_workflow(workflow, output)
    count = len(workflow.tasks)
    print(
        f"{output}: {count} task{'s' * (count != 1)}, {workflow.total_work:.1f} s of work,"
        f" {workflow.critical_seconds:.1f} s on the critical path"
    )
    print(f"which task runner suits it: flowgauge advise --workflow {output}")
