# SPDX-License-Identifier: Apache-2.0
"""What is raised where a fault is asked for."""

from __future__ import annotations


class InjectedFault(Exception):
    """What an attempt fails with if a test names nothing else."""


class FaultRefused(Exception):
    """A fault can't strike where the task runs; one line says why and where it can."""


class Refusal(BaseException):
    """The same inside Prefect's engine, which does not retry what is no ordinary error."""
