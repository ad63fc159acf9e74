# SPDX-License-Identifier: Apache-2.0
"""Workflows that are like real ones: drawn from the recipes of WfCommons, without a network."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from flowgauge.workflows.wfformat import load_workflow
from flowgauge.workflows.workflow import GraphError, Workflow

RECIPES: Mapping[str, int] = {"Blast": 45, "Epigenomics": 43, "Montage": 60, "Seismology": 103}
"""Each recipe, and the number of tasks that the smallest run it was made from had."""


def recipe(name: str, tasks: int, seed: int) -> Workflow:
    """Draw a workflow.

    Args:
        name: One of `RECIPES`.
        tasks: How many tasks it has at most; it has a few less.
        seed: The same one draws the same workflow with the same release of WfCommons.

    Returns:
        The workflow, its runtimes and sizes those of real runs.

    Raises:
        GraphError: If there is no such recipe, it needs more tasks, or WfCommons is missing or
            fails; the message is one line.
    """
    if name not in RECIPES:
        raise GraphError(f'there is no recipe "{name}": there are {", ".join(RECIPES)}')
    if tasks < RECIPES[name]:
        raise GraphError(f"{name} has no workflow of {tasks} tasks: give {RECIPES[name]} or more")
    if importlib.util.find_spec("wfcommons") is None:
        raise GraphError(f"{name} needs WfCommons: pip install wfcommons")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "workflow.json"
        # Its own process: what is drawn also depends on the order of sets, and so on string
        # hashes; and drawing seeds generators that this process may be using.
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "flowgauge.workflows.recipes",
                name,
                str(tasks),
                str(seed),
                str(file),
            ],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            *_, last = done.stderr.strip().splitlines() or ["it says nothing"]
            raise GraphError(f"WfCommons can't draw {name} of {tasks} tasks: {last}")
        return Workflow(name.lower(), load_workflow(file).tasks)


def _draw(name: str, tasks: int, seed: int, file: Path) -> None:
    """Draw a workflow in a process that does nothing else, and write it as WfFormat."""
    drawn = random.Random(seed)
    # Names of tasks and files come from here, and their order decides what is drawn next.
    uuid.uuid4 = lambda: uuid.UUID(int=drawn.getrandbits(128), version=4)

    import numpy as np

    # It has no types, and is not always there to be checked.
    wfcommons = importlib.import_module("wfcommons")

    random.seed(seed)
    np.random.seed(seed)
    made = getattr(wfcommons, f"{name}Recipe").from_num_tasks(tasks)
    wfcommons.WorkflowGenerator(made).build_workflow().write_json(file)


if __name__ == "__main__":
    _, _name, _tasks, _seed, _file = sys.argv
    _draw(_name, int(_tasks), int(_seed), Path(_file))
