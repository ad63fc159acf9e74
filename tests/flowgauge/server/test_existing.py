# SPDX-License-Identifier: Apache-2.0
"""An address is checked before tests use the Prefect server there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from prefect import __version__
from prefect.settings import PREFECT_API_URL, temporary_settings

from flowgauge.server.existing import ExistingServerError, check_existing_server, is_address


def mistake_of(url: str) -> str:
    """Return the message about an address that can't be used."""
    # Prefect itself refuses what is no address.
    settings = {PREFECT_API_URL: url} if is_address(url) else {}
    with temporary_settings(settings), pytest.raises(ExistingServerError) as raised:
        check_existing_server(url)
    message = str(raised.value)
    assert message.startswith(f"--flow-prefect-api {url}: ")
    assert "\n" not in message
    return message


@contextmanager
def answering(status: int, text: str) -> Iterator[str]:
    """Run a server that answers all requests in one way, and yield the address of its API."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "url", ["over there", "10.0.0.4:4200/api", "ftp://127.0.0.1/api", "http://[127/api", "http://"]
)
def test_what_is_no_address_is_reported(url: str) -> None:
    """What can't be the address of an API is told, with an example of one that can."""
    assert "not an address like http://10.0.0.5:4200/api" in mistake_of(url)


def test_a_server_that_does_not_answer_is_reported() -> None:
    """If nothing answers, the message says why, and how a server is started."""
    message = mistake_of("http://127.0.0.1:1/api")
    assert "no Prefect server answers (" in message
    assert "refused" in message
    assert "`prefect server start --host 0.0.0.0`" in message


@pytest.mark.parametrize(
    ("status", "text", "says"),
    [
        (200, "<html>", "is not the API of a Prefect server, whose address ends with /api"),
        (404, "", "is not the API of a Prefect server, whose address ends with /api"),
        (401, "", "refuses pytest (status 401); set PREFECT_API_AUTH_STRING"),
        (200, '"3.0.1"', "the server has Prefect 3.0.1, but pytest has "),
    ],
)
def test_another_server_is_reported(status: int, text: str, says: str) -> None:
    """What is no Prefect server, refuses pytest or has another version is told in one line."""
    with answering(status, text) as url:
        assert says in mistake_of(url)


def test_a_server_of_the_same_version_is_accepted(prefect_server: str) -> None:
    """The version of a server that can be used is returned."""
    assert check_existing_server(prefect_server) == __version__
