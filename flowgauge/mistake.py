# SPDX-License-Identifier: Apache-2.0
"""The base class of errors that a user can fix."""

from __future__ import annotations


class Mistake(ValueError):
    """A user's mistake; its one-line message says what is wrong, where, and how to fix it."""
