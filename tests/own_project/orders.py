# SPDX-License-Identifier: Apache-2.0
"""The flows of a project of its own; see `test_wheel.py`."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.concurrency.sync import concurrency
from prefect.variables import Variable
from prefect_dask.task_runners import DaskTaskRunner
from pydantic import BaseModel, Field


class Order(BaseModel):
    """What a customer wants."""

    article: str = Field(min_length=1)
    pieces: int = Field(1, gt=0)


@task(retries=2, retry_delay_seconds=3600)
def ship(order: Order, ledger: Any = None) -> int:
    """Send it."""
    if ledger:
        ledger.record("shipped", article=order.article)
    return order.pieces


@flow
def ship_all(orders: Annotated[list[Order], Field(max_length=3)], ledger: Any = None) -> int:
    """Send them all; return the number of pieces."""
    return sum(ship.map(orders, ledger).result())


@task
async def price(article: str) -> int:
    """Ask for the price of an article."""
    await asyncio.sleep(0)
    return len(article)


@flow
async def prices(articles: list[str]) -> int:
    """Ask for all of them at once."""
    return sum(await asyncio.gather(*map(price, articles)))


@task
def charge(account: str, died: Path | None = None) -> str:
    """Charge an account, one at a time; the process dies meanwhile, once."""
    with concurrency("bank", strict=True):
        if died and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return account


CLUSTER: Any = DaskTaskRunner(cluster_kwargs={"n_workers": 1, "threads_per_worker": 1})


@flow(task_runner=CLUSTER)
def charge_one(account: str, died: Path | None = None) -> str:
    """Charge an account on a cluster of its own."""
    return charge.submit(account, died).result()


@flow
def count_visits() -> int:
    """Count how often this flow ran."""
    visits = int(Variable.get("visits", default="0")) + 1
    Variable.set("visits", str(visits), overwrite=True)
    return visits
