# SPDX-License-Identifier: Apache-2.0
"""A Prefect server that runs already: checked, used as it is, and never cleaned up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flowgauge.compat.features import usable
from flowgauge.compat.names import SAVED_WORK
from flowgauge.compat.repeated_work import saved_work
from flowgauge.mistake import Mistake
from flowgauge.server.isolation import forget_user_settings

ANSWER_SECONDS = 10
"""Seconds that a server has to answer."""
_OPTION = "--flow-prefect-api"


class ExistingServerError(Mistake):
    """An unusable Prefect server; the one-line message says why and what to do."""


def check_existing_server(url: str) -> str:
    """Check that a Prefect server of the version installed here answers at an address.

    Args:
        url: The address of its API, which `PREFECT_API_URL` names already.

    Returns:
        Its version.

    Raises:
        ExistingServerError: If the address is invalid, nothing or something else answers there, or
            the server refuses or has another version.
    """
    if not is_address(url):
        raise ExistingServerError(f"{_OPTION} {url}: not an address like http://10.0.0.5:4200/api")
    import httpx
    from prefect import __version__
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    forget_user_settings()
    once: dict[Any, Any] = {
        PREFECT_API_REQUEST_TIMEOUT: ANSWER_SECONDS,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False,
        PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    try:
        with temporary_settings(once), get_client(sync_client=True) as client:
            version = client.api_version()
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise ExistingServerError(
                f"{_OPTION} {url}: the server refuses pytest (status {code}); set"
                " PREFECT_API_AUTH_STRING or PREFECT_API_KEY to what it expects"
            ) from None
        raise _something_else(url) from None
    except httpx.TransportError as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ExistingServerError(
            f"{_OPTION} {url}: no Prefect server answers ({reason}); start one with"
            " `prefect server start --host 0.0.0.0`"
        ) from None
    except ValueError:
        raise _something_else(url) from None
    if version != __version__:
        raise ExistingServerError(
            f"{_OPTION} {url}: the server has Prefect {version}, but pytest has {__version__};"
            " install the same version on both"
        )
    return version


def is_address(url: str) -> bool:
    """Return whether a text can be the address of an API."""
    try:
        parts = urlsplit(url)
        # A wrong port is noticed when it is read.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _something_else(url: str) -> ExistingServerError:
    return ExistingServerError(
        f"{_OPTION} {url}: what answers there is not the API of a Prefect server, whose address"
        " ends with /api"
    )


@contextmanager
def existing_server(home: Path, url: str, *, as_shipped: bool) -> Iterator[str]:
    """Let the flows of this process use a server that runs already.

    Args:
        home: The folder of the pytest run; in its environment `PREFECT_API_URL` names the server.
        url: The address of its API.
        as_shipped: Whether this process does all the work that stock Prefect does, for benchmarks.

    Yields:
        The address.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    forget_user_settings()
    # As with the server of a pytest run; see `leased_harness`.
    no_heartbeat: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with contextlib.ExitStack() as stack:
        stack.enter_context(temporary_settings(no_heartbeat))
        if not as_shipped and usable(SAVED_WORK, home):
            stack.enter_context(saved_work())
        yield url
