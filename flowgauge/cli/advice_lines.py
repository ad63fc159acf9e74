# SPDX-License-Identifier: Apache-2.0
"""What `flowgauge advise` prints: where costs are from, the forecasts, and what to use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowgauge.predict.prediction import BYTES_BEYOND, TASKS_BEYOND, Predictor
from flowgauge.report.model.formats import duration, seconds
from flowgauge.runners.table import RUNNERS

if TYPE_CHECKING:
    from rich.table import Table

    from flowgauge.predict.advice import Advice
    from flowgauge.results.interval import Interval
    from flowgauge.results.rows import Results

_UNDISTURBED_PACE = 0.8
"""Below this share of its usual pace, the measured machine is reported as busy."""
_NOT_MEASURED = "not measured"


def print_advice(
    name: str,
    costs: Results,
    predictors: Sequence[Predictor],
    workers: int | None,
    advice: Advice,
) -> None:
    """Print all that is said to one question.

    Args:
        name: Where the costs are from.
        costs: The results that they were fitted to.
        predictors: One for each task runner that was measured.
        workers: How many workers were asked for; None for as many as were measured.
        advice: The answer.
    """
    from rich.console import Console

    console = Console()

    def say(lines: Iterable[str]) -> None:
        for line in lines:
            # A terminal wraps in the middle of words; other programs want one line.
            console.print(line, highlight=False, soft_wrap=not console.is_terminal, markup=False)

    say(_provenance(name, costs, predictors, workers))
    if advice.advised is None:
        say([f"nothing to recommend: {'; '.join(_beyond(advice, predictors))}"])
        return
    say(_beyond(advice, predictors))
    console.print(_table(advice))
    say(_conclusions(advice))


def _provenance(
    name: str, costs: Results, predictors: Sequence[Predictor], workers: int | None
) -> Iterator[str]:
    """Yield what the costs hold for, and a line on each way in which that does not fit."""
    from flowgauge.results.fingerprint import fingerprint

    origin = costs.fingerprint
    here = fingerprint(Path(), 0, "")
    when = str(origin.get("when", "on an unknown date"))[:10]
    yield f"costs from {name}, measured {when} on {_machine(origin)}"
    yield f"task runners measured: {', '.join(each.runner for each in predictors)}"
    if _machine(origin) != _machine(here):
        yield f"this machine differs: {_machine(here)}; measure it with flowgauge advise --measure"
    measured = predictors[0].machine.workers
    if workers not in (None, measured):
        yield (
            f"measured with {measured} workers, predicted for {workers}: "
            "assuming that each has a core to itself and adds no other cost"
        )
    if predictors[0].machine.pace < _UNDISTURBED_PACE:
        yield (
            f"other programs kept that machine busy: work ran at {predictors[0].machine.pace:.0%}"
            " of its usual pace, and predictions assume the same"
        )


def _machine(origin: Any) -> str:
    """Return the processor and the version of Prefect of a fingerprint."""
    cores, prefect = origin.get("cores"), origin.get("versions", {}).get("prefect")
    return (
        f"{origin.get('cpu_model') or 'an unknown processor'} with {cores or '?'} cores"
        f" and Prefect {prefect or 'of unknown version'}"
    )


def _beyond(advice: Advice, predictors: Sequence[Predictor]) -> Iterator[str]:
    """Yield a line for each way in which the work is beyond what was measured."""
    known = {each.runner: each for each in predictors}
    reasons: dict[str, list[str]] = {}
    for forecast in advice.forecasts:
        if forecast.beyond:
            reason = _limit(forecast.beyond, known[forecast.runner])
            reasons.setdefault(reason, []).append(forecast.runner)
    everywhere = len(advice.forecasts)
    for reason, runners in reasons.items():
        where = "any task runner" if len(runners) == everywhere else ", ".join(runners)
        yield reason.format(where=where)


def _limit(beyond: str, predictor: Predictor) -> str:
    """Return what was not measured, with the place for the names of task runners."""
    line = f"{beyond} were not measured on {{where}}"
    match beyond:
        case "such payloads":
            most = predictor.most_bytes
            return f"{line}: {_size(most)} were, and predictions reach {_size(BYTES_BEYOND * most)}"
        case "so many tasks":
            most = predictor.most_tasks
            return f"{line}: {most} were, and predictions reach {TASKS_BEYOND * most}"
    return line


def _size(count: int) -> str:
    """Return a number of bytes for people."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:g} {unit}"
    return f"{count} B"


def _table(advice: Advice) -> Table:
    """Return the forecasts as a table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("runner", "makespan", "95 % interval", "batch", "in batches", "start-up"):
        table.add_column(heading, no_wrap=True)
    for forecast in advice.forecasts:
        batched = forecast.batched if forecast.batch > 1 else None
        table.add_row(
            forecast.runner,
            duration(forecast.makespan.median) if forecast.makespan else _NOT_MEASURED,
            _ends(forecast.makespan) if forecast.makespan else "–",
            str(forecast.batch) if batched else "–",
            duration(batched.median) if batched else "–",
            _NOT_MEASURED if forecast.start is None else seconds(forecast.start),
        )
    return table


def _ends(interval: Interval) -> str:
    return f"{duration(interval.low)} – {duration(interval.high)}"


def _conclusions(advice: Advice) -> Iterator[str]:
    """Yield what to use, and where something else becomes better."""
    best, quickest = advice.advised, advice.forecasts[0]
    assert best is not None
    batch = f", at least {best.batch} calls in one task run" if best.batch > 1 else ""
    yield f"recommended: {best.runner}{batch}: about {duration(best.total)}"
    if advice.tied:
        yield f"no difference seen from {', '.join(advice.tied)}: {best.runner} is the simplest"
    if quickest is not best:
        yield f"{quickest.runner} may save up to {duration(advice.gain)}"
    if pattern := RUNNERS[best.runner].pattern:
        yield f"{best.runner} is a pattern: flowgauge copy {pattern} my_project/"
    if advice.batch_below is not None:
        limit, half = seconds(advice.batch_below), seconds(advice.batch_below / 2)
        yield (
            f"on {best.runner}, batch calls shorter than {limit}: "
            f"at {half} each, at least {advice.batch_at_half} in one task run"
        )
    if len(advice.changes) > 1:
        (_, first), *later = advice.changes
        parts = [f"{first} below {seconds(later[0][0])}"]
        parts += [f"{name} from {seconds(start)} up" for start, name in later]
        yield f"without batches, by the work in a call: {', '.join(parts)}"
