# SPDX-License-Identifier: Apache-2.0
"""`flowgauge advise`: recommend a task runner for a workload, from measured costs."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flowgauge.catalogue.catalogue import catalogue_root
from flowgauge.mistake import Mistake
from flowgauge.workflows.workflow import GraphError, Kernel, Workflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowgauge.predict.mapped import Mapped
    from flowgauge.predict.prediction import Predictor
    from flowgauge.results.rows import Results

_DEFAULT_SOURCES = ("reports/latest/results.json", "reports/reference/results.json")
"""Where a project keeps its results; without any, the reference run is used."""
_MOST_WORKERS = 256
"""Upper limit of --workers: more are too far from what was measured, and slow to simulate."""
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


class AdviseError(Mistake):
    """An error that the user can fix; the message is one line."""


def advise(
    *,
    task_ms: Annotated[
        float | None,
        Parameter(help="Milliseconds of work in one call, when it has the worker to itself."),
    ] = None,
    tasks: Annotated[int | None, Parameter(help="Number of calls.")] = None,
    kernel: Annotated[
        Kernel | None,
        Parameter(
            help="Kind of work: python holds the interpreter's lock, native (the default) "
            "releases it, wait only waits."
        ),
    ] = None,
    payload: Annotated[
        str | None, Parameter(help="Size of each call's result, such as 0B, 20kB or 1MB.")
    ] = None,
    workflow: Annotated[
        Path | None, Parameter(help="A workflow in WfFormat, instead of identical calls.")
    ] = None,
    time_scale: Annotated[
        float | None, Parameter(help="Factor that the workflow's runtimes are multiplied by.")
    ] = None,
    workers: Annotated[
        int | None, Parameter(help="How many tasks may run at once (default: as measured).")
    ] = None,
    results: Annotated[
        str | None, Parameter(help="results.json, a folder that has one, or a git commit.")
    ] = None,
    measure: Annotated[
        bool,
        Parameter(
            negative=(), help="First measure this machine, in about a minute, and keep the results."
        ),
    ] = False,
) -> None:
    """Recommend a task runner for a workload, and how many calls to put into one task run."""
    work: Mapped | Workflow
    if workflow is None:
        if time_scale is not None:
            raise AdviseError("--time-scale is for a workflow: give --workflow FILE.json as well")
        work = _mapped(task_ms, tasks, kernel or "native", payload or "0B")
    else:
        if (task_ms, tasks, payload) != (None, None, None):
            raise AdviseError(
                "--workflow brings its own tasks: leave out --task-ms, --tasks and --payload"
            )
        work = _workflow(workflow, 1.0 if time_scale is None else time_scale, kernel or "native")
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise AdviseError(f"--workers {workers}: give 1 to {_MOST_WORKERS}")
    if measure and results is not None:
        raise AdviseError("--measure makes results of its own: leave out --results")
    from flowgauge.cli.advice_lines import print_advice
    from flowgauge.predict.advice import advise_mapped, advise_workflow

    if measure:
        _measure()
    name, costs, predictors = _measured_costs(results)
    scaled = [p if workers is None else p.with_workers(workers) for p in predictors]
    advice = (
        advise_workflow(work, scaled) if isinstance(work, Workflow) else advise_mapped(work, scaled)
    )
    print_advice(name, costs, predictors, workers, advice)


def _measure() -> None:
    """Measure this machine, with a line for each task runner while it does."""
    from rich.console import Console

    from flowgauge.predict.this_machine import measure_here

    console = Console(stderr=True)
    said = functools.partial(console.print, highlight=False, markup=False)
    said("measuring the task runners that are installed here, about a minute")
    measure_here(said)


def _mapped(task_ms: float | None, tasks: int | None, kernel: Kernel, payload: str) -> Mapped:
    """Check and return the options that describe identical calls."""
    from flowgauge.predict.mapped import Mapped

    if task_ms is None or tasks is None:
        raise AdviseError("give --task-ms and --tasks, or --workflow FILE.json")
    if not (math.isfinite(task_ms) and task_ms >= 0):
        raise AdviseError(f"--task-ms {task_ms:g}: give zero or more milliseconds")
    if tasks < 1:
        raise AdviseError(f"--tasks {tasks}: give 1 or more")
    return Mapped(task_ms / 1000, tasks, kernel, _bytes(payload))


def _bytes(text: str) -> int:
    """Read a number of bytes such as `1MB`."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?b)", text.strip(), re.IGNORECASE)
    if not size:
        raise AdviseError(f"--payload {text}: not a size; give one such as 0B, 20kB, 1MB or 1GB")
    return round(float(size[1]) * _BYTES[size[2].lower()])


def _workflow(file: Path, time_scale: float, kernel: Kernel) -> Workflow:
    """Read a workflow and scale it."""
    from flowgauge.workflows.wfformat import load_workflow

    if not (math.isfinite(time_scale) and time_scale >= 0):
        raise AdviseError(f"--time-scale {time_scale:g}: give a number of zero or more")
    try:
        trace = load_workflow(file)
    except GraphError as error:
        raise AdviseError(str(error)) from None
    tasks = (
        replace(task, seconds=task.seconds * time_scale, kernel=kernel) for task in trace.tasks
    )
    return Workflow(trace.name, tuple(tasks))


def _measured_costs(source: str | None) -> tuple[str, Results, tuple[Predictor, ...]]:
    """Return where the costs are from, the results and a predictor for each task runner."""
    from flowgauge.predict.fitting import predictors
    from flowgauge.predict.this_machine import kept_results
    from flowgauge.results.rows import ResultsError
    from flowgauge.results.sources import find_results

    if source is not None:
        try:
            costs = find_results(source)
            return source, costs, predictors(costs)
        except ResultsError as error:
            raise AdviseError(f"--results {source}: {error}") from None
    why = "there are none here"
    if (kept := kept_results()) is not None:
        costs = find_results(str(kept))
        return f"this machine ({kept}, by flowgauge advise --measure)", costs, predictors(costs)
    for file in _default_files():
        try:
            costs = find_results(str(file))
            return str(file), costs, predictors(costs)
        except ResultsError as error:
            why = f"{file}: {error}"
    raise AdviseError(f"no results to predict from, give --results PATH ({why})")


def _default_files() -> Iterator[Path]:
    """Yield this folder's results files, then those that come with Flowgauge."""
    from flowgauge.results.sources import reference_file

    # A checkout has its own results, also when the command runs in another folder.
    for root in dict.fromkeys((Path(), catalogue_root().parent)):
        for source in _DEFAULT_SOURCES:
            if (root / source).is_file():
                yield root / source
    if (reference := reference_file()) is not None:
        yield reference
