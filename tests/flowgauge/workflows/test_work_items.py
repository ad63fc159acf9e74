# SPDX-License-Identifier: Apache-2.0
"""Each task of a workflow checks its inputs, and its answer shows what work it did."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.workflows.kernels import Speeds
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.work_items import (
    TaskResult,
    TaskSpec,
    WrongInputError,
    check_results,
    makespan,
    perform,
)
from flowgauge.workflows.workflow import Kernel, Task, Workflow

SPEEDS = Speeds(dict.fromkeys(get_args(Kernel), 1000.0))


def done(workflow: Workflow) -> dict[str, TaskResult]:
    """Return the outputs of a workflow whose tasks are done one after the other."""
    outputs: dict[str, TaskResult] = {}
    for task in workflow.tasks:
        inputs = [outputs[parent] for parent in task.needs]
        outputs[task.id] = perform(TaskSpec.of(task, SPEEDS), inputs)
    return outputs


STENCIL = shape("stencil", 3, 3, seconds=0.002, kernel="native", output_bytes=1000)


def test_a_correct_workflow_passes_the_checks() -> None:
    """Tasks that receive what their parents returned produce the expected results."""
    check_results(STENCIL, SPEEDS, done(STENCIL))


@given(st.permutations(["0.0", "0.1", "0.2"]).map(lambda ids: ids[:2]))
def test_other_inputs_are_refused(given_ids: list[str]) -> None:
    """A task accepts only the results of its parents, in the order of its parents."""
    outputs = done(STENCIL)
    spec = TaskSpec.of(STENCIL["1.0"], SPEEDS)
    assert spec.needs == ("0.0", "0.1")
    inputs = [outputs[id] for id in given_ids]
    if tuple(given_ids) == spec.needs:
        assert perform(spec, inputs).id == "1.0"
    else:
        with pytest.raises(WrongInputError, match=r'task "1\.0" needs .* but received'):
            perform(spec, inputs)


def test_a_damaged_input_is_refused() -> None:
    """A task refuses an input whose payload is not what its parent returned."""
    outputs = done(STENCIL)
    damaged = replace(outputs["0.1"], payload=b"x" + outputs["0.1"].payload[1:])
    with pytest.raises(WrongInputError, match=r'damaged result of "0\.1"'):
        perform(TaskSpec.of(STENCIL["1.0"], SPEEDS), [outputs["0.0"], damaged])


WRONG = {
    "answer": lambda output: replace(output, answer=output.answer + 1),
    "id": lambda output: replace(output, id="2.2"),
    "size": lambda output: replace(output, payload=output.payload[:-1]),
    "order": lambda output: replace(output, started=0.0),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_output_is_found(what: str) -> None:
    """A wrong answer, id or size is reported, and so is a start before the parents' end."""
    outputs = done(STENCIL)
    outputs["1.1"] = WRONG[what](outputs["1.1"])
    with pytest.raises(WrongInputError, match=r"1\.1"):
        check_results(STENCIL, SPEEDS, outputs)


def test_missing_outputs_are_found() -> None:
    """A task that was not done, and one that is not in the workflow, are reported by id."""
    outputs = done(STENCIL)
    outputs["extra"] = outputs.pop("2.0")
    with pytest.raises(WrongInputError, match=r"'2\.0', 'extra'"):
        check_results(STENCIL, SPEEDS, outputs)


def test_tasks_that_only_wait_are_checked_too() -> None:
    """A task that only waits for another, without its result, may not start until that has ended.

    With `order=False` this is not checked.
    """
    workflow = Workflow("two", (Task("first"), Task("second", after=("first",))))
    outputs = done(workflow)
    check_results(workflow, SPEEDS, outputs)
    late = replace(outputs["first"], ended=outputs["second"].started + 1)
    with pytest.raises(WrongInputError, match='"second" started before "first" had ended'):
        check_results(workflow, SPEEDS, outputs | {"first": late})
    check_results(workflow, SPEEDS, outputs | {"first": late}, order=False)


def test_the_makespan_is_from_the_first_start_to_the_last_end() -> None:
    """The makespan spans all tasks, whatever their order."""
    one = TaskResult("one", 0, b"", 10.0, 12.0, "w")
    assert makespan([one, replace(one, started=9.5, ended=11.0)]) == 2.5


@given(st.integers(0, 5000))
def test_a_payload_has_the_size_asked_for(size: int) -> None:
    """A task returns exactly the number of bytes that it was asked for."""
    spec = TaskSpec("a", (), "native", 0, size)
    assert len(perform(spec, []).payload) == size
