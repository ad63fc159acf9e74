# SPDX-License-Identifier: Apache-2.0
"""Slots that a test leaves taken in limits of a wider scope are given back or told."""

from __future__ import annotations

import pytest

from flowgauge.server.template import cache_folder

CACHE = cache_folder()
TESTS = """
from concurrent.futures import ThreadPoolExecutor
from threading import Event
import pytest
from prefect import flow, get_client, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency, rate_limit

from flowgauge.faults.points import kill_this_process

test_ended, renewed = Event(), Event()

@pytest.fixture(scope="module", autouse=True)
def limits(prefect_server):
    with get_client(sync_client=True) as client:
        for name in ("killed", "held", "busy", "forgotten", "rate"):
            decay = 0.001 if name == "rate" else 0
            client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=name, limit=1, slot_decay_per_second=decay)
            )

@pytest.fixture(scope="module")
def held():
    with concurrency("held", strict=True):
        yield

@task
def die():
    with concurrency("killed", strict=True):
        kill_this_process()

@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.runners("processes")
def test_kills(task_runner, turn):
    def dies():
        with concurrency("killed", strict=True, timeout_seconds=10):
            pass
        die.submit().result()
    assert flow(dies, task_runner=task_runner)(return_state=True).is_failed()


@pytest.fixture(scope="module")
def holder(limits):
    def renew(self, *args, **options):
        stock(self, *args, **options)
        renewed.set()
    stock = SyncPrefectClient.renew_concurrency_lease
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(SyncPrefectClient, "renew_concurrency_lease", renew)
        pool.submit(int).result()
        yield pool

def test_leaves_it_to_the_holder(holder):
    def hold():
        with concurrency("busy", strict=True):
            test_ended.wait()
    holder.submit(hold)
    # What renews the lease has a connection for as long as the slot is taken.
    assert renewed.wait(60)

def test_after_the_holder():
    test_ended.set()

def test_calls():
    rate_limit("rate", strict=True)

def test_asks_late(request):
    request.getfixturevalue("held")

def test_forgets():
    with get_client(sync_client=True) as client:
        client.increment_concurrency_slots(["forgotten"], 1, "concurrency")
"""


@pytest.mark.e2e
def test_slots_are_given_back_or_told(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot of a killed worker is free in the next test; one that nobody gives back is told.

    Neither a slot that a fixture of a wider scope holds is told, nor one that decays.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE.parent))
    monkeypatch.setenv("FLOWGAUGE_PATIENCE", "0.2")
    pytester.makepyfile(test_slots=TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n0")
    result.assert_outcomes(passed=7)
    told = [line for line in result.outlines if line.startswith("note: ")]
    assert told == [
        "note: test_slots.py::test_forgets left 1 slot of the concurrency limit 'forgotten' taken;"
        " release what the test takes, or no later test gets it"
    ]
