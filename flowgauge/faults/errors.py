# SPDX-License-Identifier: Apache-2.0
"""The exceptions that faults raise."""

from __future__ import annotations


class InjectedFault(Exception):
    """The error that an attempt fails with unless the test names another."""


class FaultRefused(Exception):
    """A fault can't strike where the task runs; the one-line message says why, and where it can."""


class Refusal(BaseException):
    """`FaultRefused` inside Prefect's engine, which never retries a `BaseException` like this."""
