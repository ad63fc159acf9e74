# SPDX-License-Identifier: Apache-2.0
"""Workflows of regular shapes: those of Task Bench (SC'20, arXiv 1908.05790), and nested ones.

A workflow has steps of tasks side by side; its shape says which tasks of the previous step each
task needs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from flowgauge.workflows.workflow import GraphError, Task, Workflow

Dependence = Callable[[int, int, int], Iterable[int]]
"""Takes a width, a step and a point in it; returns the points of the previous step it needs."""

SPREAD = 3
"""How many points of the previous step a point of the shape `spread` needs."""


def _none(width: int, step: int, point: int) -> Iterable[int]:
    return ()


def _same(width: int, step: int, point: int) -> Iterable[int]:
    return (point,)


def _neighbours(width: int, step: int, point: int) -> Iterable[int]:
    return range(max(0, point - 1), min(width, point + 2))


def _half(width: int, step: int, point: int) -> Iterable[int]:
    return (point // 2 if _tree_width(width, step - 1) < _tree_width(width, step) else point,)


def _butterfly(width: int, step: int, point: int) -> Iterable[int]:
    stages = max(1, (width - 1).bit_length())
    partner = point ^ (1 << ((step - 1) % stages))
    return sorted({point, partner}) if partner < width else (point,)


def _spread(width: int, step: int, point: int) -> Iterable[int]:
    return sorted({(point + index * width // SPREAD) % width for index in range(SPREAD)})


def _all(width: int, step: int, point: int) -> Iterable[int]:
    return range(_fork_join_width(width, step - 1))


def _whole_width(width: int, step: int) -> int:
    return width


def _tree_width(width: int, step: int) -> int:
    return min(width, 2**step) if step < width.bit_length() else width


def _fork_join_width(width: int, step: int) -> int:
    return width if step % 2 else 1


_SHAPES: dict[str, tuple[Callable[[int, int], int], Dependence]] = {
    "trivial": (_whole_width, _none),
    "chain": (_whole_width, _same),
    "stencil": (_whole_width, _neighbours),
    "tree": (_tree_width, _half),
    "butterfly": (_whole_width, _butterfly),
    "spread": (_whole_width, _spread),
    "fork-join": (_fork_join_width, _all),
}
SHAPES = tuple(_SHAPES)


def shape(name: str, width: int, steps: int, **work: Any) -> Workflow:
    """Build a workflow of a shape.

    Args:
        name: One of `SHAPES`. In a `chain` each point has its own chain; in a `tree` each task
            feeds two until the width is reached; `fork-join` alternates between one task and all.
        width: The largest number of tasks side by side.
        steps: How many steps follow each other.
        **work: `seconds`, `kernel` and `output_bytes` of every task.

    Returns:
        The workflow; the ids of its tasks are `step.point`.

    Raises:
        GraphError: If there is no such shape, or a size is less than one.
    """
    if name not in _SHAPES:
        raise GraphError(f'there is no shape "{name}": choose one of {", ".join(SHAPES)}')
    _check_size(width=width, steps=steps)
    width_of, dependence = _SHAPES[name]
    tasks = (
        Task(f"{step}.{point}", _points(dependence, width, step, point), **work)
        for step in range(steps)
        for point in range(width_of(width, step))
    )
    return Workflow(f"{name} {width}x{steps}", tuple(tasks))


def payload_chain(size: int, tasks: int) -> Workflow:
    """Build a chain of tasks, each of which passes a payload to the next.

    Args:
        size: The bytes of each payload.
        tasks: The number of tasks; the last one returns no payload.

    Returns:
        The workflow; its tasks do no other work.
    """
    *first, last = shape("chain", 1, tasks, output_bytes=size).tasks
    return Workflow(f"{size} bytes", (*first, replace(last, output_bytes=0)))


def random_layered(
    width: int, steps: int, *, seed: int, density: float = 0.3, **work: Any
) -> Workflow:
    """Build a workflow in which each task needs randomly chosen tasks of the previous step.

    Args:
        width: How many tasks are side by side.
        steps: How many steps follow each other.
        seed: The same seed gives the same workflow.
        density: The share of the previous step that a task needs on average, but at least one.
        **work: `seconds`, `kernel` and `output_bytes` of every task.

    Returns:
        The workflow.

    Raises:
        GraphError: If a size is less than one, or the density is not from 0 to 1.
    """
    _check_size(width=width, steps=steps)
    if not 0 <= density <= 1:
        raise GraphError(f"density={density} is not a share: give 0 to 1")
    generator = random.Random(seed)

    def random_points(width: int, step: int, point: int) -> Iterable[int]:
        chosen = [other for other in range(width) if generator.random() < density]
        return chosen or [generator.randrange(width)]

    tasks = (
        Task(f"{step}.{point}", _points(random_points, width, step, point), **work)
        for step in range(steps)
        for point in range(width)
    )
    return Workflow(f"random {width}x{steps} of seed {seed}", tuple(tasks))


def nested(depth: int, width: int, **work: Any) -> Workflow:
    """Build a workflow of nested subflows, each with the same number of tasks side by side.

    Args:
        depth: How many levels of subflows there are; zero is only the flow itself.
        width: How many tasks each has; they need the last task of the enclosing flow.
        **work: `seconds`, `kernel` and `output_bytes` of every task.

    Returns:
        The workflow.

    Raises:
        GraphError: If the depth is negative or the width is less than one.
    """
    _check_size(width=width, depth=depth + 1)
    tasks = []
    for level in range(depth + 1):
        needs = (f"{level - 1}.{width - 1}",) if level else ()
        subflow = tuple(f"subflow-{number}" for number in range(1, level + 1))
        tasks += [Task(f"{level}.{i}", needs, subflow=subflow, **work) for i in range(width)]
    return Workflow(f"nested {depth} deep, {width} wide", tuple(tasks))


def _points(dependence: Dependence, width: int, step: int, point: int) -> tuple[str, ...]:
    if not step:
        return ()
    return tuple(f"{step - 1}.{needed}" for needed in dependence(width, step, point))


def _check_size(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise GraphError(f"{name}={size} is too small: give 1 or more")
