# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D103
# mypy: ignore-errors
"""Tests that would hang for ever: each ends with one line."""

from __future__ import annotations

import time

from orders import ship_all
from prefect import flow, get_client, task
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.deployments import run_deployment
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner


@task
def child():
    return 1


@task
def parent():
    return child.submit().result()


@flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
def family():
    return parent.submit().result()


def test_a_task_waits_for_a_place_that_it_takes(prefect_server):
    family()


@task
def move(source, target, folder):
    with concurrency(source):
        (folder / source).touch()
        while not (folder / target).exists():
            time.sleep(0.01)
        with concurrency(target):
            return target


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def move_both(folder):
    moves = [move.submit("safe", "till", folder), move.submit("till", "safe", folder)]
    return [each.result() for each in moves]


def test_limits_are_taken_in_opposite_orders(prefect_server, tmp_path):
    with get_client(sync_client=True) as client:
        for name in ("safe", "till"):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    move_both(tmp_path)


def test_nobody_serves_the_deployment(prefect_server):
    ship_all.to_deployment("nightly").apply()
    run_deployment("ship-all/nightly", parameters={"orders": []})
