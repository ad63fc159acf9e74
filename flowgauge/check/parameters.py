# SPDX-License-Identifier: Apache-2.0
"""Whether the parameters of a deployment fit its flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flowgauge.check.deployment_file import has_template
from flowgauge.check.entrypoint import did_you_mean
from flowgauge.check.failures import in_one_line
from flowgauge.check.loaded import LoadedFlow, LoadedSchedule

Steps = tuple[str | int, ...]


def parameter_faults(
    flow: LoadedFlow,
    parameters: dict[str, Any],
    schedules: Sequence[LoadedSchedule] = (),
    *,
    enforce: bool = True,
) -> Iterator[tuple[Steps, str, str]]:
    """Find what is wrong with the parameters of a deployment and of its schedules.

    Values with templates are not judged.

    Args:
        flow: The flow.
        parameters: The parameters of the deployment.
        schedules: Its schedules.
        enforce: Whether the server would compare values with the flow's schema.

    Yields:
        Where it is in the deployment, what is wrong, and what to do.
    """
    for name, what, mend in _faults(flow, parameters, enforce):
        yield ("parameters", name), what, mend
    needed = flow.schema.get("required", ())
    for number, schedule in enumerate(schedules):
        place = ("schedules", number)
        for name, what, mend in _faults(flow, schedule.parameters, enforce):
            yield (*place, "parameters", name), what, mend
        missing = [n for n in needed if n not in parameters and n not in schedule.parameters]
        if schedule.active and missing:
            names = ", ".join(map(repr, missing))
            what = f"runs that it schedules fail: the flow requires {names}"
            yield place, what, "give it a value under `parameters`, or the flow a default"


def _faults(
    flow: LoadedFlow, parameters: dict[str, Any], enforce: bool
) -> Iterator[tuple[str, str, str]]:
    """Yield the name of each parameter that is wrong, what is wrong, and what to do."""
    from prefect.utilities.schema_tools.validation import CircularSchemaRefError, validate

    known = flow.schema.get("properties", {})
    if not flow.schema:
        return  # told already
    for name in parameters:
        if name not in known and not flow.takes_more and not has_template(name):
            what = f"flow {flow.name!r} has no parameter {name!r}"
            yield name, what, did_you_mean(name, known) or _known(known)
    if not enforce:
        return
    for name, value in parameters.items():
        if name not in known or has_template(value):
            continue
        try:
            errors = validate({name: value}, flow.schema, ignore_required=True)
        except CircularSchemaRefError:
            continue  # the server can't check it either
        for error in errors[:1]:
            what = f"parameter {name!r} does not fit its type: {in_one_line(error.message)}"
            yield name, what, "give another value"


def _known(names: Sequence[str]) -> str:
    return f"it has {', '.join(map(repr, names))}" if names else "it has no parameters: remove it"
