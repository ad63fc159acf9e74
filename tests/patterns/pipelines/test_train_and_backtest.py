# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/pipelines/train_and_backtest.py`."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import pickle
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import HTTPError

import altair as alt
import httpx
import numpy as np
import pandas as pd
import pytest
from prefect import flow, task
from prefect.deployments import run_deployment
from prefect.exceptions import ParameterTypeError, PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_TASKS_REFRESH_CACHE,
    temporary_settings,
)
from prefect.task_runners import TaskRunner
from threadpoolctl import threadpool_info, threadpool_limits

from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.waiting import patience, wait_until
from patterns.pipelines import train_and_backtest as pattern
from patterns.pipelines.train_and_backtest import (
    FLIGHTS,
    Score,
    build_features,
    by_inputs_and_code,
    check_month,
    evaluate,
    fetch,
    one_thread,
    read_month,
    register,
    train,
    train_and_backtest,
    train_month,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "pipelines/train_and_backtest"
FILE = "trips-{month:02}.parquet"


def taxi_trips(month: int, rows: int = 300) -> pd.DataFrame:
    """Return taxi trips as their Parquet files hold them, the same on every call."""
    random = np.random.default_rng(month)
    distance = random.uniform(0.5, 20, rows).round(2)
    began = pd.Timestamp(2024, month, 1) + pd.to_timedelta(
        random.integers(0, 27 * 86400, rows), "s"
    )
    minutes = 3 * distance + random.normal(8, 1, rows)
    return pd.DataFrame(
        {
            "VendorID": 1,
            "tpep_pickup_datetime": began,
            "tpep_dropoff_datetime": began + pd.to_timedelta(minutes, "min"),
            "trip_distance": distance,
            "PULocationID": random.integers(1, 4, rows),
            "DOLocationID": random.integers(1, 4, rows),
        }
    )


@pytest.fixture(scope="session")
def taxi_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three months of taxi trips."""
    folder = tmp_path_factory.mktemp("taxi")
    for month in (1, 2, 3):
        taxi_trips(month).to_parquet(folder / FILE.format(month=month))
    return folder


@dataclass
class Shop:
    """A web server that serves files, and counts requests.

    Attributes:
        url: Its address, with a place for the month.
        folder: The files.
        failures: How many requests it answers with 503 before it serves anything.
        asked: How often each file was requested.
    """

    folder: Path
    url: str = ""
    failures: int = 0
    asked: Counter[str] = field(default_factory=Counter)

    def answer(self, name: str) -> tuple[int, bytes]:
        """Return a status and a body."""
        self.asked[name] += 1
        if self.asked.total() <= self.failures:
            return 503, b""
        path = self.folder / name
        return (200, path.read_bytes()) if path.exists() else (404, b"")


@contextmanager
def shop(folder: Path) -> Iterator[Shop]:
    """Run a web server on loopback."""
    opened = Shop(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = opened.answer(self.path.rpartition("/")[2])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    # The folder's name is in the address, so that no two tests share a key in the cache.
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        opened.url = f"http://127.0.0.1:{server.server_port}/{time.time_ns()}/{FILE}"
        try:
            yield opened
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture(autouse=True)
def own_results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give each test its own results: a model of the same trips would come from the cache."""
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path_factory.mktemp("results")}):
        yield


@pytest.fixture
def taxi_shop(taxi_files: Path) -> Iterator[Shop]:
    """Yield a web server that has the taxi trips."""
    with shop(taxi_files) as opened:
        yield opened


def without_prefect(source: str, month: int) -> tuple[Score, bytes]:
    """Return the score and the pickled model of the steps, called as plain functions."""
    training, validation = (
        build_features.fn(check_month.fn(read_month.fn(source, each, None), each))
        for each in (month, month + 1)
    )
    model = train.fn(month, 1.0, training)
    return evaluate.fn(model, training, validation, month, ""), pickle.dumps(model)


def figures(score: Score) -> dict[str, Any]:
    """Return a score without the version, which depends on the address of the data."""
    return {key: value for key, value in score.items() if key != "version"}


@dataclass(frozen=True)
class Ran:
    """The outcome of two flow runs on a task runner.

    Attributes:
        source: The address of the data.
        scores: The scores of both runs.
        models: The bytes of the models that the first run registered.
        asked: How often each file had been requested after each run.
    """

    source: str
    scores: tuple[list[Score], list[Score]]
    models: list[bytes]
    asked: tuple[Counter[str], Counter[str]]


