# SPDX-License-Identifier: Apache-2.0
"""The public names, which tests of other projects may use."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import FunctionType

import pytest

import flowgauge

PACKAGE = Path(flowgauge.__file__).parent


def test_each_public_name_can_be_imported() -> None:
    """Every name of `flowgauge.__all__` can be imported, and type checkers see the same one."""
    typed: dict[str, tuple[str, str]] = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flowgauge."):
            typed |= {str(it.asname): (str(node.module), it.name) for it in node.names}
    assert sorted(typed) == sorted(flowgauge.__all__)
    for public, (module, name) in typed.items():
        assert getattr(flowgauge, public) is getattr(sys.modules[module], name)
    assert set(flowgauge.__all__) <= set(dir(flowgauge))


def public_functions() -> Iterator[tuple[str, FunctionType]]:
    """Yield each public function and method that `flowgauge` exports, with its name."""
    for name in flowgauge.__all__:
        exported = getattr(flowgauge, name)
        if isinstance(exported, FunctionType):
            yield name, exported
        elif isinstance(exported, type):
            for part, function in vars(exported).items():
                if isinstance(function, FunctionType) and not part.startswith("_"):
                    yield f"{name}.{part}", function


def test_public_functions_document_their_arguments() -> None:
    """Each public function and method describes its arguments and what it returns."""
    lacking = []
    for name, function in public_functions():
        text = function.__doc__ or ""
        signature = inspect.signature(function)
        parameters = [parameter for parameter in signature.parameters if parameter != "self"]
        lacking += [
            f"{name}: {p}"
            for p in parameters
            if not re.search(rf"^ +\*{{0,2}}{p}: ", text, re.MULTILINE)
        ]
        returns = signature.return_annotation not in ("None", None)
        if parameters and returns and not re.search("^ +(Returns|Yields):", text, re.MULTILINE):
            lacking.append(f"{name}: what it returns")
    assert lacking == []
    assert len(dict(public_functions())) > 20


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    """A name that is not public raises the usual AttributeError."""
    with pytest.raises(AttributeError, match="module 'flowgauge' has no attribute 'Clock'"):
        flowgauge.Clock  # noqa: B018


def test_importing_the_package_imports_none_of_its_modules() -> None:
    """`import flowgauge` imports none of its modules: each name is imported when it is used."""
    code = "import sys, flowgauge; print([m for m in sys.modules if m.startswith('flowgauge.')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_type_checkers_know_that_it_is_typed() -> None:
    """The package has the marker that PEP 561 requires."""
    assert files("flowgauge").joinpath("py.typed").is_file()


def test_options_have_their_own_prefix(pytester: pytest.Pytester) -> None:
    """All options begin with `--flow-`; those of a plugin without that prefix do not clash."""
    pytester.makeconftest(
        """
        def pytest_addoption(parser):
            group = parser.getgroup("another plugin")
            for option in ("runners", "workers", "full", "resume", "workflow", "seed"):
                group.addoption(f"--{option}")
        """
    )
    helped = pytester.runpytest_subprocess("--help").stdout.str()
    (ours,) = re.findall(
        r"^task runners and reports \(flowgauge\):\n(.*?)\n\n", helped, re.M | re.S
    )
    options = re.findall(r"^  (--\S+?)(?:=| |$)", ours, re.MULTILINE)
    assert len(options) > 10
    assert all(option.startswith("--flow-") for option in options), options
