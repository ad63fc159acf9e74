# SPDX-License-Identifier: Apache-2.0
"""Benchmarks run under several versions of Prefect, and one that fails does not stop the others.

Nothing is downloaded: a stand-in for uv creates environments that use this interpreter.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.cli.app import run
from flowgauge.measure.prefect_versions import (
    Place,
    VersionError,
    find_project,
    find_uv,
    installing,
    make_environment,
    measure,
    measuring,
    read_versions,
)
from flowgauge.results.rows import Results

BENCHMARKS = """
def test_sum(paired):
    paired(
        lambda: sum(range(2000)),
        check=lambda total: total == 1999000,
        id="sum", group="features", figure="time",
    )

def test_wrong(paired):
    paired(lambda: 1, check=lambda one: one == 2, id="wrong", group="features", figure="time")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with a benchmark that passes and one that fails."""
    # Otherwise pytest-benchmark assumes parallel tests, whose rounds disturb each other.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    folder = tmp_path / "project"
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\nflowgauge = true\n\n[dependency-groups]\ntest = []\n"
    )
    (folder / "benchmarks" / "test_sums.py").write_text(BENCHMARKS)
    return folder


@pytest.fixture
def uv(tmp_path: Path) -> Path:
    """Return a fake uv that finds all versions except 3.6; it prints its folder and arguments."""
    program = tmp_path / "bin" / "uv"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'echo "$PWD: $*"\n'
        'case "$*" in *"pip install"*) exit 0;; *3.6*) echo "no such version"; exit 1;; esac\n'
        'for place; do :; done; mkdir -p "$place/bin"\n'
        f'printf \'#!/bin/sh\\nexec "{sys.executable}" "$@"\\n\' > "$place/bin/python"\n'
        'chmod +x "$place/bin/python"\n'
    )
    program.chmod(0o755)
    return program


@given(
    st.lists(
        st.one_of(
            st.builds("3.{}".format, st.integers(6, 99)),
            st.builds("3.{}.{}".format, st.integers(6, 99), st.integers(0, 99)),
        ),
        min_size=1,
    )
)
def test_each_version_is_taken_once_in_order(wanted: list[str]) -> None:
    """Versions are taken in the given order, and one that is given twice is taken only once."""
    assert list(read_versions(" ,".join(wanted))) == sorted(set(wanted), key=wanted.index)


@pytest.mark.parametrize("text", ["", "3.7,", "3", "3.7.x", "latest", "3.5", "2.20", "4.0", "3.7;"])
def test_an_invalid_version_is_reported(text: str) -> None:
    """What is not a version, or not one that Flowgauge supports, is reported in one line."""
    with pytest.raises(
        VersionError, match=r"--prefect .*(is not a version|is not at least)"
    ) as failure:
        read_versions(text)
    assert "\n" not in str(failure.value)


def test_a_folder_without_benchmarks_is_reported(project: Path) -> None:
    """For a folder in which nothing could be measured, the error says what is wrong with it."""
    assert find_project(project) == project
    (project / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(VersionError, match='no dependency group "test"'):
        find_project(project)
    (project / "pyproject.toml").write_text("[")
    with pytest.raises(VersionError, match="is not valid TOML"):
        find_project(project)
    with pytest.raises(VersionError, match="no benchmarks folder"):
        find_project(project / "benchmarks")


def test_without_uv_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """If uv is missing, the error says how to install it."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(VersionError, match="pip install uv"):
        find_uv()


def test_the_commands(tmp_path: Path) -> None:
    """The benchmarks' dependencies are installed with another Prefect, and only benchmarks run."""
    place = Place("3.7", tmp_path / "3.7")
    venv, install = installing("uv", tmp_path, place)
    assert venv[-2:] == (sys.executable, str(tmp_path / "3.7" / "environment"))
    assert install[install.index("--python") + 1] == str(place.python)
    assert install[install.index("--group") + 1] == f"{tmp_path}/pyproject.toml:test"
    assert install[install.index("--overrides") + 1] == str(tmp_path / "3.7" / "prefect.txt")
    assert measuring(place, "submit")[-2:] == ("-k", "submit")
    assert "-k" not in measuring(place, None)
    assert measuring(place, None)[:5] == (
        *(str(place.python), "-m", "pytest", "benchmarks", "--benchmark-only"),
    )


@pytest.mark.parametrize(
    ("version", "wanted"), [("3.8", "prefect==3.8.*\n"), ("3.8.7", "prefect==3.8.7\n")]
)
def test_an_environment_has_its_own_prefect(
    uv: Path, project: Path, tmp_path: Path, version: str, wanted: str
) -> None:
    """The requirement is the given version, or any release of the given series.

    uv runs outside the project's folder, so that it does not find the project's own pins.
    """
    place = Place(version, tmp_path / version)
    assert make_environment(str(uv), project, place) is None
    assert (place.folder / "prefect.txt").read_text() == wanted
    called = place.log.read_text().splitlines()
    assert [line.split()[:2] for line in called] == [["/:", "venv"], ["/:", "pip"]]


def test_a_version_that_cannot_be_installed(uv: Path, project: Path, tmp_path: Path) -> None:
    """If uv fails, one line names the log with uv's output, and nothing more is tried."""
    place = Place("3.6", tmp_path / "3.6")
    failure = make_environment(str(uv), project, place)
    assert failure == f"Prefect 3.6 could not be installed: see {place.log}"
    assert place.log.read_text().splitlines()[1:] == ["no such version"]


@pytest.mark.nightly
def test_results_are_kept_if_a_benchmark_fails(uv: Path, project: Path, tmp_path: Path) -> None:
    """A version's results are kept even if a benchmark fails; old ones do not pass as new."""
    place = Place("3.8", tmp_path / "3.8")
    make_environment(str(uv), project, place)
    whole = measure(project, place, "sum and not wrong")
    assert (whole.failure, whole.results and [row.id for row in whole.results.rows]) == (
        None,
        ["sum"],
    )
    part = measure(project, place)
    assert part.results is not None
    assert "sum" in {row.id for row in part.results.rows}
    assert part.failure == (f"Prefect 3.8: some benchmarks failed: see {place.log}")
    assert "test_wrong" in place.log.read_text()
    none = measure(project, place, "nothing_of_this_name")
    assert none.results is None
    assert none.failure == f"Prefect 3.8 was not measured: see {place.log}"


@pytest.mark.nightly
def test_a_version_that_fails_does_not_stop_others(
    uv: Path,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A version that fails is reported in one line; the others are measured and shown.

    The exit status is then 1, or 2 if no version could be measured.
    """
    monkeypatch.setenv("PATH", str(uv.parent), prepend=":")
    monkeypatch.chdir(project)
    output = tmp_path / "out"
    command = ["matrix", "--prefect", "3.6,3.7,3.8", "--only", "sum and not wrong"]
    assert run([*command, "-o", str(output)]) == 1
    out, err = capsys.readouterr()
    assert [line for line in err.splitlines() if "could not" in line] == [
        f"Prefect 3.6 could not be installed: see {output / '3.6' / 'log.txt'}"
    ]
    assert "sum" in out
    assert out.splitlines()[-1] == str(output / "index.html")
    for version in ("3.7", "3.8"):
        assert [row.id for row in Results.load(output / version / "results.json").rows] == ["sum"]
    assert "<svg" in (output / "index.html").read_text()
    assert run(["matrix", "--prefect", "3.6", "-o", str(output)]) == 2
    assert "nothing was measured" in capsys.readouterr().err
