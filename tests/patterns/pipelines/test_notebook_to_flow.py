# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/pipelines/notebook_to_flow/`."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import altair
import httpx
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import ParameterTypeError
from prefect.runtime import flow_run
from prefect.settings import PREFECT_TASKS_DEFAULT_RETRIES, temporary_settings
from threadpoolctl import threadpool_limits

from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.waiting import patience
from patterns.pipelines.notebook_to_flow import notebook_to_flow as pattern
from patterns.pipelines.notebook_to_flow.notebook_to_flow import (
    flights_file,
    load_flights,
    predict_air_time,
    train,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "pipelines/notebook_to_flow"
NOTEBOOK = Path(pattern.__file__).with_suffix(".ipynb")
METRICS = ("mae", "rmse", "baseline")
LAST_CELL = """
import json
metrics = {"mae": mae, "rmse": rmse, "baseline": baseline}
print(json.dumps([metrics, [model[-1].intercept_, *model[-1].coef_]]))
"""
"""The cell that a test adds to the notebook to read its results."""


def code(train_month: int = 1, validate_month: int = 2) -> str:
    """Return the notebook's code; other months are edited into it, as one would by hand."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert text.count("month == 1]") == text.count("month == 2]") == 1
    edited = text.replace("month == 2]", f"month == {validate_month}]")
    return edited.replace("month == 1]", f"month == {train_month}]")


@pytest.fixture(scope="module")
def cells() -> dict[str, Any]:
    """Run the notebook's code here, which is quicker than in a kernel, and return its names."""
    names: dict[str, Any] = {}
    exec(code(), names)
    return names


def same(ours: Any, theirs: Any) -> bool:
    """Return whether numbers agree to six digits; coefficients range from 0.01 to 200 minutes."""
    return np.allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def executed(path: Path) -> dict[str, Any]:
    """Execute a Python file afresh, and return the names that it defines."""
    names: dict[str, Any] = {"__name__": "executed", "__file__": str(path)}
    exec(compile(path.read_text(), path, "exec"), names)
    return names


@flow
def train_again(month: int) -> tuple[str | None, Any]:
    """Return the name of the state in which training on a month ends, and the model."""
    state: State[Any] = train(month, load_flights.fn(month), return_state=True)
    return state.name, state.result()


@pytest.mark.guarantee(NAME, "same-model")
@pytest.mark.guarantee(NAME, "cached")
def test_the_model_is_that_of_the_notebook(cells: dict[str, Any]) -> None:
    """The model that the flow left in the cache has the notebook's coefficients and predictions."""
    predict_air_time()
    state, ours = train_again(1)
    assert state == "Cached"
    theirs = cells["model"]
    assert same(ours[-1].coef_, theirs[-1].coef_)
    assert same(ours[-1].intercept_, theirs[-1].intercept_)
    assert same(ours.predict(load_flights.fn(2)), cells["pred"])


@pytest.mark.guarantee(NAME, "same-model")
def test_the_number_of_linear_algebra_threads_does_not_matter(cells: dict[str, Any]) -> None:
    """With one or two threads of linear algebra, the coefficients are the notebook's."""
    flights = load_flights.fn(1)
    for threads in (1, 2):
        with threadpool_limits(threads):
            assert same(train.fn(1, flights)[-1].coef_, cells["model"][-1].coef_)


@pytest.mark.guarantee(NAME, "same-metrics")
def test_the_metrics_are_those_of_the_notebook(cells: dict[str, Any]) -> None:
    """The flow returns the same errors as the notebook."""
    assert predict_air_time() == pytest.approx({name: cells[name] for name in METRICS})


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "same-model")
@pytest.mark.guarantee(NAME, "same-metrics")
def test_a_kernel_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook, executed cell by cell by a Jupyter kernel, gives what the flow gives."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(LAST_CELL))
    NotebookClient(notebook, timeout=round(patience()), kernel_name="python3").execute(
        cwd=str(tmp_path)
    )
    (printed,) = notebook.cells[-1].outputs
    metrics, weights = json.loads(printed.text)
    assert predict_air_time() == pytest.approx(metrics)
    ridge = train.fn(1, load_flights.fn(1))[-1]
    assert same([ridge.intercept_, *ridge.coef_], weights)


@pytest.mark.guarantee(NAME, "months")
def test_other_months_need_no_edit() -> None:
    """For other months, the flow returns the same errors as the notebook edited for them."""
    names: dict[str, Any] = {}
    exec(code(3, 5), names)
    assert predict_air_time(3, 5) == pytest.approx({name: names[name] for name in METRICS})


@pytest.mark.guarantee(NAME, "months")
@pytest.mark.parametrize("wrong", [0, 13])
def test_an_invalid_month_is_refused(wrong: int) -> None:
    """A month outside 1 to 12 is an error that names the parameter."""
    with pytest.raises(ParameterTypeError, match="validate_month"):
        predict_air_time.validate_parameters({"validate_month": wrong})


@pytest.mark.guarantee(NAME, "months")
def test_one_month_for_both_is_refused() -> None:
    """Training and validating on the same month is an error: the flights would be the same."""
    with pytest.raises(ValueError, match="month 3 can't judge what it has trained: choose two"):
        predict_air_time(3, 3)


@pytest.mark.guarantee(NAME, "retried")
def test_loading_is_retried(monkeypatch: pytest.MonkeyPatch, virtual_clock: VirtualClock) -> None:
    """If reading the file fails twice, the flow waits 1 s and then 10 s, and goes on."""
    failures = [OSError("the disk is gone"), ConnectionError("so is the network")]
    attempts: list[datetime] = []

    def flaky() -> Path:
        attempts.append(virtual_clock.now())
        if failures:
            raise failures.pop()
        return flights_file()

    monkeypatch.setattr(pattern, "flights_file", flaky)
    assert predict_air_time()["mae"] < 9
    first, second, third, _ = attempts
    assert second - first >= timedelta(seconds=1)
    assert third - second >= timedelta(seconds=10)
    assert virtual_clock.skipped <= 11


