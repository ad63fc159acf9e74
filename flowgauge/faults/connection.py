# SPDX-License-Identifier: Apache-2.0
"""This process's connection to the Prefect server, which a fault can interrupt."""

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
    """Refuses requests below Prefect's client, whose own retries and waits then apply.

    HTTP requests and the websocket that carries events (and so the states of task runs) are
    counted separately, so that failures of one do not use up those of the other.
    """

    def __init__(self, process: FaultProcess) -> None:
        """Start with a working connection."""
        self._process = process
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._remaining = {"http": 0, "websocket": 0}

    def lose(self, requests: int) -> None:
        """Lose the connection.

        Args:
            requests: How many HTTP requests fail, and how often the websocket breaks or can't be
                opened.
        """
        with self._lock:
            self._plan = self._process.plan
            for kind in self._remaining:
                self._remaining[kind] += requests

    def refuses(self, kind: str, host: str, port: int | None) -> bool:
        """Return whether a request fails, and count it if it does.

        Args:
            kind: "http" or "websocket".
            host: The host it goes to.
            port: The port it goes to; None is the scheme's default.

        Returns:
            Whether the request fails.
        """
        if not self._remaining[kind]:
            return False
        with self._lock:
            plan = self._process.plan
            if plan is None or self._plan is None or plan.journal != self._plan.journal:
                # The test that lost the connection is over.
                self._remaining = dict.fromkeys(self._remaining, 0)
                return False
            api = urlsplit(plan.api_url)
            if (api.hostname, api.port) != (host, port) or not self._remaining[kind]:
                return False
            self._remaining[kind] -= 1
            return True

    def hooks(self) -> contextlib.ExitStack:
        """Install this below the clients of this process; closing the result removes it."""
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
                # The socket is really closed, so what follows is the library's real behaviour.
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
