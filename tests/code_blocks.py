# SPDX-License-Identifier: Apache-2.0
"""The code blocks of the README and the pages in `docs/`, and how their commands run here."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def blocks(language: str, page: str) -> list[str]:
    """Return the blocks of a language on a page, whose path is relative to the root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def arguments(command: str) -> list[str]:
    """Return the arguments that run a command of a page in this environment."""
    words = shlex.split(command)
    if words[:3] == ["uvx", "--from", "flowgauge"]:
        words = ["uv", "run", *words[3:]]
    assert words[:2] == ["uv", "run"], command
    return [str(BIN / words[2]), *words[3:]]
