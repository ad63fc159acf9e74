# SPDX-License-Identifier: Apache-2.0
"""What the rows that costs were fitted to say about the errors of others."""

from __future__ import annotations

import numpy as np
import pytest

from flowgauge.predict.fitting import _unfitted


def test_residuals_are_as_large_as_those_of_other_rows() -> None:
    """The more a row decides the costs, the more its residual is enlarged, up to a limit.

    Each of three equal rows decides a third of a cost, the fourth all of another one.
    """
    slopes = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = _unfitted(np.array([0.3, -0.3, 0.0, 0.1]), slopes)
    third = (2 / 3) ** 0.5
    assert found.tolist() == pytest.approx([0.3 / third, -0.3 / third, 0.0, 0.1 / 0.1**0.5])