@pytest.fixture(scope="module")
def ran(
    task_runner: TaskRunner[Any], taxi_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Ran:
    """Train and backtest two months, twice; the data are read from a web server."""
    registry = tmp_path_factory.mktemp("registry")
    run = train_and_backtest.with_options(task_runner=task_runner)
    results = {PREFECT_LOCAL_STORAGE_PATH: tmp_path_factory.mktemp("results")}
    with temporary_settings(results), shop(taxi_files) as opened:
        first = run(months=[2, 1], source=opened.url, registry=str(registry))
        asked = opened.asked.copy()
        second = run(months=[1, 2], source=opened.url, registry=str(registry))
    models = [(registry / score["version"] / "model.pickle").read_bytes() for score in first]
    return Ran(opened.url, (first, second), models, (asked, opened.asked))


@pytest.mark.guarantee(NAME, "split")
@pytest.mark.guarantee(NAME, "same")
def test_scores_and_models_are_those_of_plain_python(ran: Ran, taxi_files: Path) -> None:
    """On every task runner, scores and models' bytes are those of the steps without Prefect."""
    expected = [without_prefect(str(taxi_files / FILE), month) for month in (1, 2)]
    assert [figures(score) for score in ran.scores[0]] == [figures(score) for score, _ in expected]
    assert ran.models == [model for _, model in expected]


@pytest.mark.guarantee(NAME, "same")
def test_the_number_of_threads_changes_nothing() -> None:
    """Where linear algebra may use two threads, the model's bytes are the same as with one."""
    january = build_features.fn(check_month.fn(read_month.fn(FLIGHTS, 1, None), 1))
    models = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            models.append(pickle.dumps(train.fn(1, 1.0, january)))
    assert models[0] == models[1]


def most_threads() -> int:
    """Return how many threads linear algebra may use in this process."""
    return max(int(library["num_threads"]) for library in threadpool_info())


@pytest.mark.guarantee(NAME, "same")
def test_concurrent_tasks_share_one_limit() -> None:
    """Linear algebra has one thread until the last of two tasks ends, then the earlier number."""
    first, second = one_thread(), one_thread()
    with threadpool_limits(2):
        before = most_threads()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert most_threads() == 1
        second.__exit__(None, None, None)
        assert most_threads() == before


@pytest.mark.guarantee(NAME, "cached")
def test_each_month_is_read_once(ran: Ran) -> None:
    """The first run reads each month once, and the next run reads none and has the same scores."""
    once = {FILE.format(month=month): 1 for month in (1, 2, 3)}
    assert ran.asked == (once, once)
    assert ran.scores[0] == ran.scores[1]


def found(api: str, kind: str, **filters: Any) -> list[Any]:
    """Return the objects of a kind that the API has."""
    answer = httpx.post(f"{api}/{kind}/filter", json=filters, timeout=patience())
    answer.raise_for_status()
    things: list[Any] = answer.json()
    return things


def trainings(api: str, source: str, expected: int) -> list[str]:
    """Return the names of the states in which the first month's training ended, sorted.

    Args:
        api: The API of the server.
        source: The data that it was trained on.
        expected: How many to wait for; task runs reach the server late.
    """

    def ended() -> list[str]:
        named = found(api, "flow_runs", flow_runs={"name": {"any_": ["month-1"]}})
        ids = [run["id"] for run in named if run["parameters"]["source"] == source]
        runs = found(
            api,
            "task_runs",
            flow_runs={"id": {"any_": ids}},
            task_runs={"name": {"any_": ["train-month-1"]}},
        )
        final = ("COMPLETED", "FAILED", "CRASHED")
        names = sorted(run["state_name"] for run in runs if run["state_type"] in final)
        return names if len(names) >= expected else []

    return wait_until(ended, f"{expected} trainings of {source}")


@pytest.mark.guarantee(NAME, "cached")
def test_a_month_is_not_trained_again(ran: Ran, prefect_server: str) -> None:
    """The next run takes the first month's model from the cache."""
    assert trainings(prefect_server, ran.source, 2) == ["Cached", "Completed"]


@pytest.mark.guarantee(NAME, "split")
@pytest.mark.parametrize("kind", ["months", "years"])
def test_rows_of_other_months_are_neither_learnt_from_nor_judged_on(
    taxi_files: Path, tmp_path: Path, kind: str
) -> None:
    """Rows of other months or years in the files affect neither the model nor its score."""
    for month in (1, 2):
        strays = taxi_trips(3 - month if kind == "months" else month, 12)
        if kind == "years":
            for name in ("tpep_pickup_datetime", "tpep_dropoff_datetime"):
                strays[name] -= pd.DateOffset(years=1)
        mixed = pd.concat([strays, taxi_trips(month)])
        mixed.to_parquet(tmp_path / FILE.format(month=month))
    stray = without_prefect(str(tmp_path / FILE), 1)
    assert stray == without_prefect(str(taxi_files / FILE), 1)
    assert stray[0]["rows"] == len(taxi_trips(2))


@pytest.mark.guarantee(NAME, "split")
def test_no_validation_row_is_trained_on() -> None:
    """A month's flights, to train or judge on, are all valid rows of that month and no others."""
    flights = [check_month.fn(read_month.fn(FLIGHTS, month, None), month) for month in (1, 2)]
    assert [set(rows["month"]) for rows in flights] == [{1}, {2}]
    assert [len(rows) for rows in flights] == [26398, 23611]


@pytest.mark.guarantee(NAME, "better")
def test_january_predicts_february() -> None:
    """A model of all January flights is off by 8 minutes in February; the mean by 71."""
    score, _ = without_prefect(FLIGHTS, 1)
    assert score["mae"] == pytest.approx(8.03, abs=0.05)
    assert score["mean_mae"] == pytest.approx(71.36, abs=0.05)
    assert score["mae"] < score["rmse"] < score["mean_mae"] / 5


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "better")
def test_every_month_is_better_than_the_mean(tmp_path: Path) -> None:
    """In a backtest of the whole year, every month's error is below a fifth of the mean's.

    It is within a tenth of the error of predicting by route, and the plot's bars hold every row.
    """
    scores = train_and_backtest(registry=str(tmp_path))
    assert [score["month"] for score in scores] == list(range(1, 12))
    for score in scores:
        assert score["mae"] < score["mean_mae"] / 5
        assert score["mae"] == pytest.approx(score["route_mae"], rel=0.1)
        assert sum(score["errors"]) == score["rows"]


