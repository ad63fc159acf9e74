# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/caching/large_results.py`."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import uuid
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.cache_policies import INPUTS, NO_CACHE
from prefect.exceptions import PrefectHTTPStatusError
from prefect.filesystems import RemoteFileSystem
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner
from prefect.utilities.annotations import opaque, quote

from flowgauge.runners.process_pool import preloaded_context
from flowgauge.waiting import patience, wait_until
from patterns.caching.large_results import (
    Stored,
    compare_stations,
    count_here,
    count_rows,
    fetch_readings,
    file_system,
    report_warmest,
    save,
    warmest,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "caching/large_results"
LARGE = 5_000_000


class Sealed(bytes):
    """Bytes that can't be pickled: they can only be handed on inside one process."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Refuse to be pickled."""
        raise TypeError("the content itself was pickled")


class Rows(list[Any]):
    """A list that counts how often somebody goes through its items."""

    walks = 0

    def __iter__(self) -> Iterator[Any]:
        """Count, and go through the items."""
        self.walks += 1
        return super().__iter__()


@dataclass(frozen=True)
class Bucket:
    """A bucket of a server on this machine, and what its clients need in their environment."""

    url: str
    folder: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """Yield a bucket of `rclone serve s3`, which checks the signature of each request."""
    served = tmp_path_factory.mktemp("served")
    (served / "tables").mkdir()
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert rclone is not None, "uv sync installs it: see the dependency group `storage`"
    command = [rclone, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", "reader,wonderland"]
    with subprocess.Popen(
        [*command, "--config", os.devnull, str(served)], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            address = next(filter(None, (re.search(r"http://[\d.:]+", s) for s in server.stderr)))
            reading = threading.Thread(target=server.stderr.read)
            reading.start()
            yield Bucket(
                "s3://tables/readings",
                served / "tables" / "readings",
                {
                    "AWS_ENDPOINT_URL": address.group(),
                    "AWS_ACCESS_KEY_ID": "reader",
                    "AWS_SECRET_ACCESS_KEY": "wonderland",
                    "AWS_DEFAULT_REGION": "us-east-1",
                    # This server sends the checksum of the whole file with each part of it.
                    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
                },
            )
        finally:
            server.kill()
            server.wait()
            reading.join()


@task
def make(letter: str, size: int, folder: str, environment: dict[str, str]) -> Stored:
    """Save a large content that can't be handed on in any other way."""
    os.environ.update(environment)
    return save(Sealed(letter.encode() * size), folder)


@task
def measure(content: Stored, environment: dict[str, str]) -> tuple[str, int, int]:
    """Return what a task got: the first letter, the size, and how many bytes came to it."""
    os.environ.update(environment)
    read = content.read()
    return read[:1].decode(), len(read), len(pickle.dumps(content))


def hand_on(
    task_runner: TaskRunner[Any], folder: str, environment: dict[str, str]
) -> list[tuple[str, int, int]]:
    """Save two contents in tasks, and return what other tasks got of them."""

    @flow(task_runner=task_runner)
    def hands_on() -> list[tuple[str, int, int]]:
        made: Any = [make.submit(each, LARGE, folder, environment) for each in "ab"]
        results: list[tuple[str, int, int]] = [
            measure.submit(each, environment).result() for each in made
        ]
        return results

    return hands_on()


@pytest.mark.guarantee(NAME, "small")
def test_a_reference_is_handed_on(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """The content is never pickled, its reference is below 1 kB, and tasks read the content."""
    got = hand_on(task_runner, str(tmp_path / "tables"), {})
    assert [each[:2] for each in got] == [("a", LARGE), ("b", LARGE)]
    assert all(travelled < 1000 for *_, travelled in got)


@pytest.mark.guarantee(NAME, "small")
@pytest.mark.runners("sequential", "threads")
def test_the_flow_of_the_pattern_compares(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """The pattern's own flow hands tables from task to task by reference."""
    compare = compare_stations.with_options(task_runner=task_runner)
    assert compare(["here", "there"], 40, str(tmp_path)) == {"here": 29, "there": 29}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.guarantee(NAME, "parameters")
def test_a_reference_is_a_parameter(tmp_path: Path) -> None:
    """A flow takes a reference to 12 MB, also as the JSON that a deployment gets."""
    readings = [{"celsius": 21, "note": "x" * 2000}] * 6000
    reference = save(json.dumps(readings).encode(), tmp_path)
    assert reference.size > 12_000_000
    as_json: Any = json.loads(json.dumps(asdict(reference)))
    assert report_warmest(reference) == report_warmest(as_json) == 21


@pytest.mark.guarantee(NAME, "absolute")
def test_a_relative_folder_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference to a relative folder is valid in another working directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    reference = save(b"found", "tables")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert reference.read() == b"found"


@pytest.mark.guarantee(NAME, "bucket")
@pytest.mark.runners("threads", "processes")
def test_a_bucket_holds_large_results(
    task_runner: TaskRunner[Any], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks hand on contents through an S3-compatible bucket."""
    for name, text in bucket.environment.items():
        monkeypatch.setenv(name, text)
    got = hand_on(task_runner, bucket.url, bucket.environment)
    assert [each[:2] for each in got] == [("a", LARGE), ("b", LARGE)]
    assert all(travelled < 1000 for *_, travelled in got)
    assert (bucket.folder / save(b"a" * LARGE, bucket.url).digest).stat().st_size == LARGE


@pytest.mark.guarantee(NAME, "bucket")
def test_a_bucket_keeps_the_other_promises(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket's reference holds no credentials; its files are stored once and checked."""
    for name, text in bucket.environment.items():
        monkeypatch.setenv(name, text)
    reference = save(b"readings", bucket.url)
    assert reference == save(b"readings", bucket.url)
    assert not any(text in repr(reference) for text in ("reader,", "wonderland", "127.0.0.1"))
    stored = bucket.folder / reference.digest
    before = stored.stat()
    assert save(b"readings", bucket.url).read() == b"readings"
    assert (stored.stat().st_mtime_ns, stored.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    stored.write_bytes(b"changed!")
    with pytest.raises(ValueError, match="was changed"):
        reference.read()
    file_system(bucket.url)[0].rm(reference.url)
    with pytest.raises(FileNotFoundError):
        reference.read()
    assert save(b"readings", bucket.url).read() == b"readings"


@pytest.mark.guarantee(NAME, "once")
@pytest.mark.runners("threads", "processes")
def test_equal_contents_are_stored_once(task_runner: TaskRunner[Any], tmp_path: Path) -> None:
    """Equal contents, saved by several tasks, are one file that is not written again."""
    folder = tmp_path / "tables"

    @flow(task_runner=task_runner)
    def saves() -> list[Stored]:
        futures = [make.submit("a", 1000, str(folder), {}) for _ in range(3)]
        return [future.result() for future in futures]

    references = saves()
    assert len(set(references)) == 1
    (stored,) = folder.iterdir()
    before = stored.stat()
    assert save(b"a" * 1000, folder) == references[0]
    assert stored.stat() == before
    assert save(b"b" * 1000, folder) != references[0]


contents = st.binary(max_size=200)


@pytest.mark.guarantee(NAME, "checked")
@settings(max_examples=15)
@given(content=contents, other=contents)
def test_a_changed_file_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, other: bytes
) -> None:
    """What `read` returns is what was saved; if the file holds other bytes, it raises."""
    reference = save(content, tmp_path_factory.getbasetemp() / "checked")
    stored = Path(file_system(reference.url)[1])
    assert reference.read() == content
    stored.write_bytes(other)
    if other == content:
        assert reference.read() == content
    else:
        with pytest.raises(ValueError, match=f"{stored} was changed: it has {len(other)} bytes of"):
            reference.read()
    stored.unlink()
    with pytest.raises(FileNotFoundError, match=reference.digest):
        reference.read()


@pytest.mark.guarantee(NAME, "checked")
def test_an_exchanged_file_is_noticed(tmp_path: Path) -> None:
    """A file that was exchanged for another content of the same size raises in the task, too."""
    first, second = (fetch_readings.fn(station, 9, str(tmp_path)) for station in ("a", "b"))
    assert first.size == second.size
    with pytest.raises(ValueError, match="was changed"):
        warmest(replace(first, url=second.url))


def save_and_be_killed(folder: str) -> None:
    """Save a content that is too large for a limit of the kernel, which then kills this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    save(b"x" * LARGE, folder)


@pytest.mark.guarantee(NAME, "whole")
def test_a_killed_process_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """A process that is killed while it saves leaves no file under the content's name."""
    folder = tmp_path / "tables"
    killed = preloaded_context().Process(target=save_and_be_killed, args=(str(folder),))
    killed.start()
    killed.join(patience())
    assert killed.exitcode == -signal.SIGXFSZ
    (unfinished,) = folder.iterdir()
    assert 0 < unfinished.stat().st_size < LARGE
    reference = save(b"x" * LARGE, folder)
    assert unfinished.name != reference.digest
    assert reference.read() == b"x" * LARGE


@pytest.mark.guarantee(NAME, "whole")
@pytest.mark.parametrize("left", [b"", b"read"])
def test_a_cut_file_is_written_again(tmp_path: Path, left: bytes) -> None:
    """If the file was cut, `save` writes it again."""
    reference = save(b"readings", tmp_path)
    (tmp_path / reference.digest).write_bytes(left)
    assert save(b"readings", tmp_path) == reference
    assert reference.read() == b"readings"


@pytest.mark.guarantee(NAME, "cached")
def test_a_task_runs_again_for_another_content(tmp_path: Path) -> None:
    """With `INPUTS`, a task that takes a reference is executed once for each content."""
    executed = []

    @task(cache_policy=INPUTS, persist_result=True)
    def count(content: Stored) -> int:
        executed.append(content.size)
        return len(content.read())

    mark = uuid.uuid4().bytes

    @flow
    def counts() -> list[int]:
        return [count(save(mark + each, tmp_path)) for each in (b"a", b"bb", b"a", b"bb", b"cc")]

    assert counts() == counts() == [17, 18, 17, 18, 18]
    assert executed == [17, 18, 18]


@pytest.mark.guarantee(NAME, "quoted")
def test_quoted_rows_are_not_visited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect does not go through the rows that the pattern's flow passes in `quote`."""
    rows = Rows([{"day": 1}, {"day": 2}])
    monkeypatch.setattr("patterns.caching.large_results.make_rows", lambda days: rows)
    assert count_here(2) == 2
    assert rows.walks == 0


@pytest.mark.fact(NAME, "limit")
def test_large_parameters_are_refused() -> None:
    """Parameters of up to 512 KiB of JSON are taken, larger ones refused (422), even in a call."""

    @flow
    def count(text: str) -> int:
        return len(text)

    around = len(json.dumps({"text": ""}, separators=(",", ":")))
    fits = 512 * 1024 - around - 1
    assert count("x" * fits) == fits
    with pytest.raises(PrefectHTTPStatusError, match=r"422 .*parameters must be less than 524,288"):
        count("x" * (fits + 2))


@pytest.mark.fact(NAME, "visited")
@pytest.mark.runners("sequential", "threads")
def test_arguments_are_visited(task_runner: TaskRunner[Any]) -> None:
    """Prefect goes through an argument's items for each task run, but not in `quote`, `opaque`."""

    @flow(task_runner=task_runner)
    def counts() -> list[int]:
        walks = []
        wrap: Any
        for wrap in (lambda rows: rows, quote, opaque):
            for call in (count_rows, lambda rows: count_rows.submit(rows).result()):
                rows = Rows([1, 2])
                assert call(wrap(rows)) == 2
                walks.append(rows.walks)
        return walks

    called, submitted, *wrapped = counts()
    assert min(called, submitted) > 0
    assert max(wrapped) == 0


@pytest.mark.fact(NAME, "visited")
@pytest.mark.runners("sequential", "threads")
def test_a_quoted_future_stays_a_future(task_runner: TaskRunner[Any]) -> None:
    """In `quote` a task receives the future itself, in `opaque` its result."""

    @task
    def describe(given: Any) -> bool:
        return isinstance(given, PrefectFuture)

    @flow(task_runner=task_runner)
    def describes() -> list[bool]:
        future: Any = describe.submit(1)
        return [describe.submit(wrap(future)).result() for wrap in (quote, opaque)]

    assert describes() == [True, False]


@pytest.mark.fact(NAME, "copied")
def test_each_persisted_result_is_a_copy(tmp_path: Path) -> None:
    """Two calls with equal results leave two files, each of which holds the result."""

    @task(persist_result=True, result_storage=tmp_path)
    def make_table(attempt: int) -> bytes:
        return b"table" * 50_000

    @flow
    def makes() -> None:
        make_table(1)
        make_table.submit(2).wait()

    makes()
    assert len([file for file in tmp_path.iterdir() if file.stat().st_size > 200_000]) == 2


@pytest.mark.fact(NAME, "uncached")
def test_no_cache_means_no_persisted_result(tmp_path: Path) -> None:
    """With `NO_CACHE` a task with `persist_result=True` leaves no file; by default it does."""

    @flow
    def makes() -> list[int]:
        files = []
        options: Any
        for options in ({"cache_policy": NO_CACHE}, {}):
            made_by: Any = task(persist_result=True, result_storage=tmp_path, **options)(lambda: 1)
            made_by()
            made_by.submit().wait()
            files.append(len(list(tmp_path.glob("*"))))
        return files

    assert makes() == [0, 1]


@pytest.mark.fact(NAME, "kept")
def test_persisted_results_stay_in_memory() -> None:
    """A persisted result is in memory until the flow ends, unless the task declines that."""

    class Table:
        """Something that can be weakly referenced, and pickled."""

        def __reduce__(self) -> Any:
            return object, ()

    made: list[weakref.ref[Table]] = []

    def make_table(kept: bool) -> Table:
        table = Table()
        made.append(weakref.ref(table))
        return table

    @flow
    def makes() -> list[bool]:
        for kept in (True, False):
            options: Any = {"persist_result": True, "cache_result_in_memory": kept}
            task(**options)(make_table).submit(kept).wait()
        # A worker's thread may still hold the last result for a moment.
        wait_until(lambda: not in_memory()[1])
        return in_memory()

    def in_memory() -> list[bool]:
        gc.collect()
        return [table() is not None for table in made]

    assert makes() == [True, False]
    wait_until(lambda: in_memory() == [False, False])


@pytest.mark.fact(NAME, "block")
@pytest.mark.runners("threads", "dask-processes")
def test_a_saved_block_stores_results(task_runner: TaskRunner[Any], bucket: Bucket) -> None:
    """An S3 block is refused as result storage until it is saved; then results go to the bucket."""
    given = bucket.environment
    block = RemoteFileSystem(
        basepath=f"s3://tables/{uuid.uuid4().hex}",
        settings={
            "key": given["AWS_ACCESS_KEY_ID"],
            "secret": given["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": given["AWS_ENDPOINT_URL"],
            "config_kwargs": {"response_checksum_validation": "when_required"},
        },
    )
    options: Any = {"persist_result": True}
    with pytest.raises(TypeError, match=r"call `.save\(\)` on your block"):
        task(result_storage=block, **options)(measure.fn)
    block.save("tables", overwrite=True)

    @task(result_storage=block, **options)
    def count() -> int:
        return 3

    @flow(task_runner=task_runner)
    def counts() -> int:
        future: Any = count.submit()
        return int(future.result())

    assert counts() == 3
    (stored,) = (bucket.folder.parent / block.basepath.rpartition("/")[2]).iterdir()
    assert stored.stat().st_size > 0
