# SPDX-License-Identifier: Apache-2.0
"""Workflows of regular shapes: those of Task Bench (SC'20, arXiv 1908.05790), and nested ones.

A shape has steps of tasks side by side; which tasks of the step before one needs is the shape.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from flowgauge.workflows.workflow import GraphError, Task, Workflow

Dependence = Callable[[int, int, int], Iterable[int]]
"""Of a width, a step and a point in it: the points of the step before that it needs."""

SPREAD = 3
"""How many points of the step before a point of the shape `spread` needs."""


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
    """Make a workflow of a shape.

    Args:
        name: One of `SHAPES`. `chain` is as many chains as it is wide; in a `tree` each task
            feeds two until the width is reached; `fork-join` goes from one task to all and back.
        width: How many tasks are side by side at most.
        steps: How many follow each other.
        **work: `seconds`, `kernel` and `output_bytes` of every task.

    Returns:
        The workflow; its tasks are called `step.point`.

    Raises:
        GraphError: If there is no such shape, or a size is less than one.
    """
    if name not in _SHAPES:
        raise GraphError(f'no shape "{name}": there are {", ".join(SHAPES)}')
    _check_size(width=width, steps=steps)
    width_of, dependence = _SHAPES[name]
    tasks = (
        Task(f"{step}.{point}", _points(dependence, width, step, point), **work)
        for step in range(steps)
        for point in range(width_of(width, step))
    )
    return Workflow(f"{name} {width}x{steps}", tuple(tasks))


def handing(size: int, tasks: int) -> Workflow:
    """Build a chain of tasks, each of which hands so many bytes to the next.

    Args:
        size: Bytes.
        tasks: How many; the last hands over nothing.

    Returns:
        The workflow; its tasks do nothing else.
    """
    *first, last = shape("chain", 1, tasks, output_bytes=size).tasks
    return Workflow(f"{size} bytes", (*first, replace(last, output_bytes=0)))


def random_layered(
    width: int, steps: int, *, seed: int, density: float = 0.3, **work: Any
) -> Workflow:
    """Make a workflow in which each task needs some of the step before, drawn by chance.

    Args:
        width: How many tasks are side by side.
        steps: How many follow each other.
        seed: The same one gives the same workflow.
        density: The share of the step before that a task needs; it needs one at least.
        **work: `seconds`, `kernel` and `output_bytes` of every task.

    Returns:
        The workflow.

    Raises:
        GraphError: If a size is less than one, or the density is not from 0 to 1.
    """
    _check_size(width=width, steps=steps)
    if not 0 <= density <= 1:
        raise GraphError(f"density={density} is no share: give 0 to 1")
    chance = random.Random(seed)

    def drawn(width: int, step: int, point: int) -> Iterable[int]:
        chosen = [other for other in range(width) if chance.random() < density]
        return chosen or [chance.randrange(width)]

    tasks = (
        Task(f"{step}.{point}", _points(drawn, width, step, point), **work)
        for step in range(steps)
        for point in range(width)
    )
    return Workflow(f"random {width}x{steps} of seed {seed}", tuple(tasks))


def nested(depth: int, width: int, **work: Any) -> Workflow:
    """Make a workflow of subflows in subflows, each with as many tasks side by side.

    Args:
        depth: How many subflows lie in each other; none is the flow itself.
        width: How many tasks each has; they need the last task of the flow around it.
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
