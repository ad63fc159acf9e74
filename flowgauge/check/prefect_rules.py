# SPDX-License-Identifier: Apache-2.0
"""What Prefect's own models say about a `prefect.yaml`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from flowgauge.check.deployment_file import has_template
from flowgauge.check.entrypoint import did_you_mean
from flowgauge.check.failures import in_one_line
from flowgauge.check.parameters import Steps

_SKIPS = "`prefect deploy` skips the whole file"


@dataclass(frozen=True)
class Rules:
    """What Prefect makes of one deployment.

    Attributes:
        config: The deployment as Prefect reads it; None if it refuses it.
        faults: For each fault where it is, what is wrong, and what to do.
    """

    config: dict[str, Any] | None
    faults: tuple[tuple[Steps, str, str], ...]


def apply_rules(raw: dict[str, Any]) -> Rules:
    """Read one deployment as `prefect deploy` does.

    Args:
        raw: What the file says.

    Returns:
        What Prefect makes of it. Parts with templates are not judged.
    """
    from prefect.cli.deploy._config import _handle_deprecated_schedule_fields
    from prefect.cli.deploy._models import DeploymentConfig, RawScheduleConfig, WorkPoolConfig
    from pydantic import BaseModel, ValidationError

    elsewhere: dict[str, type[BaseModel]] = {
        "work_pool": WorkPoolConfig,
        "schedules": RawScheduleConfig,
    }
    inner = {key: place for place, model in elsewhere.items() for key in model.model_fields}
    faults = list(_unknown_keys(raw, DeploymentConfig.model_fields, (), inner))
    if isinstance(pool := raw.get("work_pool"), dict):
        faults += _unknown_keys(pool, WorkPoolConfig.model_fields, ("work_pool",))
    try:
        config = DeploymentConfig.model_validate(raw).model_dump(exclude_unset=True, mode="json")
    except ValidationError as error:
        return Rules(None, (*faults, *_refused(error, raw)))
    try:
        config = _handle_deprecated_schedule_fields(config)
    except ValueError as error:
        return Rules(config, (*faults, (("schedule",), in_one_line(str(error)), "remove one")))
    faults += _schedule_faults(config)
    faults += _trigger_faults(config)
    faults += _deployment_faults(config)
    return Rules(config, tuple(faults))


def top_level_faults(rest: dict[str, Any]) -> Iterator[tuple[Steps, str, str]]:
    """Find what Prefect refuses in a `prefect.yaml` apart from its deployments.

    Args:
        rest: What the file says, without its deployments.

    Yields:
        Where it is in the file, what is wrong, and what to do.
    """
    from prefect.cli.deploy._models import PrefectYamlModel
    from pydantic import ValidationError

    keys = {field.alias or name for name, field in PrefectYamlModel.model_fields.items()}
    yield from _unknown_keys(rest, keys, ())
    try:
        PrefectYamlModel.model_validate(rest)
    except ValidationError as error:
        yield from _refused(error, rest)


def _unknown_keys(
    given: dict[str, Any],
    known: Iterable[str],
    place: Steps,
    inner: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[Steps, str, str]]:
    """Yield keys that are misspelt or misplaced: Prefect ignores keys that it does not know.

    Args:
        given: What the file says.
        known: The keys that Prefect reads there.
        place: Where it is in the deployment.
        inner: Keys that Prefect reads under another one, and that one.

    Yields:
        Where it is, what is wrong, and what to do.
    """
    known = list(known)
    for key in given:
        if not isinstance(key, str) or key in known:
            continue
        mend = f"move it under `{inner[key]}`" if key in inner else ""
        # People have keys of their own: only a slip is told.
        if mend := mend or did_you_mean(key, known, alike=0.85):
            yield (*place, key), f"Prefect ignores the key {key!r} here", mend


def _refused(error: Any, raw: dict[str, Any]) -> Iterator[tuple[Steps, str, str]]:
    """Yield the first error in each key that Prefect's model refuses."""
    seen = set()
    for detail in error.errors():
        key = detail["loc"][0] if detail["loc"] else ""
        if key in seen:
            continue
        seen.add(key)
        if key in ("schedule", "schedules"):
            yield from _refused_schedules(raw, str(key))
            continue
        # Names of types are in the location, too.
        steps = tuple(s for s in detail["loc"] if isinstance(s, int) or s in _words(raw))
        where = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)
        what = f"`{where.lstrip('.') or key}` is refused: {_message(detail)}"
        yield steps or (str(key),), what, f"correct it: {_SKIPS} otherwise"


