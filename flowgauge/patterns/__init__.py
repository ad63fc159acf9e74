# SPDX-License-Identifier: Apache-2.0
"""The catalogue under a name that is importable in every process where flowgauge is installed.

An installed flowgauge has the patterns beside this file; in a checkout they are beside flowgauge.
"""

from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]
if (_CHECKOUT / "pyproject.toml").is_file():
    __path__.append(str(_CHECKOUT / "patterns"))