def copied(folder: Path, old: str = "", new: str = "") -> ModuleType:
    """Return the pattern as a module, changed and loaded from another folder."""
    text = Path(pattern.__file__).read_text()
    assert old in text
    path = folder / "train_and_backtest.py"
    path.write_text(text.replace(old, new))
    spec = importlib.util.spec_from_file_location("copied_train_and_backtest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


@pytest.mark.guarantee(NAME, "code")
@pytest.mark.parametrize(
    ("old", "new", "reads", "trained"),
    [
        ("", "", 1, ["Cached", "Completed"]),
        ("minutes=minutes)", "minutes=minutes + 1)", 2, ["Completed", "Completed"]),
    ],
    ids=["unchanged", "helper"],
)
def test_a_change_in_a_helper_invalidates_the_cache(
    taxi_shop: Shop,
    prefect_server: str,
    tmp_path: Path,
    old: str,
    new: str,
    reads: int,
    trained: list[str],
) -> None:
    """After a change in a function that a task calls, everything is read and trained again.

    An unchanged copy of the file uses the cache.
    """
    train_month(1, taxi_shop.url, registry=str(tmp_path))
    copied(tmp_path, old, new).train_month(1, taxi_shop.url, registry=str(tmp_path))
    assert set(taxi_shop.asked.values()) == {reads}
    assert trainings(prefect_server, taxi_shop.url, 2) == trained


@pytest.mark.guarantee(NAME, "cached")
@pytest.mark.parametrize("months", [None, [1]], ids=["month", "backtest"])
def test_a_relative_source_is_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, months: list[int] | None
) -> None:
    """The same relative path, used in two folders, gives the rows of each; files are read once."""
    read: list[str] = []

    def noted(address: str) -> io.BytesIO:
        read.append(address)
        return fetch(address)

    monkeypatch.setattr(pattern, "fetch", noted)
    counts = []
    for rows in (300, 200):
        folder = tmp_path / str(rows)
        folder.mkdir()
        for month in (1, 2):
            taxi_trips(month, rows).to_parquet(folder / FILE.format(month=month))
        monkeypatch.chdir(folder)
        score = train_and_backtest(months, FILE)[0] if months else train_month(1, FILE)
        counts.append(score["rows"])
    assert counts == [300, 200]
    assert sorted(read) == sorted(map(str, tmp_path.glob("*/*.parquet")))


