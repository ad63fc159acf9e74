# SPDX-License-Identifier: Apache-2.0
"""What people get wrong."""

from __future__ import annotations


class Mistake(ValueError):
    """What a person can mend; the message is one line that says what, where and how."""
