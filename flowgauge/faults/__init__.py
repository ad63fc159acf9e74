# SPDX-License-Identifier: Apache-2.0
"""Fault injection: what a test makes go wrong, in which task, at which point."""

from flowgauge.faults.errors import InjectedFault

__all__ = ["InjectedFault"]
