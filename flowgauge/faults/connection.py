# SPDX-License-Identifier: Apache-2.0
"""This process's connection to the Prefect server, which a test may want to be lost."""

from __future__ import annotations

import contextlib
import threading
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect

from flowgauge.faults.plan import Plan
from flowgauge.faults.process import FaultProcess


class LossyConnection:
    """Refuses requests below Prefect's client, whose own retries and waits then follow.

    HTTP requests and the websocket that takes events (and with them the states of task runs)
    are counted apart, so that neither saves the other.
    """

    def __init__(self, process: FaultProcess) -> None:
        """Begin with a connection that works."""
        self._process = process
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._left = {"http": 0, "websocket": 0}

    def lose(self, requests: int) -> None:
        """Lose the connection.

        Args:
            requests: How many HTTP requests fail, and how often the websocket breaks or can't
                be opened.
        """
        with self._lock:
            self._plan = self._process.plan
            for kind in self._left:
                self._left[kind] += requests

    def refuses(self, kind: str, host: str, port: int | None) -> bool:
        """Say whether a request fails, and count it if it does.

        Args:
            kind: "http" or "websocket".
            host: Where it goes.
            port: Where it goes; None is the scheme's own.
        """
        if not self._left[kind]:
            return False
        with self._lock:
            plan = self._process.plan
            if plan is None or self._plan is None or plan.journal != self._plan.journal:
                # That test is over.
                self._left = dict.fromkeys(self._left, 0)
                return False
            api = urlsplit(plan.api_url)
            if (api.hostname, api.port) != (host, port) or not self._left[kind]:
                return False
            self._left[kind] -= 1
            return True

    def hooks(self) -> contextlib.ExitStack:
        """Put this under the clients of this process; closing the result takes it away."""
        stack = contextlib.ExitStack()
        for owner, name, new in (
            (httpx.HTTPTransport, "handle_request", self._request()),
            (httpx.AsyncHTTPTransport, "handle_async_request", self._async_request()),
            (ClientConnection, "send", self._send()),
            (connect, "create_connection", self._connect()),
        ):
            stack.enter_context(patch.object(owner, name, new))
        return stack

    def _request(self) -> Any:
        stock = httpx.HTTPTransport.handle_request

        def handle_request(self_: Any, request: httpx.Request) -> httpx.Response:
            self._check(request)
            return stock(self_, request)

        return handle_request

    def _async_request(self) -> Any:
        stock = httpx.AsyncHTTPTransport.handle_async_request

        async def handle_async_request(self_: Any, request: httpx.Request) -> httpx.Response:
            self._check(request)
            return await stock(self_, request)

        return handle_async_request

    def _check(self, request: httpx.Request) -> None:
        if self.refuses("http", request.url.host, request.url.port):
            raise httpx.ConnectError("connection lost by a fault", request=request)

    def _send(self) -> Any:
        stock = ClientConnection.send

        async def send(self_: Any, *args: Any, **kwargs: Any) -> None:
            uri = self_.protocol.uri
            if self.refuses("websocket", uri.host, uri.port):
                # The socket is really closed, and what comes of that is the library's doing.
                self_.transport.abort()
                await self_.wait_closed()
            await stock(self_, *args, **kwargs)

        return send

    def _connect(self) -> Any:
        stock = connect.create_connection

        async def create_connection(self_: Any) -> ClientConnection:
            uri = urlsplit(self_.uri)
            if self.refuses("websocket", uri.hostname or "", uri.port):
                raise ConnectionRefusedError("connection lost by a fault")
            return await stock(self_)

        return create_connection
