# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D103
# mypy: ignore-errors
"""Tests of the project, written as people write them: without types and without docstrings."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orders import Order, charge_one, count_visits, prices, ship, ship_all
from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_URL

from flowgauge.strategies import fault_plans, parameters

settings.register_profile("flows", deadline=None, max_examples=5, derandomize=True, database=None)
settings.load_profile("flows")


@pytest.mark.parametrize("time", range(2))
def test_nobody_has_been_here(prefect_server, time):
    assert count_visits() == 1


@pytest.mark.asyncio
async def test_async_flows_are_awaited(prefect_server, run_history):
    state = await prices(["lamp", "cable"], return_state=True)
    assert await state.aresult() == 9
    assert run_history(state).matches("Pending Running Completed")


@given(
    given=parameters(ship_all, ledger=st.none()),
    plan=fault_plans(ship, times=2, at=["before the body"], at_most=1),
)
def test_orders_are_shipped_once_whatever_fails(virtual_clock, faults, effect_ledger, given, plan):
    plan.apply(faults)
    assert ship_all(**given | {"ledger": effect_ledger}) == sum(o.pieces for o in given["orders"])
    assert effect_ledger.count("shipped") == len(given["orders"])


def test_who_dies_gives_back_what_it_held(virtual_clock, tmp_path):
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="bank", limit=1))
    assert charge_one("a", tmp_path / "died") == "a"
    # It took no more real time than the cluster did.
    assert virtual_clock.elapsed > 120


def test_a_run_becomes_a_workflow(prefect_server, tmp_path):
    state = ship_all([Order(article="lamp"), Order(article="cable")], return_state=True)
    file = tmp_path / "orders.json"
    trace = [sys.executable, "-P", "-m", "flowgauge", "trace", str(state.state_details.flow_run_id)]
    env = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    subprocess.run([*trace, "-o", str(file)], env=env, check=True)
    workflow = json.loads(file.read_text())["workflow"]
    assert len(workflow["specification"]["tasks"]) == 2
