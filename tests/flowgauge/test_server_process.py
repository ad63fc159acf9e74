# SPDX-License-Identifier: Apache-2.0
"""The server's own process."""

from __future__ import annotations

import logging

import pytest
from prefect import flow, task


@task
def note(number: int) -> int:
    """Return a number."""
    return number


@flow
def notes() -> list[int]:
    """Run tasks whose events the server writes while the next flow run is created."""
    return list(note.map(range(5)).result())


def test_requests_queue_for_the_database(
    prefect_server: str, caplog: pytest.LogCaptureFixture, pytestconfig: pytest.Config
) -> None:
    """Flow runs in a row are never answered "503, try again" by a server that is writing."""
    if pytestconfig.getoption("stock_harness"):
        pytest.skip("the stock harness's server does answer that, now and then")
    with caplog.at_level(logging.DEBUG, logger="prefect.client"):
        for _ in range(8):
            assert notes() == list(range(5))
    refused = [record.message for record in caplog.records if "retryable" in record.message]
    assert refused == []
