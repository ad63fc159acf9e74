# SPDX-License-Identifier: Apache-2.0
"""The Prefect server that the user's settings name, for commands that ask it or write to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flowgauge.mistake import Mistake

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


@contextmanager
def server_in_use(purpose: str) -> Iterator[SyncPrefectClient]:
    """Give a client of the server that Prefect's settings name; none is started in its place.

    Args:
        purpose: What it is for, to complete "no Prefect server".

    Yields:
        The client.

    Raises:
        Mistake: If no server is set, or it can't be reached or answers with an error; one line.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import get_current_settings

    api = get_current_settings().api.url
    if not api:
        raise Mistake(
            f"no Prefect server {purpose}:"
            " prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as error:
        raise Mistake(f"{api} refuses: {str(error).splitlines()[0]}") from None
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        cause = str(error).partition("\n")[0]
        raise Mistake(f"{api} cannot be reached: {cause or type(error).__name__}") from None
