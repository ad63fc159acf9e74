# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/pipelines/assets.py`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, task
from prefect.assets import Asset, add_asset_metadata, materialize
from prefect.cache_policies import INPUTS
from prefect.client.schemas.objects import State
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter, EventOrder
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.task_runners import TaskRunner

from flowgauge.waiting import patience, wait_until
from patterns.pipelines import assets
from patterns.pipelines.assets import Step, Steps, last_made, out_of_date, path_of, rebuild
from tests.conftest import environment

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "pipelines/assets"


def joined(*contents: bytes) -> bytes:
    """Return the sorted lines of all sources."""
    return b"\n".join(sorted(b"\n".join(contents).split()))


def counted(*contents: bytes) -> bytes:
    """Return the number of lines of all sources."""
    return str(sum(len(each.split()) for each in contents)).encode()


def refused(*contents: bytes) -> bytes:
    """Fail."""
    raise LookupError(f"{len(contents)} sources, and none is right")


class Shop:
    """A folder and keys that no other test uses."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, uuid4().hex

    def key(self, file: str) -> str:
        """Return the key of a file."""
        return f"file://{self.name}/{file}"

    def step(self, function: Callable[..., bytes], *sources: str) -> Step:
        """Return a step with sources given by their names."""
        return Step(function, tuple(map(self.key, sources)))

    def steps(self, **by_name: Step) -> Steps:
        """Return steps, by the names of their files."""
        return {self.key(file): step for file, step in by_name.items()}

    def path(self, file: str) -> Path:
        """Return where a file is."""
        return path_of(self.folder, self.key(file))

    def write(self, **contents: str) -> None:
        """Write files."""
        for file, content in contents.items():
            self.path(file).parent.mkdir(exist_ok=True)
            self.path(file).write_text(content)

    def stale(self, steps: Steps) -> dict[str, str]:
        """Return what is out of date and why, without the folder in the keys."""
        found = out_of_date(self.folder, steps)
        return {self.short(key): self.short(why) for key, why in found.items()}

    def rebuild(self, steps: Steps) -> dict[str, str]:
        """Rebuild in the enclosing flow."""
        return {
            self.short(key): self.short(why) for key, why in rebuild(self.folder, steps).items()
        }

    def short(self, text: str) -> str:
        """Leave out the folder in keys."""
        return text.replace(self.key(""), "")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Return a folder with two sources."""
    shop = Shop(tmp_path)
    shop.write(orders="ink\npen", names="Ali\nEve")
    return shop


def common(shop: Shop) -> Steps:
    """Return steps in two levels, and one apart."""
    return shop.steps(
        both=shop.step(joined, "orders", "names"),
        count=shop.step(counted, "both"),
        alone=shop.step(counted, "names"),
    )


def ids(event: Event, role: str) -> list[str]:
    """Return the ids of related resources, without what tells their kind."""
    found = [each.id for each in event.related if each.role == role]
    return [each.removeprefix(f"prefect.{role}.") for each in found]


def hashed(content: str) -> str:
    """Return a hash, worked out without the pattern."""
    return sha256(content.encode()).hexdigest()


