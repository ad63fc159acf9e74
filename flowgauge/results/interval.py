# SPDX-License-Identifier: Apache-2.0
"""A figure with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from flowgauge.json_file import EXACT


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % bootstrap interval, in the unit of its sample.

    Attributes:
        median: The figure.
        low: Lower end.
        high: Upper end.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = EXACT

    median: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Self:
        """Return an interval of one figure."""
        return cls(value, value, value)

    def scaled(self, factor: float) -> Interval:
        """Return the interval multiplied by a factor."""
        return Interval(self.median * factor, self.low * factor, self.high * factor)

    @property
    def half_width(self) -> float:
        """The distance from the median to its farther end, as a share of the median."""
        distance = max(self.median - self.low, self.high - self.median)
        if not distance:
            return 0.0
        return distance / abs(self.median) if self.median else math.inf

    @property
    def is_exact(self) -> bool:
        """Whether both ends are the same."""
        return self.low == self.high

    @property
    def is_positive(self) -> bool:
        """Whether it can be drawn on a logarithmic axis."""
        return self.low > 0 and self.median > 0