@flow
def read(source: str) -> int:
    """Read a month, and return how many rows it has."""
    trips: pd.DataFrame = read_month(source, 1, None)
    return len(trips)


@pytest.mark.guarantee(NAME, "retried")
def test_a_flaky_read_is_retried(
    taxi_shop: Shop, virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that fails three times is retried after 2, 10 and 60 s."""
    attempts: list[datetime] = []

    def noted(address: str) -> io.BytesIO:
        attempts.append(virtual_clock.now())
        return fetch(address)

    monkeypatch.setattr(pattern, "fetch", noted)
    taxi_shop.failures = 3
    assert read(taxi_shop.url) == 300
    waits = [after - before for before, after in pairwise(attempts)]
    for wait, least in zip(waits, (2, 10, 60), strict=True):
        assert wait >= timedelta(seconds=least)
    assert virtual_clock.skipped <= 72


@pytest.mark.guarantee(NAME, "retried")
def test_a_read_is_given_up_after_three_retries(
    taxi_shop: Shop, virtual_clock: VirtualClock
) -> None:
    """After four failed attempts, the read's own error is raised."""
    taxi_shop.failures = 4
    with pytest.raises(HTTPError, match="503"):
        read(taxi_shop.url)
    assert taxi_shop.asked.total() == 4


def without(column: str) -> bytes:
    """Return a Parquet file that lacks a column."""
    file = io.BytesIO()
    taxi_trips(1).drop(columns=column).to_parquet(file)
    return file.getvalue()


def damaged() -> bytes:
    """Return a Parquet file whose first values are overwritten by zeros; its footer is intact."""
    whole = without("VendorID")
    return whole[:4] + bytes(200) + whole[204:]


@pytest.mark.guarantee(NAME, "not-retried")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file is at .*trips-01.parquet: choose other months or source"),
        (b"<html>Service moved</html>", "trips-01.parquet can't be read as Parquet: .*magic"),
        (damaged(), "trips-01.parquet can't be read as Parquet: .*deserialize"),
        (without("PULocationID"), "trips-01.parquet has no column PULocationID"),
    ],
    ids=["missing", "not-parquet", "damaged", "column"],
)
def test_broken_data_is_not_read_again(tmp_path: Path, content: bytes | None, message: str) -> None:
    """A file that is missing, damaged, not Parquet or lacks a column is a one-line error.

    It is not read again.
    """
    if content:
        (tmp_path / "trips-01.parquet").write_bytes(content)
    with shop(tmp_path) as opened, pytest.raises(ValueError, match=message) as error:
        read(opened.url)
    assert opened.asked.total() == 1
    assert "\n" not in str(error.value)


@pytest.mark.guarantee(NAME, "not-retried")
def test_a_missing_file_is_not_read_again(tmp_path: Path, virtual_clock: VirtualClock) -> None:
    """A path without a file, or of a folder, is an error with the path, and is not retried."""
    for path in (tmp_path / FILE, tmp_path):
        with pytest.raises(ValueError, match=f"no file is at {re.escape(str(tmp_path))}"):
            read(str(path))
    assert virtual_clock.skipped == 0


@pytest.mark.guarantee(NAME, "not-retried")
@pytest.mark.parametrize("scheme", ["s3", "gs", "ftp", "FILE", "file"])
def test_a_bad_url_is_not_a_transient_error(tmp_path: Path, scheme: str) -> None:
    """A `file` URL without a file, or a URL of an unknown scheme, is a ValueError."""
    address = f"{scheme}://{tmp_path}/trips-01.parquet"
    unknown = "is neither a path nor a URL of file, http or https"
    message = f"no file is at {address}" if scheme.lower() == "file" else f"{address} {unknown}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        fetch(address)


@pytest.mark.guarantee(NAME, "taxi")
def test_a_file_has_a_url(tmp_path: Path) -> None:
    """A `file` URL gives the same bytes as its path, even with a quoted space in it."""
    path = tmp_path / "trips 01.parquet"
    path.write_bytes(b"trips")
    assert fetch(path.as_uri()).read() == fetch(str(path)).read() == b"trips"


