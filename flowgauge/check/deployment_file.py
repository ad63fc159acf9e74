# SPDX-License-Identifier: Apache-2.0
"""Read `prefect.yaml`, and keep the lines of what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class DeploymentFileError(ValueError):
    """A `prefect.yaml` that can't be read.

    Args:
        line: The line where reading failed.
        what: What is wrong.
    """

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


@dataclass(frozen=True)
class Entry:
    """One deployment of a `prefect.yaml`.

    Attributes:
        file: The file.
        raw: What the file says about it.
        node: The same as YAML's nodes, which know their lines.
    """

    file: Path
    raw: dict[str, Any]
    node: yaml.Node

    @property
    def name(self) -> str:
        """Its name; empty if it has none."""
        return str(self.raw.get("name") or "")

    @property
    def subject(self) -> str:
        """What to call it in messages."""
        return f"deployment {self.name!r}" if self.name else "deployment without a name"

    def line(self, *steps: str | int) -> int:
        """Return the line of something in it.

        Args:
            *steps: Keys and numbers that lead to it, such as `"schedules", 0, "cron"`.

        Returns:
            The line of the last step that exists.
        """
        return _line(self.node, steps)


@dataclass(frozen=True)
class DeploymentFile:
    """A `prefect.yaml`: its deployments, and everything else in it."""

    entries: tuple[Entry, ...]
    rest: dict[str, Any]
    node: yaml.Node | None = None

    def line(self, *steps: str | int) -> int:
        """Return the line of something in it, 1 if the file is empty.

        Args:
            *steps: Keys and numbers that lead to it.

        Returns:
            The line of the last step that exists.
        """
        return _line(self.node, steps) if self.node else 1


def read(path: Path) -> DeploymentFile:
    """Read a file.

    Args:
        path: The file.

    Returns:
        What is in it. Deployments with neither a name nor an entrypoint, such as the one that
        `prefect init` writes, are left out.

    Raises:
        DeploymentFileError: If it is not YAML, or not a mapping whose `deployments` are mappings.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw, root = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise DeploymentFileError(1, str(error)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        raise DeploymentFileError(mark.line + 1 if mark else 1, what) from None
    if raw is None:
        return DeploymentFile((), {})
    if not isinstance(raw, dict):
        raise DeploymentFileError(1, f"it is a {type(raw).__name__}, not a mapping")
    listed = raw.get("deployments") or []
    node = _value(root, "deployments")
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        line = _line(root, ["deployments"])
        raise DeploymentFileError(line, "`deployments` is not a list of mappings")
    entries = tuple(
        Entry(path, entry, inner)
        for entry, inner in zip(listed, node.value if node is not None else (), strict=False)
        if entry.get("name") or entry.get("entrypoint")
    )
    rest = {key: value for key, value in raw.items() if key != "deployments"}
    return DeploymentFile(entries, rest, root)


def has_template(value: Any) -> bool:
    """Return whether a value has a template such as `{{ $NAME }}`, filled when it is deployed.

    Args:
        value: Text, or lists and mappings that may contain some.

    Returns:
        Whether there is one somewhere in it.
    """
    if isinstance(value, dict):
        return any(map(has_template, [*value, *value.values()]))
    if isinstance(value, list | tuple):
        return any(map(has_template, value))
    return isinstance(value, str) and "{{" in value


def _line(node: yaml.Node, steps: Any) -> int:
    line: int = node.start_mark.line + 1
    for step in steps:
        if isinstance(step, int) and isinstance(node, yaml.SequenceNode):
            if not 0 <= step < len(node.value):
                break
            node = node.value[step]
            line = node.start_mark.line + 1
            continue
        found = next((pair for pair in _pairs(node) if pair[0].value == step), None)
        if found is None:
            break
        key, node = found
        line = key.start_mark.line + 1
    return line


def _value(node: yaml.Node, key: str) -> yaml.Node | None:
    return next((value for name, value in _pairs(node) if name.value == key), None)


def _pairs(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Yield the keys and values of a mapping, and then those that it merges with `<<`."""
    if not isinstance(node, yaml.MappingNode):
        return
    yield from node.value
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for inner in merged:
                yield from _pairs(inner)