@pytest.mark.guarantee(NAME, "recorded")
@pytest.mark.guarantee(NAME, "apart")
@pytest.mark.guarantee(NAME, "seen")
@pytest.mark.runners("threads", "processes", "dask-processes")
def test_each_making_is_recorded_and_a_failed_one_stops_only_what_needs_it(
    task_runner: TaskRunner[Any], shop: Shop
) -> None:
    """As soon as `rebuild` ends, what was made from what, when and by which run can be read.

    One step of five fails: its file is as before, what is made from that isn't tried, and all else
    is made.
    """
    shop.write(bad="old")
    steps = {
        **common(shop),
        **shop.steps(bad=shop.step(refused, "orders"), worse=shop.step(counted, "bad", "both")),
    }

    @flow(task_runner=task_runner)
    def update() -> tuple[str, str, list[str]]:
        with pytest.raises(ExceptionGroup) as raised:
            shop.rebuild(steps)
        causes = sorted(shop.short(repr(error)) for error in raised.value.exceptions)
        return str(flow_run.id), shop.short(str(raised.value)), causes

    begun = datetime.now(UTC)
    run, message, causes = update()
    made = {file: last_made(shop.key(file)) for file in ("both", "count", "alone", "bad", "worse")}

    assert message == "not made or not recorded: bad, worse (2 sub-exceptions)"
    assert causes == [
        "LookupError('1 sources, and none is right')",
        "RuntimeError('worse was not tried, because of bad')",
    ]
    assert shop.path("both").read_text() == "Ali\nEve\nink\npen"
    assert [shop.path(file).read_text() for file in ("count", "alone", "bad")] == ["4", "2", "old"]
    assert not shop.path("worse").exists()

    assert made.pop("worse") is None
    assert all(each and ids(each, "flow-run")[0] == run for each in made.values())
    assert all(each and begun <= each.occurred <= datetime.now(UTC) for each in made.values())
    both, bad = made["both"], made["bad"]
    assert both
    assert bad
    assert both.event == "prefect.asset.materialization.succeeded"
    assert sorted(ids(both, "asset")) == sorted(map(shop.key, ("orders", "names")))
    assert both.payload["sources"] == [
        [shop.key("orders"), hashed("ink\npen")],
        [shop.key("names"), hashed("Ali\nEve")],
    ]
    assert both.payload["content"] == hashed("Ali\nEve\nink\npen")
    assert bad.event == "prefect.asset.materialization.failed"
    assert bad.payload["sources"] == [[shop.key("orders"), hashed("ink\npen")]]
    tasks = {
        file: next(str(task.name) for task in each.related if task.role == "task-run")
        for file, each in made.items()
        if each
    }
    assert {file: name.rpartition("-")[0] for file, name in tasks.items()} == {
        "both": "joined",
        "count": "counted",
        "alone": "counted",
        "bad": "refused",
    }
    assert shop.stale(steps) == {
        "bad": "its last making failed",
        "worse": "no record of how it was made",
    }


@pytest.mark.guarantee(NAME, "current")
@pytest.mark.guarantee(NAME, "reason")
def test_what_no_longer_fits_is_out_of_date(shop: Shop) -> None:
    """Whatever has changed since, the files that it concerns are listed, with the reason."""
    steps = common(shop)
    none = "no record of how it was made"
    assert shop.stale(steps) == {"both": none, "count": none, "alone": none}
    flow(shop.rebuild)(steps)
    assert shop.stale(steps) == {}

    after = "both is out of date"
    shop.write(orders="ink")
    assert shop.stale(steps) == {"both": "orders has changed", "count": after}
    shop.write(orders="ink\npen", names="")
    assert shop.stale(steps) == {
        "both": "names has changed",
        "alone": "names has changed",
        "count": after,
    }
    shop.write(names="Ali\nEve")
    assert shop.stale(steps) == {}

    shop.path("orders").unlink()
    assert shop.stale(steps) == {"both": "orders has changed", "count": after}
    shop.write(orders="ink\npen")
    for by_hand in ("anything", None):
        shop.write(both=by_hand or "")
        if by_hand is None:
            shop.path("both").unlink()
        assert shop.stale(steps) == {
            "both": "changed since it was made",
            "count": "both has changed",
        }
    shop.write(both="Ali\nEve\nink\npen")
    assert shop.stale(steps) == {}

    for changed in (
        shop.step(counted, "orders", "names"),
        shop.step(joined, "names", "orders"),
        shop.step(joined, "orders"),
    ):
        now = {**steps, **shop.steps(both=changed)}
        assert shop.stale(now) == {"both": "its step has changed", "count": after}