@pytest.mark.guarantee(NAME, "not-retried")
@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("tpep_pickup_datetime", lambda times: times.astype(str)),
        ("tpep_dropoff_datetime", lambda times: times.dt.tz_localize("UTC")),
        ("tpep_pickup_datetime", lambda times: times.astype(int)),
        ("tpep_dropoff_datetime", lambda times: times.dt.date),
        ("trip_distance", lambda miles: miles.astype(str)),
        ("trip_distance", lambda miles: None),
        ("PULocationID", lambda places: places.map(lambda place: [place])),
        ("DOLocationID", lambda places: places.astype(str).str.encode("ascii")),
    ],
)
def test_a_column_of_a_wrong_type_is_named(
    tmp_path: Path, column: str, change: Callable[[Any], Any]
) -> None:
    """A column of a wrong type is a one-line error that names the file and the column."""
    trips = taxi_trips(1, 10)
    trips.assign(**{column: change(trips[column])}).to_parquet(tmp_path / "trips-01.parquet")
    message = rf"trips-01.parquet has columns of a wrong type: {column} \(\w.*\)$"
    with pytest.raises(ValueError, match=message) as error:
        read_month.fn(str(tmp_path / FILE), 1, None)
    assert "\n" not in str(error.value)


@pytest.mark.guarantee(NAME, "checked")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        *[("minutes", None), ("minutes", 0.5), ("distance", 0), ("hour", 24), ("month", 2)],
        *[("origin", None), ("dest", None)],
    ],
)
def test_broken_rows_are_dropped(taxi_files: Path, column: str, value: float | None) -> None:
    """Up to a tenth of a month's rows may break a rule: they are dropped and all others kept.

    More than a tenth is an error that names the column and the number of rows.
    """
    trips = read_month.fn(str(taxi_files / FILE), 1, None).astype({column: float})
    trips.loc[:29, column] = value
    assert check_month.fn(trips, 1).index.tolist() == list(range(30, 300))
    trips.loc[:30, column] = value
    with pytest.raises(ValueError, match=rf"10% of 300 rows break the rules \({column}: 31\)"):
        check_month.fn(trips, 1)


@pytest.mark.guarantee(NAME, "checked")
def test_a_month_without_rows_is_an_error() -> None:
    """A month without rows is an error, not a model of nothing."""
    with pytest.raises(ValueError, match="month 13 has no rows: choose other months"):
        check_month.fn(read_month.fn(FLIGHTS, 13, None), 13)


@pytest.mark.guarantee(NAME, "versioned")
def test_a_version_says_what_it_was_made_from(taxi_files: Path, tmp_path: Path) -> None:
    """Registering again changes nothing; another parameter or month makes another version."""
    source, registry = str(taxi_files / FILE), tmp_path / "registry"
    first = train_month(1, source, registry=str(registry))
    model = registry / first["version"] / "model.pickle"
    pickle.loads(model.read_bytes())
    card = json.loads((registry / first["version"] / "metrics.json").read_text())
    assert card.items() >= {**first, "source": source, "alpha": 1.0, "code": pattern.CODE}.items()
    model.write_bytes(b"must stay")
    again = train_month(1, source, registry=str(registry))
    others = [
        train_month(1, source, alpha=2.0, registry=str(registry)),
        train_month(1, source, sample=200, registry=str(registry)),
        train_month(2, source, registry=str(registry)),
    ]
    assert again == first
    assert model.read_bytes() == b"must stay"
    versions = {score["version"] for score in (first, *others)}
    assert {folder.name for folder in registry.iterdir()} == versions
    assert len(versions) == 4


@pytest.mark.guarantee(NAME, "versioned")
@pytest.mark.parametrize("changed", [1, 2])
def test_other_data_under_the_same_name_make_another_version(tmp_path: Path, changed: int) -> None:
    """After a refresh, a change in a month that is trained or judged on makes a new version."""
    source, registry = str(tmp_path / FILE), tmp_path / "registry"
    for month in (1, 2):
        taxi_trips(month).to_parquet(source.format(month=month))
    first = train_month(1, source, registry=str(registry))
    taxi_trips(changed, rows=299).to_parquet(source.format(month=changed))
    assert train_month(1, source, registry=str(registry)) == first
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        second = train_month(1, source, registry=str(registry))
    assert second["version"] != first["version"]
    assert {path.name for path in registry.iterdir()} == {first["version"], second["version"]}