@pytest.mark.guarantee(NAME, "retried")
def test_training_is_not_retried() -> None:
    """Training that fails is not retried, even if the settings have retries for every task."""
    attempts: list[int] = []

    def broken(*steps: object) -> None:
        attempts.append(1)
        raise OSError("no model today")

    with temporary_settings({PREFECT_TASKS_DEFAULT_RETRIES: 2}):
        names = executed(Path(pattern.__file__))
    names["make_pipeline"] = broken

    @flow
    def failing() -> None:
        names["train"](9, pd.DataFrame())

    with pytest.raises(OSError, match="no model today"):
        failing()
    assert len(attempts) == 1


@pytest.mark.guarantee(NAME, "cached")
def test_a_change_in_the_training_is_seen(tmp_path: Path) -> None:
    """After the training task's code has changed, the model is trained again."""
    predict_air_time()
    text = Path(pattern.__file__).read_text().replace("tol=1e-12)", "tol=1e-12, alpha=1e6)")
    path = tmp_path / "changed.py"
    path.write_text(text)
    assert executed(path)["predict_air_time"]()["mae"] > 2 * predict_air_time()["mae"]


@pytest.mark.guarantee(NAME, "cached")
def test_a_new_argument_of_the_training_is_seen(tmp_path: Path) -> None:
    """If a reader adds an argument to the training task, each of its values has its own model."""
    text = Path(pattern.__file__).read_text()
    for old, new in (
        ("def train(month: int,", "def train(month: int, alpha: float,"),
        ("Ridge(tol=1e-12)", "Ridge(alpha, tol=1e-12)"),
        ("validate_month: Month = 2)", "validate_month: Month = 2, alpha: float = 1.0)"),
        ("train(train_month, training)", "train(train_month, alpha, training)"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = tmp_path / "changed.py"
    path.write_text(text)
    changed = executed(path)["predict_air_time"]
    errors = [changed(alpha=alpha)["mae"] for alpha in (1.0, 1e6, 1.0)]
    assert errors[1] > 2 * errors[0]
    assert errors[2] == errors[0]


@pytest.mark.guarantee(NAME, "cached")
def test_a_change_in_the_flights_is_seen() -> None:
    """A model is trained again if a value, name, type or row differs, but not for a copy."""
    flights = load_flights.fn(1).iloc[:500]
    longer = flights.assign(air_time=flights["air_time"].where(flights.index != 100, 1000))

    swapped = {"hour": "distance", "distance": "hour"}
    again = ["Completed", "Completed"]

    @flow
    def states() -> list[str | None]:
        sets = (flights, flights.copy(), longer, flights.iloc[1:], flights.reset_index(drop=True))
        other = (flights.rename(columns=swapped), flights.astype({"hour": "int32"}))
        return [train(1, each, return_state=True).name for each in (*sets, *other)]

    assert longer["air_time"].eq(1000).sum() == 1
    assert states() == ["Completed", "Cached", "Completed", "Completed", "Cached", *again]


@pytest.mark.guarantee(NAME, "cached")
def test_a_month_whose_file_changes_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the file of the flights has changed, the flow's errors are those of the new flights."""
    year = pd.read_csv(flights_file())
    few = year[year["month"].isin((1, 2))].groupby("month").head(500)
    file = tmp_path / "flights.csv"
    monkeypatch.setattr(pattern, "flights_file", lambda: file)
    few.to_csv(file)
    before = predict_air_time()
    few.assign(air_time=few["air_time"].where(few["month"] == 2, few["air_time"] + 100)).to_csv(
        file
    )
    assert predict_air_time()["mae"] > before["mae"] + 50
    few.to_csv(file)
    assert predict_air_time() == before


@pytest.mark.guarantee(NAME, "plot")
def test_the_plot_is_an_artifact(prefect_server: str) -> None:
    """A run leaves one artifact, a PNG image with the key `errors`."""

    @flow
    def noted() -> str:
        predict_air_time.fn()
        run_id: str = flow_run.id
        return run_id

    wanted = {"artifacts": {"flow_run_id": {"any_": [noted()]}}}
    (artifact,) = httpx.post(
        f"{prefect_server}/artifacts/filter", json=wanted, timeout=patience()
    ).json()
    head, _, image = artifact["data"].partition(",")
    assert (artifact["key"], artifact["type"], head) == ("errors", "image", "data:image/png;base64")
    assert base64.b64decode(image).startswith(b"\x89PNG")


@pytest.mark.guarantee(NAME, "plot")
def test_the_plot_is_that_of_the_notebook(
    cells: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plot has the notebook's bars, and each flight is in one of them, whatever its error."""
    drawn: list[pd.DataFrame] = []
    chart = altair.Chart

    def noted(bars: pd.DataFrame, **options: Any) -> altair.Chart:
        drawn.append(bars)
        return chart(bars, **options)

    monkeypatch.setattr(altair, "Chart", noted)
    predict_air_time()
    (bars,) = drawn
    pd.testing.assert_frame_equal(bars, cells["bars"])
    errors = cells["pred"] - cells["val"]["air_time"]
    by_minute = bars.set_index("minutes")["flights"]
    assert by_minute.sum() == len(errors)
    assert (by_minute.iloc[0], by_minute.iloc[-1]) == ((errors <= -55).sum(), (errors > 55).sum())


@pytest.mark.guarantee(NAME, "clean")
def test_the_notebook_is_kept_without_outputs() -> None:
    """The notebook is valid, each cell has its own id, and none has an output or a count."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