@pytest.mark.guarantee(NAME, "only")
@pytest.mark.guarantee(NAME, "seen")
def test_only_what_is_out_of_date_is_made_after_its_sources(shop: Shop) -> None:
    """Nothing is made twice, and nothing because of a source that has the same content again."""
    # One of them in a folder that has to be made.
    deep = "counts/per/day"
    steps = {**common(shop), shop.key(deep): shop.step(counted, "both")}

    @flow
    def updates() -> Iterator[tuple[dict[str, str], dict[str, str]]]:
        for orders in ("ink\npen", "ink\npen", "pen\nink", "pen"):
            shop.write(orders=orders)
            yield shop.rebuild(steps), shop.stale(steps)

    none = "no record of how it was made"
    assert list(updates()) == [
        ({"both": none, "count": none, "alone": none, deep: none}, {}),
        ({}, {}),
        ({"both": "orders has changed"}, {}),
        ({"both": "orders has changed", **dict.fromkeys(("count", deep), "both has changed")}, {}),
    ]
    assert shop.path("count").read_text() == shop.path(deep).read_text() == "3"


@pytest.mark.guarantee(NAME, "whole")
def test_a_source_that_changes_meanwhile_is_noticed(shop: Shop) -> None:
    """A source that changes while it is used counts as changed; an open file keeps its content."""
    shop.write(count="old")

    def slow(orders: bytes) -> bytes:
        shop.write(orders="changed")
        return counted(orders)

    with shop.path("count").open() as reader:
        steps = shop.steps(count=shop.step(slow, "orders"))
        flow(shop.rebuild)(steps)
        assert reader.read() == "old"
    assert shop.path("count").read_text() == "2"
    assert shop.stale(steps) == {"count": "orders has changed"}
    assert sorted(each.name for each in shop.path("count").parent.iterdir()) == [
        "count",
        "names",
        "orders",
    ]


@pytest.mark.guarantee(NAME, "seen")
@pytest.mark.fact(NAME, "many")
def test_an_event_that_does_not_arrive_is_an_error(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 101 sources Prefect sends no event; with 100 it sends one that does not name the run.

    The tasks are Completed. Both are errors of `rebuild`, and so is a step that fails beside them.
    """
    monkeypatch.setattr(assets, "ARRIVES", 0.0)
    files = [f"part{number}" for number in range(101)]
    shop.write(**dict.fromkeys(files, "x"))
    steps = shop.steps(
        a=shop.step(counted, *files),
        b=shop.step(counted, *files[1:]),
        c=shop.step(refused, "names"),
        d=shop.step(counted, "a", "b"),
    )
    state: State[Any] = flow(shop.rebuild)(steps, return_state=True)
    assert [shop.path(file).read_text() for file in "abd"] == ["101", "100", "2"]
    with pytest.raises(ExceptionGroup) as raised:
        state.result()
    missed = "was made, but Prefect has no event of that run"
    # The last one's event may have come in time, or not.
    assert {f"a {missed}", f"b {missed}", "1 sources, and none is right"} <= {
        shop.short(str(error)) for error in raised.value.exceptions
    }
    assert last_made(shop.key("a")) is None
    event = wait_until(lambda: last_made(shop.key("b")))
    assert len(ids(event, "asset")) == 100
    assert not ids(event, "flow-run")


@pytest.mark.guarantee(NAME, "checked")
def test_steps_that_can_not_be_are_refused(shop: Shop) -> None:
    """A circle, and a key that Prefect doesn't accept, are refused before anything is made."""
    circle = shop.steps(a=shop.step(counted, "b"), b=shop.step(counted, "a"))
    blank = shop.steps(a=shop.step(counted, "names"), **{"b c": shop.step(counted, "names")})
    source = shop.steps(a=shop.step(counted, "names"), b=shop.step(counted, "a?"))
    for steps in (circle, blank, source):
        with pytest.raises(ValueError, match=r"cycle|cannot contain"):
            rebuild(shop.folder, steps)
    with pytest.raises(ValueError, match="cycle"):
        out_of_date(shop.folder, circle)
    assert not shop.path("a").exists()


FILES = ("orders", "names", "both", "count", "alone")
CHANGES = st.one_of(
    st.tuples(st.sampled_from(FILES), st.sampled_from(["", "ink", "ink\npen", "pen\nink", None])),
    st.just(("", None)),
)


@pytest.mark.nightly
@pytest.mark.guarantee(NAME, "current")
@pytest.mark.guarantee(NAME, "only")
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(CHANGES, min_size=2, max_size=8))
def test_what_is_not_listed_is_what_would_be_made_now(
    tmp_path: Path, changes: list[tuple[str, str | None]]
) -> None:
    """After any changes, a file that is not listed has the content that making it now would give.

    A rebuild between them leaves nothing out of date.
    """
    shop = Shop(tmp_path / uuid4().hex)
    shop.folder.mkdir()
    shop.write(orders="ink", names="Ali")
    steps = common(shop)
    for file, content in [("", None), *changes, ("", None)]:
        if not file:
            shop.write(**{each: "" for each in FILES[:2] if not shop.path(each).exists()})
            flow(shop.rebuild)(steps)
            assert shop.stale(steps) == {}
        elif content is None:
            shop.path(file).unlink(missing_ok=True)
        else:
            shop.write(**{file: content})
        stale = shop.stale(steps)
        now = {each: shop.path(each).read_bytes() for each in FILES if shop.path(each).exists()}
        for key, step in steps.items():
            if shop.short(key) not in stale:
                given = [now[shop.short(source)] for source in step.sources]
                assert now[shop.short(key)] == step.function(*given)