@pytest.mark.guarantee(NAME, "versioned")
def test_a_month_that_another_run_has_read_again_is_trained_on_again(tmp_path: Path) -> None:
    """A version's model is trained on the data that its name is from, whichever run read them."""
    source, registry = str(tmp_path / FILE), tmp_path / "registry"
    for month in (1, 2, 3):
        taxi_trips(month).to_parquet(source.format(month=month))
    train_month(2, source, registry=str(registry))
    taxi_trips(2, rows=299).to_parquet(source.format(month=2))
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        train_month(1, source, registry=str(registry))
    changed = train_month(2, source, registry=str(registry))
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        anew = train_month(2, source, registry=str(tmp_path / "anew"))
    assert changed == anew
    models = [
        folder / changed["version"] / "model.pickle" for folder in (registry, tmp_path / "anew")
    ]
    assert models[0].read_bytes() == models[1].read_bytes()


@pytest.mark.guarantee(NAME, "cached")
def test_every_argument_is_in_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """With the pattern's key, a task is executed for other lists and data, and always for sets."""

    @task(cache_key_fn=by_inputs_and_code)
    def counted(names: Any, trips: pd.DataFrame) -> int:
        return len(names)

    @flow
    def states() -> list[str | None]:
        trips = taxi_trips(1)
        lists, sets = [["a", "b"], ["a"], ["a", "b"]], [{"a"}, {"a"}]
        ends = [counted(each, trips, return_state=True).name for each in (*lists, *sets)]
        others = (trips[1:], trips.rename(columns={"PULocationID": "from"}))
        return [*ends, *(counted(["a"], each, return_state=True).name for each in others)]

    done, again = "Completed", "Cached"
    assert states() == [done, done, again, done, done, done, done]
    assert "set is not JSON serializable" in caplog.text


@pytest.mark.guarantee(NAME, "versioned")
def test_a_version_is_registered_whole_or_not_at_all(tmp_path: Path) -> None:
    """If several threads register one version at the same time, one wins and none fails."""
    folder = tmp_path / "registry" / "01-same"
    together = threading.Barrier(4)

    def put(number: int) -> None:
        together.wait()
        register.fn(number, {"number": number}, folder)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    winner = json.loads((folder / "metrics.json").read_text())["number"]
    assert pickle.loads((folder / "model.pickle").read_bytes()) == winner
    assert [path.name for path in folder.parent.iterdir()] == ["01-same"]


