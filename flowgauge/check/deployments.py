# SPDX-License-Identifier: Apache-2.0
"""What is wrong with deployments: those of `prefect.yaml`, and those that Python code makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flowgauge.check.deployment_file import Entry, has_template
from flowgauge.check.entrypoint import Entrypoint, EntrypointError, did_you_mean
from flowgauge.check.loaded import (
    Loaded,
    LoadedDeployment,
    LoadedFlow,
    LoadedSchedule,
    Target,
)
from flowgauge.check.parameters import parameter_faults
from flowgauge.check.prefect_rules import apply_rules
from flowgauge.check.problem import Problem, shown


@dataclass(frozen=True)
class Known:
    """A deployment: where it is, its name and its flow's, which are empty if they are not known."""

    path: str
    line: int
    name: str
    flow: str


def entry_problems(
    entry: Entry,
    entrypoint: Entrypoint | EntrypointError | None,
    loaded: Mapping[Target, Loaded],
    *,
    demands_pool: bool,
) -> tuple[list[Problem], Known]:
    """Check one deployment of a `prefect.yaml`.

    Args:
        entry: The deployment.
        entrypoint: What its entrypoint refers to, None if that can't be known.
        loaded: What was imported.
        demands_pool: Whether it has to name a work pool.

    Returns:
        What is wrong, and the deployment.
    """
    rules = apply_rules(entry.raw)
    faults = [*rules.faults]
    if not entry.raw.get("name"):
        what = "`prefect deploy` demands a name unless it can ask"
        faults.append(((), what, "add `name: ...`"))
    if demands_pool and not names_pool(entry):
        what = "it names no work pool, as others of its file do"
        faults.append((("work_pool",), what, "add `work_pool: {name: ...}`"))
    flow = None
    if isinstance(entrypoint, EntrypointError):
        faults.append((("entrypoint",), str(entrypoint), entrypoint.mend))
    elif entrypoint is not None:
        found = _flow(entrypoint, loaded[entrypoint.target])
        if isinstance(found, LoadedFlow):
            flow = found
        elif found is not None:
            faults.append((("entrypoint",), *found))
    if flow is not None and rules.config is not None:
        faults += parameter_faults(
            flow,
            rules.config.get("parameters") or {},
            _schedules(rules.config),
            enforce=rules.config.get("enforce_parameter_schema") is not False,
        )
    path, subject = shown(entry.file), entry.subject
    problems = [Problem(path, entry.line(*s), subject, what, mend) for s, what, mend in faults]
    name = "" if has_template(entry.name) else entry.name
    return problems, Known(path, entry.line(), name, flow.name if flow else "")


def python_problems(
    target: Target, made: LoadedDeployment, loaded: Mapping[Target, Loaded]
) -> tuple[list[Problem], Known]:
    """Check one deployment that Python code made.

    Args:
        target: What was imported.
        made: The deployment.
        loaded: What was imported.

    Returns:
        What is wrong, and the deployment.
    """
    path, subject = shown(target.name), f"deployment {made.name!r}"
    problems = []
    named: list[LoadedFlow] = []
    for places in ([loaded[target]], loaded.values()):
        flows = [flow for found in places for flow in found.flows if flow.name == made.flow_name]
        named = named or list({flow.definition: flow for flow in flows}.values())
    # If flows of other files share the name, that is told already.
    for flow in named if len(named) == 1 else ():
        faults = parameter_faults(flow, made.parameters, made.schedules, enforce=made.enforce)
        problems += [Problem(path, made.line, subject, what, mend) for _, what, mend in faults]
    return problems, Known(path, made.line, made.name, made.flow_name)


def shared_deployments(known: Iterable[Known]) -> Iterator[Problem]:
    """Find deployments of one flow that have the same name.

    Args:
        known: All deployments.

    Yields:
        A problem for each of them but the first.
    """
    first: dict[tuple[str, str], Known] = {}
    for deployment in known:
        if not (deployment.name and deployment.flow):
            continue
        before = first.setdefault((deployment.flow, deployment.name), deployment)
        if before is not deployment:
            what = f"flow {deployment.flow!r} has another deployment of this name, at"
            what = f"{what} {before.path}:{before.line}, and the last one deployed replaces it"
            subject = f"deployment {deployment.name!r}"
            yield Problem(deployment.path, deployment.line, subject, what, "rename one of them")


def names_pool(entry: Entry) -> bool:
    """Return whether a deployment names a work pool; `prefect deploy --pool` can do so, too.

    Args:
        entry: The deployment.

    Returns:
        Whether it does.
    """
    pool = entry.raw.get("work_pool")
    return bool(pool.get("name") if isinstance(pool, dict) else pool)


def _flow(entrypoint: Entrypoint, loaded: Loaded) -> LoadedFlow | tuple[str, str] | None:
    """Return an entrypoint's flow, or what is wrong; None if its file did not load, as is told."""
    objects = dict(loaded.objects)
    if entrypoint.flow not in objects:
        if entrypoint.target.is_file or not loaded.failures:
            return None
        failure = loaded.failures[0]
        place = f" (in {shown(failure.elsewhere)})" if failure.elsewhere else ""
        subject = f"{failure.subject} " if failure.subject else ""
        what = f"module {entrypoint.target.name!r}: {subject}{failure.what}{place}"
        return what, failure.mend
    found = objects[entrypoint.flow]
    if loaded.package_name:
        what = "runs can't import the file by its path, as it imports from above its own folder"
        return what, f"write `{loaded.package_name}:{entrypoint.flow}`"
    if isinstance(found, LoadedFlow):
        return found
    where = shown(entrypoint.target.name)
    flows = [flow.path for flow in loaded.flows]
    if found:
        what = f"{entrypoint.flow!r} in {where} is no flow but a {found}"
        return what, did_you_mean(entrypoint.flow, flows) or "decorate it with @flow"
    mend = did_you_mean(entrypoint.flow, flows)
    mend = mend or (f"it has {', '.join(map(repr, flows))}" if flows else "it has no flows")
    return f"there is no {entrypoint.flow!r} in {where}", mend


def _schedules(config: dict[str, Any]) -> list[LoadedSchedule]:
    return [
        LoadedSchedule(
            schedule.get("active") in (None, True) and not config.get("paused"),
            schedule.get("parameters") or {},
        )
        for schedule in config.get("schedules") or ()
    ]