def events(*keys: str) -> list[tuple[str, str, dict[str, Any], list[str]]]:
    """Return the events of assets: name, key, what was added and the sources, in order."""
    wanted = EventFilter(event=EventNameFilter(prefix=["prefect.asset."]), order=EventOrder.ASC)
    with get_client(sync_client=True) as client:
        page = client.read_events(wanted, limit=50)
        found = list(page.events)
        while page.next_page:
            page = client.read_events_page(str(page.next_page))
            found += page.events
    return [
        (
            each.event.removeprefix("prefect.asset."),
            each.resource.id,
            each.payload,
            ids(each, "asset"),
        )
        for each in found
        if each.resource.id in keys
    ]


@pytest.mark.fact(NAME, "events")
@pytest.mark.fact(NAME, "silent")
@pytest.mark.fact(NAME, "inferred")
@pytest.mark.fact(NAME, "lost")
def test_what_prefect_sends(task_runner: TaskRunner[Any], runner_name: str, shop: Shop) -> None:
    """Success and failure send events, a cached result doesn't; sources are found but in a pool."""
    first, second, cached, broken, mapped, end = map(shop.key, ("a", "b", "c", "d", "e", "end"))
    outside = shop.key("outside")

    @materialize(first, second, asset_deps=[outside])
    def make() -> str:
        add_asset_metadata(second, {"rows": 2})
        return shop.name  # a cache key is made of nothing else

    @task
    def pass_on(text: str) -> str:
        return text

    @materialize(cached, cache_policy=INPUTS, persist_result=True, result_serializer="json")
    def keep(text: str) -> str:
        return text

    @materialize(broken, retries=1)
    def fail(text: str) -> None:
        raise ValueError(text)

    @materialize(mapped)
    def each(text: str) -> str:
        return text

    @materialize(end)
    def finish(text: str | None) -> None:
        pass

    @flow(task_runner=task_runner)
    def send() -> None:
        made = make.submit()
        passed: Any = pass_on.submit(made)  # type: ignore[call-overload]
        keep.submit(passed).result()
        keep.submit(passed).result()
        fail.submit(passed).wait()
        each.map(pass_on.map([made])).result()
        finish.submit("last").result()

    send()
    wait_until(lambda: events(end))
    inferred = [] if runner_name == "processes" else [first, second]
    found = events(first, second, cached, broken, mapped, outside)
    makings = [(name, key, more) for name, key, more, _ in found if name != "referenced"]
    assert sorted(makings, key=str) == sorted(
        [
            ("materialization.succeeded", first, {}),
            ("materialization.succeeded", second, {"rows": 2}),
            ("materialization.succeeded", cached, {}),
            ("materialization.failed", broken, {}),
            ("materialization.succeeded", mapped, {}),
        ],
        key=str,
    )
    sources = {key: sorted(assets) for name, key, _, assets in found if name != "referenced"}
    assert sources == {
        first: [outside],
        second: [outside],
        cached: sorted(inferred),
        broken: sorted(inferred),
        mapped: sorted(inferred),
    }
    referenced = [key for name, key, *_ in found if name == "referenced"]
    assert sorted(referenced) == sorted([outside, *inferred * 3])