@pytest.mark.guarantee(NAME, "artifacts")
def test_a_run_leaves_three_artifacts(
    prefect_server: str, taxi_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run leaves a table of its scores, a plot of the errors and a link to its newest model."""
    ids: list[str] = []
    drawn: list[dict[str, Any]] = []
    save = alt.Chart.save

    def noted_save(chart: alt.Chart, *args: Any, **kwargs: Any) -> None:
        drawn.append(chart.to_dict())
        save(chart, *args, **kwargs)

    monkeypatch.setattr(alt.Chart, "save", noted_save)

    @flow
    def noted() -> list[Score]:
        ids.append(flow_run.id)
        return train_and_backtest.fn([1, 2], str(taxi_files / FILE), registry=str(tmp_path))

    scores = noted()
    left = found(prefect_server, "artifacts", artifacts={"flow_run_id": {"any_": ids}})
    data = {artifact["key"]: artifact["data"] for artifact in left}
    assert set(data) == {"backtest", "residuals", "model"}
    rows = json.loads(data["backtest"])
    assert [(row["month"], row["mae"]) for row in rows] == [(s["month"], s["mae"]) for s in scores]
    head, _, image = data["residuals"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(image).startswith(b"\x89PNG")
    [plot] = drawn
    assert plot["title"] == "Errors on month 3"  # the last model was trained on month 2
    [bars] = plot["datasets"].values()
    assert [bar["trips"] for bar in bars] == scores[-1]["errors"]
    assert (tmp_path / scores[-1]["version"]).as_uri() in data["model"]


def test_what_is_read_and_trained_is_kept(taxi_files: Path, tmp_path: Path) -> None:
    """The only results kept are one for each month read, one for each model, and the scores."""
    results = tmp_path / "results"
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: results}):
        train_and_backtest([1, 2], str(taxi_files / FILE), registry=str(tmp_path / "registry"))
    assert len([*results.iterdir()]) == 3 + 2 + 1


@pytest.mark.guarantee(NAME, "taxi")
def test_a_path_and_a_url_give_the_same(taxi_shop: Shop, taxi_files: Path, tmp_path: Path) -> None:
    """Taxi trips from a path and from a URL give the same model, which predicts durations."""
    by_url = train_month(1, taxi_shop.url, registry=str(tmp_path))
    by_path = train_month(1, str(taxi_files / FILE), registry=str(tmp_path))
    assert figures(by_url) == figures(by_path)
    # The noise in the durations has a standard deviation of one minute.
    assert by_url["mae"] < 1.2 < by_url["mean_mae"]


@pytest.mark.guarantee(NAME, "taxi")
@pytest.mark.guarantee(NAME, "checked")
@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        *[("float64", None), ("Int64", None), ("category", None), ("text of floats", None)],
        *[("text", missing) for missing in ("", "nan", "NaN", "None", "<NA>")],
    ],
)
def test_a_place_is_the_same_however_a_file_stores_it(
    tmp_path: Path, kind: str, missing: str | None
) -> None:
    """Routes are the same as for integer places, and rows that lack a place are dropped."""
    whole, source = taxi_trips(2, 30), str(tmp_path / FILE)

    def features(trips: pd.DataFrame) -> pd.DataFrame:
        trips.to_parquet(source.format(month=2))
        valid = check_month.fn(read_month.fn(source, 2, None), 2)
        return build_features.fn(valid).reset_index(drop=True)

    other = whole.copy()
    for row, name in enumerate(("PULocationID", "DOLocationID")):
        places = whole[name].astype(float if kind == "text of floats" else int)
        if kind in ("float64", "Int64"):
            other[name] = places.astype(kind)
            other.loc[row, name] = None
        else:
            texts = places.astype(str).astype(object).where(whole.index != row, missing)
            other[name] = texts.astype("category") if kind == "category" else texts
    pd.testing.assert_frame_equal(features(other), features(whole[2:]))


@pytest.mark.guarantee(NAME, "parameters")
@pytest.mark.parametrize(
    "wrong", [{"months": [12]}, {"months": []}, {"months": "spring"}, {"sample": 0}, {"alpha": -1}]
)
def test_a_wrong_parameter_starts_nothing(wrong: dict[str, Any]) -> None:
    """Validation refuses a wrong parameter with an error that names it."""
    with pytest.raises(ParameterTypeError, match=next(iter(wrong))):
        train_and_backtest.validate_parameters(wrong)


@pytest.mark.guarantee(NAME, "parameters")
def test_a_deployment_has_the_schema() -> None:
    """The server refuses a deployment's run with a wrong parameter, and accepts one without any."""
    deployment: Any = train_and_backtest.to_deployment("by-schema")
    chosen = deployment.apply()
    with pytest.raises(PrefectHTTPStatusError, match="12 is greater than the maximum of 11"):
        run_deployment(chosen, parameters={"months": [12]}, timeout=0)
    taken: Any = run_deployment(chosen, timeout=0)
    assert taken.state_name == "Scheduled"


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "tracked")
def test_each_month_is_a_run_in_mlflow(taxi_files: Path, tmp_path: Path) -> None:
    """With a tracking URI, each month of each flow run is a run of the same MLflow experiment."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    scores = [
        score
        for _ in range(2)
        for score in train_and_backtest(
            [1, 2], str(taxi_files / FILE), registry=str(tmp_path / "registry"), tracking_uri=uri
        )
    ]
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'train-and-backtest'")
    runs = client.search_runs([experiment.experiment_id])
    kept = sorted((run.info.run_name, run.data.metrics["mae"], run.info.status) for run in runs)
    assert kept == sorted((score["version"], score["mae"], "FINISHED") for score in scores)


@pytest.mark.guarantee(NAME, "tracked")
def test_mlflow_is_needed_only_when_asked_for(
    taxi_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without MLflow, a tracking URI is an error that says what to install; nothing is read.

    Without a tracking URI, the flow works.
    """
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, find=importlib.util.find_spec: None if name == "mlflow" else find(name),
    )
    with pytest.raises(ValueError, match='pip install "mlflow-skinny'):
        train_and_backtest([1], taxi_shop.url, tracking_uri="sqlite:///mlflow.db")
    assert taxi_shop.asked.total() == 0
    assert train_and_backtest([1], taxi_shop.url, registry=str(tmp_path))[0]["rows"] == 300
