# SPDX-License-Identifier: Apache-2.0
"""Makes the catalogue importable as `flowgauge.patterns` wherever flowgauge is installed.

An installed flowgauge has the patterns next to this file; in a checkout they are next to the
`flowgauge` folder.
"""

from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]
if (_CHECKOUT / "pyproject.toml").is_file():
    __path__.append(str(_CHECKOUT / "patterns"))
