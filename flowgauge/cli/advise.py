# SPDX-License-Identifier: Apache-2.0
"""`flowgauge advise`: which task runner suits a piece of work, by the costs that were measured."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flowgauge.catalogue.catalogue import catalogue_root
from flowgauge.mistake import Mistake
from flowgauge.runners.table import RUNNERS
from flowgauge.workflows.workflow import GraphError, Kernel, Workflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowgauge.predict.advice import Advice, Mapped
    from flowgauge.predict.prediction import Predictor
    from flowgauge.results.rows import Results

_DEFAULT_SOURCES = ("reports/latest/results.json", "reports/reference/results.json")
"""Where the results of a project are; without any, the reference run is asked."""
_MOST_WORKERS = 256
"""More than these tell nothing that was measured, and take long to simulate."""
_SLOW = 0.8
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


class AdviseError(Mistake):
    """What a person can mend; the message is one line."""


def advise(
    *,
    task_ms: Annotated[
        float | None, Parameter(help="Milliseconds of work in one call, alone on a worker.")
    ] = None,
    tasks: Annotated[int | None, Parameter(help="How many calls there are.")] = None,
    kernel: Annotated[
        Kernel | None,
        Parameter(
            help="What kind of work: python holds the interpreter's lock, native, the default, "
            "does not, wait waits."
        ),
    ] = None,
    payload: Annotated[str | None, Parameter(help="What each call returns: 0B, 20kB, 1MB.")] = None,
    workflow: Annotated[
        Path | None, Parameter(help="A workflow in WfFormat, instead of calls that are alike.")
    ] = None,
    time_scale: Annotated[
        float | None, Parameter(help="What the runtimes of the workflow are multiplied with.")
    ] = None,
    workers: Annotated[
        int | None, Parameter(help="How many tasks may run at once; as measured by default.")
    ] = None,
    results: Annotated[
        str | None, Parameter(help="A results.json, a folder with one, or a git commit.")
    ] = None,
) -> None:
    """Say which task runner suits a piece of work, and how much a task run should hold."""
    wanted: Mapped | Workflow
    if workflow is None:
        if time_scale is not None:
            raise AdviseError("--time-scale is for a workflow: give --workflow FILE.json as well")
        wanted = _mapped(task_ms, tasks, kernel or "native", payload or "0B")
    else:
        if (task_ms, tasks, payload) != (None, None, None):
            raise AdviseError(
                "--workflow has tasks of its own: leave out --task-ms, --tasks and --payload"
            )
        wanted = _workflow(workflow, 1.0 if time_scale is None else time_scale, kernel or "native")
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise AdviseError(f"--workers {workers}: give 1 to {_MOST_WORKERS}")
    from rich.console import Console

    from flowgauge.predict.advice import advise_mapped, advise_workflow

    name, found, predictors = _measured(results)
    wide = [each if workers is None else each.with_workers(workers) for each in predictors]
    advice = (
        advise_workflow(wanted, wide)
        if isinstance(wanted, Workflow)
        else advise_mapped(wanted, wide)
    )
    console = Console()
    for line in _origin(name, found, predictors, wanted, workers):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(_table(advice))
    for line in _conclusions(advice):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _mapped(task_ms: float | None, tasks: int | None, kernel: Kernel, payload: str) -> Mapped:
    """Read what is said of calls that are alike."""
    from flowgauge.predict.advice import Mapped

    if task_ms is None or tasks is None:
        raise AdviseError("give --task-ms and --tasks, or --workflow FILE.json")
    if not (math.isfinite(task_ms) and task_ms >= 0):
        raise AdviseError(f"--task-ms {task_ms:g}: give zero or more milliseconds")
    if tasks < 1:
        raise AdviseError(f"--tasks {tasks}: give 1 or more")
    return Mapped(task_ms / 1000, tasks, kernel, _bytes(payload))


def _bytes(text: str) -> int:
    """Read a number of bytes such as `1MB`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?b)", text.strip(), re.IGNORECASE)
    if not found:
        raise AdviseError(f"--payload {text}: not a size; give one such as 0B, 20kB, 1MB or 1GB")
    return round(float(found[1]) * _UNITS[found[2].lower()])


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