def _refused_schedules(raw: dict[str, Any], key: str) -> Iterator[tuple[Steps, str, str]]:
    from prefect.cli.deploy._models import RawScheduleConfig
    from pydantic import ValidationError

    mend = f"correct it: {_SKIPS} otherwise"
    given = raw[key]
    if key == "schedules" and not isinstance(given, list):
        yield (key,), "`schedules` is not a list", mend
        return
    for number, item in enumerate(given if isinstance(given, list) else [given]):
        place: Steps = (key, number) if key == "schedules" else (key,)
        if not isinstance(item, dict):
            kind = type(item).__name__
            what = f"its schedule is a {kind}, not a mapping such as {{cron: ...}}"
            yield place, what, mend
            continue
        try:
            RawScheduleConfig.model_validate(item)
        except ValidationError as error:
            detail = error.errors()[0]
            step = ".".join(map(str, detail["loc"]))
            said = f"{step}: {_message(detail)}" if step else _message(detail)
            yield (*place, *detail["loc"]), f"its schedule is refused: {said}", mend


def _schedule_faults(config: dict[str, Any]) -> Iterator[tuple[Steps, str, str]]:
    from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    for number, item in enumerate(config.get("schedules") or ()):
        plain = {key: value for key, value in item.items() if key != "parameters"}
        if has_template(plain):
            continue

        def convert(plain: dict[str, Any] = plain) -> None:
            DeploymentScheduleCreate(**_schedule_config_to_deployment_schedule(plain))

        if said := _refusal(convert):
            key = next((k for k in ("cron", "interval", "rrule") if k in item), "")
            key = "timezone" if "timezone" in said.casefold() and "timezone" in item else key
            mend = f"correct `{key}`" if key else "give `cron`, `interval` or `rrule`"
            place: Steps = ("schedules", number, key) if "schedules" in config else ("schedule",)
            yield place, f"its schedule is not valid: {said}", mend


def _trigger_faults(config: dict[str, Any]) -> Iterator[tuple[Steps, str, str]]:
    from prefect.cli.deploy._triggers import _initialize_deployment_triggers

    for number, item in enumerate(config.get("triggers") or ()):
        if has_template({key: value for key, value in item.items() if key != "parameters"}):
            continue

        def convert(item: dict[str, Any] = item) -> None:
            _initialize_deployment_triggers("name", [copy.deepcopy(item)])

        if said := _refusal(convert):
            yield ("triggers", number), f"its trigger is not valid: {said}", "correct it"


def _deployment_faults(config: dict[str, Any]) -> Iterator[tuple[Steps, str, str]]:
    """Yield what the object that `prefect deploy` makes of a deployment refuses."""
    from prefect.deployments.runner import RunnerDeployment

    given = {key: config[key] for key in ("tags", "version_type", "paused") if config.get(key)}
    limit = config.get("concurrency_limit")
    if isinstance(limit, dict):
        options = {k: v for k, v in limit.items() if k != "limit" and v is not None}
        options.setdefault("collision_strategy", None)
        given |= {"concurrency_limit": limit.get("limit"), "concurrency_options": options}
    for key, value in given.items():
        if has_template(value):
            continue

        def build(key: str = key, value: Any = value) -> None:
            RunnerDeployment(name="name", **{key: value})

        if said := _refusal(build):
            steps = ("concurrency_limit",) if key.startswith("concurrency") else (key,)
            yield steps, f"`{steps[0]}` is not valid: {said}", "correct it"


def _refusal(build: Callable[[], None]) -> str:
    """Return what Prefect says when something is built, empty if it can be built."""
    from pydantic import ValidationError

    try:
        build()
    except ValidationError as error:
        return _message(error.errors()[0])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return in_one_line(str(error) or error)
    return ""


def _message(detail: Any) -> str:
    """Return what an error of pydantic says."""
    return in_one_line(detail["msg"].removeprefix("Value error, "))


def _words(value: Any) -> set[str]:
    """Return all keys in a value."""
    if isinstance(value, dict):
        return {str(key) for key in value}.union(*map(_words, value.values()))
    if isinstance(value, list):
        return set().union(*map(_words, value))
    return set()
