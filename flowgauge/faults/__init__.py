# SPDX-License-Identifier: Apache-2.0
"""Faults on purpose: what a test lets go wrong, in which task, at which point."""

from flowgauge.faults.errors import InjectedFault

__all__ = ["InjectedFault"]
