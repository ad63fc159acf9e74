# SPDX-License-Identifier: Apache-2.0
"""What the entrypoint of a deployment refers to."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flowgauge.check.loaded import Target

_FORM = "write it as `path/to/file.py:flow`"


class EntrypointError(ValueError):
    """An entrypoint that refers to nothing.

    Args:
        what: What is wrong.
        mend: What to do.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.mend = mend


@dataclass(frozen=True)
class Entrypoint:
    """An entrypoint: what to import, and the flow in it."""

    target: Target
    flow: str


def read(text: str, folder: Path, files: Iterable[Path]) -> Entrypoint:
    """Read an entrypoint in the forms that Prefect's `import_object` accepts.

    Args:
        text: `path/to/file.py:flow`, `package.module:flow` or `package.module.flow`.
        folder: The folder where `prefect deploy` would run.
        files: The project's files that define flows, to suggest one.

    Returns:
        What it refers to.

    Raises:
        EntrypointError: If it has another form, or there is no such file.
    """
    if ".py:" in text:
        path, _, flow = text.rpartition(":")
        file = Path(os.path.realpath(folder / path))
        if not file.is_file():
            raise EntrypointError(f"there is no file {path!r}", _nearest(path, folder, files))
        return Entrypoint(Target(folder, str(file)), flow)
    if text.endswith(".py"):
        raise EntrypointError(f"{text!r} names a file but no flow", _FORM)
    module, _, flow = text.rpartition(":" if ":" in text else ".")
    if not module or not flow or "/" in module:
        raise EntrypointError(f"{text!r} is no entrypoint", _FORM)
    return Entrypoint(Target(folder, module, is_file=False), flow)


def did_you_mean(word: str, known: Iterable[str], alike: float = 0.6) -> str:
    """Return a question that names the known word nearest to one, empty if none is near.

    Args:
        word: The word.
        known: The words that exist.
        alike: How alike they must be, from 0 to 1.

    Returns:
        The question.
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=alike)
    return f"did you mean {near[0]!r}?" if near else ""


def _nearest(path: str, folder: Path, files: Iterable[Path]) -> str:
    """Return what to do about a path that does not exist."""
    known = [os.path.relpath(file, folder) for file in files]
    name = os.path.basename(path)
    same_name = [file for file in known if os.path.basename(file) == name]
    if len(same_name) == 1:
        return f"did you mean {same_name[0]!r}?"
    return did_you_mean(path, known) or f"name a file as seen from the folder {folder.name!r}"
