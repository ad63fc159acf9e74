# SPDX-License-Identifier: Apache-2.0
"""Reads and writes WfFormat 1.5, the JSON format of WfCommons for traces of real workflow runs.

A WfFormat file lists the tasks, how long each ran and the files passed between them; its schema is
at https://github.com/wfcommons/wfformat.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowgauge.files import write_whole
from flowgauge.json_file import JsonFileError, read_json
from flowgauge.workflows.workflow import GraphError, Task, Workflow

SCHEMA_VERSION = "1.5"


def load_workflow(path: Path) -> Workflow:
    """Read a workflow.

    Args:
        path: A WfFormat file.

    Returns:
        The workflow. A task needs the parents whose files it reads and waits for the others; its
        output is as large as all the files it writes. A task without a runtime takes no time.

    Raises:
        GraphError: If it is not such a file; the message is one line with file, task and field.
    """
    try:
        document = read_json(path)
    except JsonFileError as error:
        raise GraphError(str(error)) from None
    try:
        return parse_workflow(document)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None


def parse_workflow(document: Any) -> Workflow:
    """Read a workflow from the content of a WfFormat file.

    Args:
        document: The JSON value.

    Returns:
        The workflow, as `load_workflow` returns it.

    Raises:
        GraphError: If something is missing or wrong; the message is one line.
    """
    specification = _field(document, "workflow", "specification", kind=dict)
    sizes = {
        _field(file, "id", kind=str): _field(file, "sizeInBytes", kind=int)
        for file in specification.get("files") or []
    }
    seconds = {
        _field(run, "id", kind=str): _field(run, "runtimeInSeconds", kind=(int, float))
        for run in _field(document, "workflow", kind=dict).get("execution", {}).get("tasks", [])
    }
    listed = {
        _field(task, "id", kind=str): task
        for task in _field(document, "workflow", "specification", "tasks", kind=list)
    }
    tasks = tuple(_task(id, listed, sizes, seconds.get(id, 0.0)) for id in listed)
    workflow = Workflow(str(document.get("name") or "workflow"), tasks)
    if unlisted := seconds.keys() - listed.keys():
        raise GraphError(f'task "{min(unlisted)}" is in execution but not in specification')
    return workflow


def dump_workflow(workflow: Workflow, path: Path) -> None:
    """Write a workflow as WfFormat; each task with a result writes one file.

    Args:
        workflow: The workflow. Kernels and subflows are left out: WfFormat has no fields for them.
        path: The file.

    Raises:
        OSError: If it can't be written.
    """
    children: dict[str, list[str]] = {task.id: [] for task in workflow.tasks}
    readers = {parent for task in workflow.tasks for parent in task.needs}
    for task in workflow.tasks:
        for parent in task.parents:
            children[parent].append(task.id)
    writers = [task for task in workflow.tasks if task.output_bytes or task.id in readers]
    written = {task.id for task in writers}
    specification = {
        "tasks": [
            {
                "name": task.id,
                "id": task.id,
                "parents": list(task.parents),
                "children": children[task.id],
                "inputFiles": [f"{parent}.out" for parent in task.needs],
                "outputFiles": [f"{task.id}.out"] if task.id in written else [],
            }
            for task in workflow.tasks
        ],
        "files": [{"id": f"{task.id}.out", "sizeInBytes": task.output_bytes} for task in writers],
    }
    runs = [{"id": task.id, "runtimeInSeconds": task.seconds} for task in workflow.tasks]
    document = {
        "name": workflow.name,
        "schemaVersion": SCHEMA_VERSION,
        "workflow": {"specification": specification, "execution": {"tasks": runs}},
    }
    write_whole(path, json.dumps(document, indent=1))


def _task(id: str, listed: Mapping[str, Any], sizes: Mapping[str, int], seconds: float) -> Task:
    task = listed[id]
    if not math.isfinite(seconds) or seconds < 0:
        raise GraphError(f'task "{id}": runtimeInSeconds is {seconds}: give zero or more')
    outputs = task.get("outputFiles") or []
    for file in outputs:
        if file not in sizes:
            raise GraphError(f'task "{id}": "{file}" is in outputFiles but not in files')
    reads = set(task.get("inputFiles") or [])
    parents = dict.fromkeys(task.get("parents") or [])
    for parent in parents:
        if parent not in listed:
            raise GraphError(f'task "{id}": parent "{parent}" is not a task')
    needs = {parent for parent in parents if reads & set(listed[parent].get("outputFiles") or [])}
    return Task(
        id,
        needs=tuple(parent for parent in parents if parent in needs),
        after=tuple(parent for parent in parents if parent not in needs),
        seconds=float(seconds),
        output_bytes=sum(sizes[file] for file in outputs),
    )


def _field(value: Any, *names: str, kind: type | tuple[type, ...]) -> Any:
    """Return the value at a path of field names.

    Args:
        value: The JSON value to start from.
        *names: The names of the fields, outermost first.
        kind: The type of the field, or several.

    Returns:
        The value of the last field.

    Raises:
        GraphError: If a field is missing or the last one has a wrong type; the message names it.
    """
    for index, name in enumerate(names):
        where = ".".join(names[: index + 1])
        if not isinstance(value, Mapping) or name not in value:
            of = f' of task "{value["id"]}"' if isinstance(value, Mapping) and "id" in value else ""
            raise GraphError(f'field "{where}"{of} is missing')
        value = value[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise GraphError(f'field "{".".join(names)}" has a wrong type: {json.dumps(value):.40}')
    return value
