# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/pipelines/redact_secrets.py`."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import re
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prefect import flow, get_client, get_run_logger, task
from prefect.blocks.system import Secret
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.runtime import flow_run
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.task_runners import TaskRunner
from pydantic import SecretStr

from flowgauge.waiting import wait_until
from patterns.pipelines import redact_secrets
from patterns.pipelines.redact_secrets import (
    RedactedError,
    redact,
    report_orders,
    secret,
    secret_async,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "pipelines/redact_secrets"


def save(value: Any) -> str:
    """Save a value as a Secret block, and return the block's name."""
    Secret(value=value).save("a-secret", overwrite=True)
    return "a-secret"


def new_token() -> str:
    """Return a token that is different when it is quoted for a URL, or written as JSON."""
    return f'{uuid4()}/"+ é\\'


def forms(token: str) -> set[str]:
    """Return how a token looks in URLs, in JSON, and in what Python prints."""
    quoted = {quote(token), quote(token, safe=""), quote_plus(token)}
    return {token, *quoted, json.dumps(token)[1:-1], repr(token)[1:-1]}


def logged(run_id: UUID, lines: int) -> list[str]:
    """Return the messages of a flow run on the server, as soon as there are so many."""
    runs = LogFilter.model_validate({"flow_run_id": {"any_": [run_id]}})
    with get_client(sync_client=True) as client:

        def read() -> list[str] | None:
            messages = [log.message for log in client.read_logs(runs)]
            return messages if sum("GET" in each for each in messages) >= lines else None

        return wait_until(read, f"{lines} lines of the log")


def all_known_of(run_id: UUID) -> str:
    """Return what the server has of a flow run and of its task runs."""
    with get_client(sync_client=True) as client:
        found = [client.read_flow_run(run_id), *client.read_flow_run_states(run_id)]
        own = FlowRunFilter.model_validate({"id": {"any_": [run_id]}})
        for task_run in client.read_task_runs(flow_run_filter=own):
            found += [task_run, *client.read_task_run_states(task_run.id)]
        return "".join(each.model_dump_json() for each in found)


def stored(folder: Path) -> list[bytes]:
    """Return the pickles in the results that are stored in a folder, as files of Base64 or JSON."""
    files = [path.read_bytes().replace(b"\\n", b"") for path in folder.iterdir()]
    return [
        base64.b64decode(found) for file in files for found in re.findall(rb"gA[\w+/=\n]+", file)
    ]


@pytest.mark.guarantee(NAME, "name")
@pytest.mark.guarantee(NAME, "logs")
@pytest.mark.guarantee(NAME, "errors")
def test_no_trace_of_the_token_is_left(
    task_runner: TaskRunner[Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What the server, the terminal and the result storage have of a run is without the token."""
    token = new_token()
    report = report_orders.with_options(task_runner=task_runner, persist_result=True)
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        state: Any = report([2025, 1999], token=save(token), return_state=True)
        found, failed = state.result()
    run_id = state.state_details.flow_run_id
    url = "https://shop.example/orders/1999?token=********"
    assert found == "orders/2025: 3"
    assert failed.endswith(f"RedactedError: ConnectionError: 404 for {url}")

    messages = logged(run_id, lines=2)
    assert f"GET {url}" in messages
    known = "\n".join([*messages, *capfd.readouterr(), all_known_of(run_id)])
    results = stored(tmp_path)
    assert "404 for" in known
    assert any(b"404 for" in result for result in results)
    for form in forms(token):
        assert form not in known
        assert not any(form.encode() in result for result in results)


@pytest.mark.guarantee(NAME, "name")
def test_the_next_run_uses_the_token_that_was_saved_since() -> None:
    """A token that is saved anew is used by the next task run."""
    used: list[str] = []

    @task
    def note(token: str) -> None:
        with secret(token) as value:
            used.append(value)

    name = save("the first token")
    flow(lambda: note(name))()
    Secret(value="the second token").save(name, overwrite=True)  # type: ignore[arg-type]
    flow(lambda: note(name))()
    assert used == ["the first token", "the second token"]


@pytest.mark.guarantee(NAME, "logs")
@given(token=st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=8))
@example(token='a/b c&d+e=é\\"')
@example(token="line\nfeed\ttab")
def test_whatever_a_token_consists_of_it_is_not_logged(token: str) -> None:
    """A token is not in what handlers print, however it stands in the message or the error."""
    log, printed = logging.getLogger(f"{NAME}.test"), io.StringIO()
    handler = logging.StreamHandler(printed)
    log.addHandler(handler)
    shown = sorted(forms(token))
    block = Secret[Any](value=SecretStr(token))
    try:
        with redact_secrets._hide("test", block):
            for form in shown:
                log.warning("as an argument: %s", form)
                log.warning("in the message: " + form)
                try:
                    raise ValueError(form)
                except ValueError:
                    log.exception("as an error")
    finally:
        log.removeHandler(handler)
        redact_secrets.hidden.clear()
    assert printed.getvalue().count("********") >= 3 * len(shown)
    assert not any(form in printed.getvalue() for form in shown)


@pytest.mark.guarantee(NAME, "logs")
def test_of_a_token_that_begins_like_another_nothing_is_left() -> None:
    """If one token is part of another, no rest of the longer one is left."""
    short, long = "begins alike", "begins alike and goes on"
    try:
        for token in (short, long):
            with redact_secrets._hide("test", Secret[Any](value=SecretStr(token))):
                pass
        assert redact_secrets.redact(f"{long}, {short}") == "********, ********"
    finally:
        redact_secrets.hidden.clear()


def with_note(token: str) -> Exception:
    """Return an error with a note."""
    error = ValueError("refused")
    error.add_note(f"sent {token}")
    return error


def with_attribute(token: str) -> Exception:
    """Return an error whose text is harmless."""
    error = ValueError("refused")
    error.request = {"Authorization": f"Bearer {token}"}  # type: ignore[attr-defined]
    return error


def with_cause(token: str) -> Exception:
    """Return an error that was raised from another one."""
    error = ValueError("refused")
    error.__cause__ = ConnectionError(f"sent {token}")
    return error


def unpicklable(token: str) -> Exception:
    """Return an error with a note that can't be pickled, as one that holds a connection."""
    error = with_note(token)
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


def with_context(token: str) -> Exception:
    """Return an error that was raised while another one was handled."""
    error = ValueError("refused")
    error.__context__ = ConnectionError(f"sent {token}")
    return error


@pytest.mark.guarantee(NAME, "errors")
@pytest.mark.parametrize(
    "make",
    [
        lambda token: ValueError(f"refused: {token}"),
        lambda token: ExceptionGroup("refused", [ValueError(quote(token, safe=""))]),
        with_note,
        with_attribute,
        with_cause,
        with_context,
        unpicklable,
    ],
    ids=["text", "group", "note", "attribute", "cause", "context", "unpicklable"],
)
def test_an_error_with_the_token_is_replaced(make: Callable[[str], Exception]) -> None:
    """An error that has the token somewhere is replaced by one with its type and text."""
    token = new_token()
    with (
        pytest.raises(RedactedError, match=r"(ValueError|ExceptionGroup): refused") as raised,
        secret(save(token)) as value,
    ):
        raise make(value)
    told = "".join(traceback.format_exception(raised.value))
    assert not any(form in told for form in forms(token))


@pytest.mark.guarantee(NAME, "errors")
def test_an_error_of_a_real_request_is_replaced(prefect_server: str) -> None:
    """An HTTP error has the token in its URL, and loses it."""
    token = new_token()
    told = r"404 Not Found.*no-such-shop\?token=\*{8}'"
    with pytest.raises(RedactedError, match=told), secret(save(token)) as value:
        httpx.get(f"{prefect_server}/no-such-shop", params={"token": value}).raise_for_status()


@pytest.mark.guarantee(NAME, "others")
def test_any_other_error_leaves_the_body_as_it_is() -> None:
    """An error without the token is raised itself, also if it can't be pickled."""
    error = OSError(28, "no space left", "orders.txt")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="no space") as raised, secret(save(new_token())):
        raise error
    assert raised.value is error


@pytest.mark.guarantee(NAME, "text")
@pytest.mark.fact(NAME, "number")
@pytest.mark.parametrize("token", ["1234567890", "12345e67", "[1, 2, 3]"])
def test_a_token_is_the_text_that_was_saved(token: str) -> None:
    """A token that is JSON stays a text, where `Secret.get()` returns what it means."""
    name = save(token)
    with secret(name) as value:
        assert value == token
    block: Any = Secret.load(name)
    assert block.get() == json.loads(token)


@pytest.mark.guarantee(NAME, "async")
def test_async_tasks_leave_no_trace_either(capfd: pytest.CaptureFixture[str]) -> None:
    """The log and the error of an async task are without the token."""
    token = new_token()
    name = save(token)

    @task
    async def ask() -> None:
        async with secret_async(name) as value:
            get_run_logger().info("GET %s", value)
            raise ConnectionError(value)

    @flow
    async def asking() -> Any:
        return await ask(return_state=True)  # type: ignore[misc]

    state: Any = asyncio.run(asking(return_state=True))  # type: ignore[arg-type]
    with pytest.raises(RedactedError, match=r"ConnectionError: \*{8}$"):
        state.result()
    messages = logged(state.state_details.flow_run_id, lines=1)
    known = "\n".join([*messages, *capfd.readouterr()])
    assert "GET ********" in known
    assert token not in known


@pytest.mark.guarantee(NAME, "checked")
@pytest.mark.parametrize("value", [dict.fromkeys("users and more", "token-in-a-dict"), "short-7"])
def test_what_can_not_be_hidden_is_refused(value: Any) -> None:
    """A value that is no text, or one of 7 characters, is refused without being told."""
    name = save(value)
    told = f'"{name}": not a text of at least 8'
    with pytest.raises(ValueError, match=told) as raised, secret(name):
        pytest.fail("the body ran")
    assert "token-in-a-dict" not in str(raised.value)
    assert "short-7" not in str(raised.value)


@pytest.mark.guarantee(NAME, "checked")
def test_a_block_that_does_not_exist_is_named() -> None:
    """The error of a block that does not exist names it."""
    with pytest.raises(ValueError, match="no-such-token"), secret("no-such-token"):
        pytest.fail("the body ran")


@pytest.mark.fact(NAME, "parameter")
def test_a_parameter_is_stored_in_clear_or_as_asterisks() -> None:
    """The API shows a text parameter in clear; of a `SecretStr` there are asterisks left."""

    @flow
    def report(token: str, other: SecretStr) -> tuple[UUID, str]:
        return flow_run.get_id(), other.get_secret_value()  # type: ignore[return-value]

    run_id, other = report("in-clear", SecretStr("in-asterisks"))
    assert other == "in-asterisks"
    with get_client(sync_client=True) as client:
        parameters = client.read_flow_run(UUID(str(run_id))).parameters
    assert parameters == {"token": "in-clear", "other": "**********"}


@pytest.mark.fact(NAME, "block")
def test_the_api_gives_a_secret_to_who_asks() -> None:
    """A block's value is asterisks, unless a client asks for secrets."""
    name = save("for-who-asks")
    with get_client(sync_client=True) as client:
        shown, asked = (
            client.read_block_document_by_name(name, "secret", include_secrets=asks).data["value"]
            for asks in (False, True)
        )
    assert set(shown) == {"*"}
    assert asked == "for-who-asks"


@pytest.mark.fact(NAME, "error")
def test_the_text_of_an_error_is_in_the_state_and_in_the_log() -> None:
    """What an error says is stored in the state of the run and logged, whatever it says."""

    @task
    def fail() -> None:
        raise ConnectionError("GET https://shop.example/?token=in-clear")

    state: Any = flow(lambda: fail())(return_state=True)
    assert "token=in-clear" in state.message
    assert any("token=in-clear" in line for line in logged(state.state_details.flow_run_id, 1))


def test_text_is_not_changed_as_long_as_no_token_was_loaded() -> None:
    """Without a token a log record is made as always, with its arguments."""
    redact_secrets.hidden.clear()
    record = redact_secrets.make_redacted_record("name", 20, "file", 1, "%s", ("x",), None)
    assert (record.msg, record.args, redact("token")) == ("%s", ("x",), "token")
