# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "cloudpickle>=3,<4", "pydantic>=2.10,<3"]
# ///
"""Use a password or token in a task without a trace of it in parameters, logs, errors or results.

Problem:
    A token that is a parameter of a flow is in the database, in the API and on the page of the run,
    for everybody to read. One that is loaded from a Secret block is not, until the URL that it
    stands in is logged, or is part of the error that ends the task.

Guarantees:
    name: flow and tasks are handed the name of a block; the token is loaded where it is used, so
        the next run uses a new one as soon as it is saved.
    logs: once loaded, the token is `********` in the messages and tracebacks that this process
        logs, also where it is quoted for a URL, as JSON or by `repr`.
    errors: an error in the body of `secret` that has the token in its text, notes, attributes,
        cause or context is replaced by a `RedactedError` with the same text without the token.
    others: any other error leaves the body unchanged.
    text: the token is the text that was saved, even if it looks like a number.
    async: `secret_async` does the same in async tasks.
    checked: a block that does not exist, and a value that is no text or that is too short to be
        told from other text, is refused, without the value in the error.

Prefect:
    parameter (3.8, 3.9): a parameter of a flow is stored in clear, and one of type `SecretStr` as
        `**********`.
    block (3.8, 3.9): the API shows the value of a Secret block as asterisks, but gives it in clear
        to each client that asks for it.
    error (3.8, 3.9): the text of the error that ends a task is in the message of its state, and in
        the log.
    number (3.8, 3.9): `Secret.get()` parses JSON: a password of digits arrives as a number.

Not for:
    What a task returns: a persisted result with the token in it is stored in clear, so return what
    you did with it. `print` without `log_prints`. Parts of a token, and encodings such as Base64. A
    log line of another process, of a library that writes to the terminal by itself, or from before
    the token was loaded. Tracebacks that show variables. Environment variables in `job_variables`,
    which the API shows in clear.

Costs:
    One request for each `secret`. Each log record is searched for the tokens that were loaded.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/configuration/store-secrets
    - https://docs.prefect.io/v3/concepts/blocks
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote, quote_plus

import cloudpickle
from prefect import flow, get_run_logger, task
from prefect.blocks.system import Secret
from pydantic import SecretStr

SHORTEST = 8
"""Characters of a token; a shorter one would be found in text that has nothing to do with it."""

hidden: set[str] = set()
"""The tokens that this process has loaded, in each form in which they turn up in text."""


class RedactedError(RuntimeError):
    """An error whose text had a secret in it."""

    # Python makes the error with the secret its context, which Dask pickles even `from None`.
    __context__ = property(lambda self: None, lambda self, context: None)  # type: ignore[assignment]


def redact(text: str) -> str:
    """Return a text without the tokens that were loaded."""
    for token in sorted(hidden, key=len, reverse=True):
        text = text.replace(token, "********")
    return text


make_record = logging.getLogRecordFactory()


def make_redacted_record(*args: object, **kwargs: object) -> logging.LogRecord:
    """Make a log record without the tokens that were loaded."""
    record = make_record(*args, **kwargs)
    if hidden:
        record.msg, record.args = redact(record.getMessage()), ()
        if record.exc_info and record.exc_info[0]:
            # What formatters print in place of the error.
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip()
    return record


# For every handler of every logger: a filter would have to be added to each of them.
logging.setLogRecordFactory(make_redacted_record)


@contextmanager
def secret(name: str) -> Iterator[str]:
    """Load a token, and keep it out of what is logged and raised.

    Args:
        name: The name of a Secret block that holds a text.

    Yields:
        The token.

    Raises:
        RedactedError: In place of an error that has the token in it.
        ValueError: If the block does not exist, or holds no text that can be hidden.
    """
    block: Any = Secret.load(name)
    with _hide(name, block) as token:
        yield token


@asynccontextmanager
async def secret_async(name: str) -> AsyncIterator[str]:
    """Do what `secret` does, in async code."""
    block: Any = await Secret.aload(name)
    with _hide(name, block) as token:
        yield token


@contextmanager
def _hide(name: str, block: Secret[Any]) -> Iterator[str]:
    # Not `block.get()`, which makes a number of a text of digits.
    token = block.value.get_secret_value()
    if not isinstance(token, str) or len(token) < SHORTEST:
        raise ValueError(f'Secret block "{name}": not a text of at least {SHORTEST} characters')
    forms = {token, quote(token), quote(token, safe=""), quote_plus(token)}
    forms |= {json.dumps(token)[1:-1], repr(token)[1:-1]}
    hidden.update(forms)
    try:
        yield token
    except Exception as error:
        if _mentions(error, forms):
            raise RedactedError(redact(f"{type(error).__name__}: {error}")) from None
        raise


def _mentions(error: Exception, forms: set[str]) -> bool:
    """Return whether a token is in what is logged or stored of an error."""
    printed = "".join(traceback.format_exception(error))
    try:
        stored = cloudpickle.dumps(error)
    except Exception:  # then Prefect can't store it either
        stored = b""
    return any(form in printed or form.encode() in stored for form in forms)


def ask_shop(path: str, token: str) -> str:
    """Stand in for a service that takes its token in the URL."""
    url = f"https://shop.example/{path}?token={quote(token)}"
    get_run_logger().info("GET %s", url)
    if path == "orders/1999":
        raise ConnectionError(f"404 for {url}")
    return f"{path}: 3"


@task
def count_orders(year: int, token: str) -> str:
    """Ask the shop for its orders; `token` is the name of a block."""
    with secret(token) as value:
        return ask_shop(f"orders/{year}", value)


@flow
def report_orders(years: list[int], token: str) -> list[str]:
    """Report the orders of some years."""
    counted = count_orders.map(years, token=token)
    counted.wait()
    return [each.state.message or str(each.result()) for each in counted]


def main() -> None:
    """Ask for two years, of which one fails, and show what is told of it."""
    Secret(value=SecretStr("correct horse battery")).save("demo-shop-token", overwrite=True)
    for line in report_orders([2025, 1999], token="demo-shop-token"):
        print(line)
    Secret.delete("demo-shop-token")


if __name__ == "__main__":
    main()
