# SPDX-License-Identifier: Apache-2.0
"""Keep an import from running flows and from asking a Prefect server."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

_RUN = "is run"
_SERVED = "is served or deployed"
_RUNNERS = {
    "Flow": (("__call__", _RUN), ("serve", _SERVED), ("deploy", _SERVED)),
    "Task": (
        ("__call__", _RUN),
        ("submit", _RUN),
        ("map", _RUN),
        ("delay", _RUN),
        ("apply_async", _RUN),
        ("serve", _SERVED),
    ),
}


class Blocked(RuntimeError):
    """What an import wanted to do; it is raised in the imported code."""


class RunBlocked(Blocked):
    """The import wanted to run, serve or deploy something.

    Args:
        subject: What it was, such as `flow 'etl'`.
        done: What was done with it.
    """

    def __init__(self, subject: str, done: str) -> None:
        super().__init__(f"{subject} {done} while its file is imported")
        self.subject, self.done = subject, done


class RequestBlocked(Blocked):
    """The import wanted to send a request to a Prefect server.

    Args:
        request: Its method and path, such as `GET /variables/name/x`.
    """

    def __init__(self, request: str) -> None:
        super().__init__(f"{request}: there is no Prefect server while a project is checked")
        self.request = request


@contextmanager
def blocked(note: Callable[[RunBlocked], None]) -> Iterator[None]:
    """Make flows and tasks, and requests of Prefect's clients, raise `Blocked`.

    Args:
        note: Called for each run that is blocked, as the imported code may catch its error.

    Yields:
        Nothing.
    """
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
    from prefect.flows import Flow
    from prefect.tasks import Task

    with ExitStack() as stack:
        for made in (Flow, Task):
            kind = made.__name__
            for name, done in _RUNNERS[kind]:
                instead = _refusal(getattr(made, name), kind.lower(), done, note)
                stack.enter_context(patch.object(made, name, instead))
        stack.enter_context(patch.object(PrefectHttpxSyncClient, "send", _refuse_request))
        stack.enter_context(patch.object(PrefectHttpxAsyncClient, "send", _refuse_async_request))
        yield


def _refusal(
    replaced: Callable[..., Any], kind: str, done: str, note: Callable[[RunBlocked], None]
) -> Callable[..., NoReturn]:
    @functools.wraps(replaced)
    def refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
        error = RunBlocked(f"{kind} {self.name!r}", done)
        note(error)
        raise error

    return refuse


def _refuse_request(_: Any, request: Any, *__: Any, **___: Any) -> NoReturn:
    raise RequestBlocked(f"{request.method} {request.url.path.removeprefix('/api')}")


async def _refuse_async_request(_: Any, request: Any, *__: Any, **___: Any) -> NoReturn:
    raise RequestBlocked(f"{request.method} {request.url.path.removeprefix('/api')}")
