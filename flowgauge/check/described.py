# SPDX-License-Identifier: Apache-2.0
"""Describe the flows and deployments of an imported module as plain data."""

from __future__ import annotations

import ast
import inspect
import json
import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flowgauge.check.failures import in_one_line, is_inside
from flowgauge.check.loaded import Loaded, LoadedDeployment, LoadedFlow, LoadedSchedule

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment


def describe(module: ModuleType, objects: tuple[str, ...], base: Path) -> Loaded:
    """Describe a module.

    Args:
        module: The imported module.
        objects: The objects in it that entrypoints name.
        base: The folder of the project; flows defined outside it are left out.

    Returns:
        What is in it.
    """
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

    flows: dict[tuple[str, str, int], LoadedFlow] = {}
    deployments: dict[int, LoadedDeployment] = {}
    lines = _lines(module)
    for path, value in _values(module):
        if issubclass(type(value), Flow):
            flow = describe_flow(value, path, module.__file__ or "")
            if is_inside(flow.file, base):
                flows.setdefault(flow.definition, flow)
        elif issubclass(type(value), RunnerDeployment):
            line = lines.get(path.partition("[")[0], 1)
            deployments.setdefault(id(value), describe_deployment(value, line))
    found = tuple((path, _find(module, path)) for path in objects)
    return Loaded((), tuple(flows.values()), tuple(deployments.values()), found)


def describe_flow(flow: Flow[Any, Any], path: str, file: str) -> LoadedFlow:
    """Describe a flow, and what is wrong with its parameters.

    Args:
        flow: The flow.
        path: Where it is in its module.
        file: The file of the module.

    Returns:
        The description.
    """
    code = getattr(inspect.unwrap(flow.fn), "__code__", None)
    schema, faults = _schema(flow)
    return LoadedFlow(
        str(flow.name),
        os.path.realpath(code.co_filename if code else file),
        code.co_firstlineno if code else 1,
        path,
        schema,
        takes_more=_takes_more(flow),
        faults=(*faults, *default_faults(flow)),
    )


def describe_deployment(deployment: RunnerDeployment, line: int) -> LoadedDeployment:
    """Describe a deployment that Python code made.

    Args:
        deployment: The deployment.
        line: The line of its variable.

    Returns:
        The description.
    """
    sent = json.loads(deployment.model_dump_json(include={"parameters", "schedules"}))
    return LoadedDeployment(
        line,
        deployment.name,
        deployment.flow_name or "",
        sent["parameters"],
        tuple(
            LoadedSchedule(
                schedule.get("active") is not False and not deployment.paused,
                schedule.get("parameters") or {},
            )
            for schedule in sent["schedules"] or ()
        ),
        deployment.enforce_parameter_schema,
    )


def default_faults(flow: Flow[Any, Any]) -> list[tuple[str, str]]:
    """Return which defaults of a flow are not valid for their types, as its call would find.

    Args:
        flow: The flow; nothing is wrong with one that does not validate its parameters.

    Returns:
        For each such default what is wrong, and what to do.
    """
    from pydantic import ConfigDict, ValidationError, create_model
    from pydantic.fields import FieldInfo

    if not flow.should_validate_parameters:
        return []
    try:
        parameters = inspect.signature(flow.fn, eval_str=True).parameters.values()
    except (NameError, TypeError, SyntaxError, AttributeError):
        return []  # types that are known to type checkers only
    faults = []
    for parameter in parameters:
        default, annotation = parameter.default, parameter.annotation
        if inspect.Parameter.empty in (default, annotation) or isinstance(default, FieldInfo):
            continue
        try:
            config = ConfigDict(arbitrary_types_allowed=True)
            model: Any = create_model("Default", __config__=config, value=(annotation, ...))
        except Exception:
            continue  # pydantic knows nothing of this type
        try:
            model(value=default)
        except ValidationError as error:
            kind = inspect.formatannotation(annotation)
            said = error.errors()[0]["msg"]
            wider = f"annotate it `{kind} | None`" if default is None else "change one of the two"
            what = f"the default {reprlib.repr(default)} of {parameter.name!r} is no {kind}"
            faults.append((f"{what} ({in_one_line(said)})", wider))
        except Exception:
            continue  # so does code of the user, which may need more than it has here
    return faults


def _schema(flow: Flow[Any, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the schema of a flow's parameters as a server gets it, and what is wrong with it."""
    import jsonschema
    from prefect.utilities.callables import parameter_schema

    try:
        schema = json.loads(json.dumps(parameter_schema(flow.fn).model_dump_for_openapi()))
        jsonschema.Draft202012Validator.check_schema(schema)
    except Exception as error:
        what = f"its parameters have no schema: {in_one_line(error)}"
        return {}, [(what, "give them types and defaults that JSON can express")]
    return schema, []


def _takes_more(flow: Flow[Any, Any]) -> bool:
    parameters = inspect.signature(flow.fn).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _values(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield what is in a module, in its own classes, and in lists and the like."""
    for name, value in list(vars(module).items()):
        kind = type(value)
        if issubclass(kind, type) and value.__module__ == module.__name__:
            for inner, member in list(vars(value).items()):
                is_static = isinstance(member, staticmethod | classmethod)
                yield f"{name}.{inner}", member.__func__ if is_static else member
        elif issubclass(kind, list | tuple | set | frozenset):
            yield from ((f"{name}[{n}]", member) for n, member in enumerate(value))
        elif issubclass(kind, dict) and not name.startswith("__"):
            yield from ((f"{name}[{n}]", member) for n, member in enumerate(value.values()))
        else:
            yield name, value


def _find(module: ModuleType, path: str) -> LoadedFlow | str:
    """Return the flow at a path, or the kind of thing that is there; empty if there is none."""
    from prefect import Flow

    found: Any = module
    for step in path.split("."):
        try:
            found = getattr(found, step)
        except AttributeError:
            return ""
    if issubclass(type(found), Flow):
        return describe_flow(found, path, module.__file__ or "")
    return type(found).__name__


def _lines(module: ModuleType) -> dict[str, int]:
    """Return the lines where variables of a module get their values."""
    try:
        tree = ast.parse(Path(module.__file__ or "").read_bytes())
    except (OSError, SyntaxError):
        return {}
    return {
        name.id: node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