@pytest.mark.fact(NAME, "lost")
@pytest.mark.fact(NAME, "silent")
def test_a_call_that_returns_none_has_no_lineage(shop: Shop) -> None:
    """The asset of a task that is called is a source of the next only if it returns something.

    A task that crashed before has sent nothing.
    """

    @materialize(shop.key("crashed"))
    def crash() -> None:
        raise SystemExit(3)

    @materialize(shop.key("a"))
    def nothing() -> None:
        pass

    @materialize(shop.key("b"))
    def something() -> list[int]:
        return [1]

    @materialize(shop.key("c"))
    def finish(*values: object) -> None:
        pass

    @flow
    def call() -> None:
        with suppress(SystemExit):
            crash()
        finish(nothing(), something())

    call()
    wait_until(lambda: events(shop.key("c")))
    assert events(shop.key("c"))[0][-1] == [shop.key("b")]
    assert not events(shop.key("crashed"))


@pytest.mark.fact(NAME, "keys")
def test_keys() -> None:
    """A key is a URI with a scheme of lower-case letters and digits, and few odd characters."""
    for key in ("file://a", "s3://bucket/a-b_c.csv", "postgres://x:1/é", "9://a@b=c,d;e!"):
        assert Asset(key=key).key == key
    for character in " \n\t\"'[]{}<>#?&%|^`\\":
        with pytest.raises(ValueError, match="Asset key cannot contain"):
            Asset(key=f"file://a{character}")
    for key in ("a", "/tmp/a", "File://a", "postgres+psycopg://a", "file:a"):
        with pytest.raises(ValueError, match="must be a valid URI"):
            Asset(key=key)
    assert Asset(key="file://" + 505 * "a")
    with pytest.raises(ValueError, match="512"):
        Asset(key="file://" + 506 * "a")


@pytest.mark.fact(NAME, "kept")
@pytest.mark.fact(NAME, "graph")
def test_what_the_server_keeps() -> None:
    """Events are kept for 7 days by default, and the server has no API for assets."""
    assert get_current_settings().server.events.retention_period == timedelta(days=7)
    with get_client(sync_client=True) as client:
        assert client._client.post("/events/filter", json={}).is_success
        with pytest.raises(PrefectHTTPStatusError, match="404 Not Found"):
            client._client.post("/assets/filter", json={})


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "recorded")
@pytest.mark.guarantee(NAME, "only")
def test_with_postgresql(live_server: str, tmp_path: Path) -> None:
    """A server with PostgreSQL, and with the settings that it has by default, keeps the same."""
    script = shutil.copy(assets.__file__, tmp_path / "make_files.py")
    shown = subprocess.run(
        [sys.executable, script],
        env=environment(live_server, tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=patience(),
        check=True,
    ).stdout.splitlines()
    both = "['file://shop/totals.csv', 'file://shop/report']"
    assert [line for line in shown if line.startswith("made:")] == [f"made: {both}"] * 2
    assert "file://shop/orders.csv has changed" in shown[2]