def _measured(given: str | None) -> tuple[str, Results, tuple[Predictor, ...]]:
    """Return the results to go by, and what they are called."""
    from flowgauge.predict.prediction import predictors
    from flowgauge.results.rows import ResultsError
    from flowgauge.results.sources import find_results

    if given is not None:
        try:
            found = find_results(given)
            return given, found, predictors(found)
        except ResultsError as error:
            raise AdviseError(f"--results {given}: {error}") from None
    why = "there are none here"
    for file in _default_files():
        try:
            found = find_results(str(file))
            return str(file), found, predictors(found)
        except ResultsError as error:
            why = f"{file}: {error}"
    raise AdviseError(f"no results to go by, give --results PATH ({why})")


def _default_files() -> Iterator[Path]:
    """Find the results of this folder, or else those that Flowgauge comes with."""
    from flowgauge.results.sources import reference_file

    # A checkout that this is run from has results of its own.
    for root in dict.fromkeys((Path(), catalogue_root().parent)):
        for source in _DEFAULT_SOURCES:
            if (root / source).is_file():
                yield root / source
    if (reference := reference_file()) is not None:
        yield reference


def _origin(
    name: str,
    found: Results,
    predictors: tuple[Predictor, ...],
    wanted: Mapped | Workflow,
    workers: int | None,
) -> Iterator[str]:
    """Say where the costs are from, and what about them does not fit."""
    from flowgauge.results.fingerprint import fingerprint

    marks = found.fingerprint
    there = [marks.get(key) for key in ("cpu_model", "cores")]
    yield (
        f"costs from {name}, measured {str(marks.get('when', 'at some time'))[:10]} on "
        f"{there[0] or 'an unknown processor'}, {there[1] or '?'} cores"
    )
    here = fingerprint(Path(), 0, "")
    if there != [here["cpu_model"], here["cores"]]:
        yield f"this machine is another: {here['cpu_model']}, {here['cores']} cores"
    measured = predictors[0].machine.workers
    if workers not in (None, measured):
        yield (
            f"measured with {measured} workers, told for {workers}: "
            "each is taken to bring a core of its own and to cost no more"
        )
    free = ", ".join(each.runner for each in predictors if not each.knows_bytes)
    if free and _returns_bytes(wanted):
        yield f"payloads were not measured on {free}: there they are taken to cost nothing"
    apart = ", ".join(each.runner for each in predictors if not each.knows_edges)
    if apart and _has_edges(wanted):
        yield f"tasks that need others were not measured on {apart}: waiting for them is left out"
    if predictors[0].machine.pace < _SLOW:
        yield (
            f"other programs kept that machine busy: work went at {predictors[0].machine.pace:.0%}"
            " of its pace, and so it is predicted"
        )


def _returns_bytes(wanted: Mapped | Workflow) -> bool:
    if isinstance(wanted, Workflow):
        return any(task.output_bytes for task in wanted.tasks)
    return wanted.payload > 0


def _has_edges(wanted: Mapped | Workflow) -> bool:
    return isinstance(wanted, Workflow) and any(task.parents for task in wanted.tasks)


def _table(advice: Advice) -> Any:
    """Return the forecasts as a table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from flowgauge.report.model.formats import duration, seconds

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("runner", "makespan", "95 % interval", "batch", "in batches", "start-up"):
        table.add_column(heading, no_wrap=True)
    for each in advice.forecasts:
        table.add_row(
            each.runner,
            duration(each.makespan.median),
            f"{duration(each.makespan.low)} – {duration(each.makespan.high)}",
            str(each.batch) if each.batch > 1 else "–",
            duration(each.batched.median) if each.batch > 1 else "–",
            "not measured" if each.start is None else seconds(each.start),
        )
    return table


def _conclusions(advice: Advice) -> Iterator[str]:
    """Say what to use, and from where on something else."""
    from flowgauge.report.model.formats import duration, seconds

    best = advice.forecasts[0]
    batch = f", at least {best.batch} calls in one task run" if best.batch > 1 else ""
    level = f" (no difference seen from {', '.join(advice.level)})" if advice.level else ""
    yield f"recommended: {best.runner}{batch}: about {duration(best.total)}{level}"
    if pattern := RUNNERS[best.runner].pattern:
        yield f"{best.runner} is a pattern: flowgauge copy {pattern} my_project/"
    if advice.batch_below is not None:
        below, there = seconds(advice.batch_below), seconds(advice.batch_below / 2)
        yield (
            f"on {best.runner}, batch calls of less than {below}: "
            f"of {there} each, at least {advice.batch_there} in one task run"
        )
    if len(advice.changes) > 1:
        (_, first), *later = advice.changes
        parts = [f"{first} below {seconds(later[0][0])}"]
        parts += [f"{name} from {seconds(start)} on" for start, name in later]
        yield f"quickest without batches, by the work in a call: {', '.join(parts)}"
