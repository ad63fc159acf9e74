# SPDX-License-Identifier: Apache-2.0
"""A pattern file that would not work once it is copied is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.catalogue.catalogue import problems
from tests.flowgauge.catalogue.test_headers import PATTERN, placed

OPTIONAL = """\
# [tool.flowgauge]
# optional-dependencies = ["numpy<3"]
# ///
'''""".replace("'''", '"""')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of an empty catalogue."""
    return tmp_path / "patterns"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("prefect>=3.8,<4", "prefect>=3.8", '"prefect>=3.8" has no upper bound'),
        ("prefect>=3.8,<4", "prefect>=<4", '"prefect>=<4" is not a requirement'),
        ("async def main(", "async def start(", "has no main()"),
        ("    asyncio.run(main())", "    asyncio.run(None)", "has no main()"),
        ('if __name__ == "__main__":', "if True:", "has no main()"),
        ("import json", "import patterns.retries.only_on", "another pattern"),
        ("import json", "from .only_on import json", "another pattern (.only_on)"),
        ("import json", "from . import only_on", "another pattern (.)"),
        ("import json", "import flowgauge.runners.table", "imports flowgauge.runners.table"),
        (
            "import json",
            "import numpy.linalg",
            "imports numpy, which is not among its dependencies",
        ),
        ("    import asyncio", "    from httpx import get", "imports httpx, which"),
    ],
)
def test_code_that_cannot_be_copied_alone_is_reported(
    root: Path, old: str, new: str, fault: str
) -> None:
    """Anything that would keep a file from working when copied alone is reported as one problem."""
    assert old in PATTERN
    (found,) = problems(placed(root, PATTERN.replace(old, new, 1)))
    assert found.startswith("patterns/retries/backoff.py: ")
    assert fault in found


def test_a_pattern_hides_no_module_of_the_standard_library(root: Path) -> None:
    """A script called `secrets.py` would be imported by all that need `secrets`, next to it too."""
    found = problems(placed(root, PATTERN, name="retries/secrets"))
    hides = 'patterns/retries/secrets.py: hides the module "secrets" of the standard library'
    assert [each.partition(": rename")[0] for each in found if "hides" in each] == [hides]


def test_a_pattern_that_is_referred_to_exists(root: Path) -> None:
    """A name in backticks that begins with an existing topic must be the name of a pattern."""
    placed(root, name="tasks/folder/folder")
    known = "see `tasks/folder`, `retries/backoff` and `no_topic/at_all`"
    assert problems(placed(root, PATTERN.replace("Errors that stay", known))) == []
    (found,) = problems(placed(root, PATTERN.replace("Errors that stay", "see `tasks/folders`")))
    assert found == (
        'patterns/retries/backoff.py: refers to "tasks/folders", but there is no such pattern'
    )


@pytest.mark.parametrize("bound", ["<4", "<=3.9", "==3.8.8", "~=3.8", "[dask]>=3.8,<4"])
def test_a_bounded_dependency_is_no_problem(root: Path, bound: str) -> None:
    """Any way to bound a version from above is accepted."""
    assert problems(placed(root, PATTERN.replace(">=3.8,<4", bound))) == []


def test_an_optional_package_is_imported_where_it_is_needed(root: Path) -> None:
    """A function may import an optional package; an import at the top of the module is reported."""
    text = PATTERN.replace('# ///\n"""', OPTIONAL, 1)
    inside = text.replace("    print(json,", "    import numpy\n\n    print(numpy, json,")
    assert "import numpy" in inside
    assert problems(placed(root, inside)) == []
    (found,) = problems(placed(root, text.replace("import json", "import json, numpy", 1)))
    assert found.endswith("numpy, which is optional: import it in the function that needs it")


def test_an_optional_package_is_bounded_too(root: Path) -> None:
    """An optional dependency needs an upper bound, as a required one does."""
    text = PATTERN.replace('# ///\n"""', OPTIONAL.replace("<3", ">=2"), 1)
    (found,) = problems(placed(root, text))
    assert found.endswith('dependency "numpy>=2" has no upper bound: add one, such as "<4"')
