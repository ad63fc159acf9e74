# SPDX-License-Identifier: Apache-2.0
"""Check a project: import its files, and compare its deployments with its flows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from flowgauge.check import deployment_file, entrypoint
from flowgauge.check.candidates import DEPLOYMENT_FILE, Project
from flowgauge.check.deployment_file import DeploymentFile, DeploymentFileError, Entry
from flowgauge.check.deployments import (
    Known,
    entry_problems,
    names_pool,
    python_problems,
    shared_deployments,
)
from flowgauge.check.entrypoint import Entrypoint, EntrypointError
from flowgauge.check.load import load
from flowgauge.check.loaded import Failure, Loaded, LoadedFlow, Target
from flowgauge.check.prefect_rules import top_level_faults
from flowgauge.check.problem import Problem, Report, shown


def check(project: Project, base: Path, seconds: float) -> Report:
    """Check a project, in a process without threads: each import is in a fork of it.

    Args:
        project: The files.
        base: The folder of the project, where Prefect would run.
        seconds: How long each import may take.

    Returns:
        What is wrong.
    """
    problems = {
        Problem(shown(file), line, "", f"can't be imported: {what}", "correct that line")
        for file, line, what in project.broken
    }
    files: dict[Path, DeploymentFile] = {}
    for path in project.deployment_files:
        try:
            files[path] = deployment_file.read(path)
        except DeploymentFileError as error:
            what = f"can't be read: {error}"
            problems.add(Problem(shown(path), error.line, "", what, "correct that line"))
    entries = [entry for file in files.values() for entry in file.entries]
    entrypoints = {id(entry): _entrypoint(entry, project) for entry in entries}

    loaded = _load_all(project, base, entrypoints.values(), seconds)
    flows = {f.definition: f for found in loaded.values() for f in found.flows}
    for target, found in loaded.items():
        if target.is_file:
            problems.update(_failed(target, failure) for failure in found.failures)
    problems.update(_flow_problems(flows.values()))
    problems.update(shared_names(flows.values()))

    for path, file in files.items():
        for steps, what, mend in top_level_faults(file.rest):
            problems.add(Problem(shown(path), file.line(*steps), "", what, mend))
    known: list[Known] = []
    for entry in entries:
        others = files[entry.file].entries
        found_problems, deployment = entry_problems(
            entry,
            entrypoints[id(entry)],
            loaded,
            demands_pool=any(names_pool(other) for other in others),
        )
        problems.update(found_problems)
        known.append(deployment)
    for target, found in loaded.items():
        for made in found.deployments:
            found_problems, deployment = python_problems(target, made, loaded)
            problems.update(found_problems)
            known.append(deployment)
    known = list(dict.fromkeys(known))
    problems.update(shared_deployments(known))
    return Report(tuple(sorted(problems)), len(flows), len(known))


def shared_names(flows: Iterable[LoadedFlow]) -> Iterator[Problem]:
    """Find flows that have the name of another one.

    Args:
        flows: All flows, each once.

    Yields:
        A problem for each flow of a name but the first.
    """
    by_name = defaultdict(list)
    for flow in sorted(flows, key=lambda flow: (flow.file, flow.line)):
        by_name[flow.name].append(flow)
    for name, (first, *others) in by_name.items():
        for flow in others:
            place = f"{shown(first.file)}:{first.line}"
            what = f"has the same name as the flow at {place}, and a server takes them for one"
            mend = "give one another name: @flow(name=...)"
            yield Problem(shown(flow.file), flow.line, f"flow {name!r}", what, mend)


def _flow_problems(flows: Iterable[LoadedFlow]) -> Iterator[Problem]:
    for flow in flows:
        for what, mend in flow.faults:
            yield Problem(shown(flow.file), flow.line, f"flow {flow.name!r}", what, mend)


def _failed(target: Target, failure: Failure) -> Problem:
    place = f" (in {shown(failure.elsewhere)})" if failure.elsewhere else ""
    what = failure.what + place
    return Problem(shown(target.name), failure.line, failure.subject, what, failure.mend)


def _entrypoint(entry: Entry, project: Project) -> Entrypoint | EntrypointError | None:
    """Return what an entry refers to; None if that is known only when it is deployed."""
    text = entry.raw.get("entrypoint")
    if not text:
        return EntrypointError("it has no entrypoint", "add `entrypoint: path/to/file.py:flow`")
    if not isinstance(text, str) or deployment_file.has_template(text):
        return None  # if it is not text, Prefect's model tells
    try:
        return entrypoint.read(text, entry.file.parent, project.flow_files)
    except EntrypointError as error:
        return error


def _load_all(
    project: Project,
    base: Path,
    entrypoints: Iterable[Entrypoint | EntrypointError | None],
    seconds: float,
) -> dict[Target, Loaded]:
    wanted: dict[Target, set[str]] = {
        Target(_folder(file, base), str(file)): set() for file in project.flow_files
    }
    for found in entrypoints:
        if isinstance(found, Entrypoint):
            wanted.setdefault(found.target, set()).add(found.flow)
    return {
        target: load(target, tuple(sorted(objects)), base, seconds)
        for target, objects in wanted.items()
    }


def _folder(file: Path, base: Path) -> Path:
    """Return where Prefect would run to import a file: by the nearest `prefect.yaml`."""
    above = [folder for folder in file.parents if folder.is_relative_to(base)]
    return next((folder for folder in above if (folder / DEPLOYMENT_FILE).exists()), base)
