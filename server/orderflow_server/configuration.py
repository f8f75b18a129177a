"""Where the settings of a process come from; what stands earlier here counts.

    flags        orderflow-server serve --address 127.0.0.1:0 --set grace_s=5
    environment  ORDERFLOW_GRACE_S=5
    secrets      a file named `database` in the directory that ORDERFLOW_SECRETS_DIR names
    file         grace_s = 5, in the TOML file that --config or ORDERFLOW_CONFIG names
    defaults     as in `settings`

A name that is no setting is a mistake, except in the directory of secrets, where other things lie
as well. In the environment only what looks like a slip of the pen is taken for one: Kubernetes,
for example, sets ORDERFLOW_PORT where there is a Service named orderflow.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SecretsSettingsSource, SettingsError

from orderflow_server.settings import ENV_PREFIX, Settings, variable

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
SECRETS_VARIABLE = f"{ENV_PREFIX}SECRETS_DIR"

_SIMILAR = 0.8
"""From here on difflib's ratio means a slip: `GRACE` for `GRACE_S`, not `PORT` for anything."""


class BadSettings(Exception):
    """A setting cannot be what it was set to; the text names it, and where it was set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The settings in force.

    Attributes:
        settings: All of them.
        origins: For those that were set: by what, as a person wrote it.
    """

    settings: Settings
    origins: Mapping[str, str]


def load(
    flags: Mapping[str, Any], *, assignments: Sequence[str] = (), config: Path | None = None
) -> Configuration:
    """Reads all sources.

    Args:
        flags: Given on the command line, by the names of the settings.
        assignments: Given there as well, each `name=value`. They count more than flags.
        config: The file.

    Raises:
        BadSettings: Some setting, or the file, is wrong.
    """
    sources = [
        *_assigned(assignments),
        *((name, value, "--" + name.replace("_", "-")) for name, value in flags.items()),
        *_from_environment(),
        *_from_secrets(),
        *_from_file(config),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value, origin in sources:
        if name not in values:
            values[name], origins[name] = value, origin
    try:
        return Configuration(settings=Settings(**values), origins=origins)
    except ValidationError as error:
        raise BadSettings(_sentences(error, origins)) from error


_Source = Iterable[tuple[str, Any, str]]
"""Names, values, and where each stands."""


def _assigned(assignments: Sequence[str]) -> _Source:
    for assignment in reversed(assignments):
        name, is_one, value = assignment.partition("=")
        if not is_one:
            raise BadSettings(f"--set {assignment}: it must be name=value")
        _see_that_it_is_one(name, f"--set {assignment}")
        yield name, value, f"--set {name}"


def _from_environment() -> _Source:
    known = [*map(variable, Settings.model_fields), CONFIG_VARIABLE, SECRETS_VARIABLE]
    for name in map(str.upper, os.environ):
        if name.startswith(ENV_PREFIX) and name not in known and (slip := _meant(name, known)):
            raise BadSettings(f"the variable {name} is no setting: did you mean {slip}?")
    try:
        values = EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise BadSettings(f"{error}: {error.__cause__}") from error
    return [(name, value, variable(name)) for name, value in values.items()]


def _from_secrets() -> _Source:
    directory = os.environ.get(SECRETS_VARIABLE)
    if not directory:
        return []
    if not Path(directory).is_dir():
        raise BadSettings(f"{SECRETS_VARIABLE}: there is no directory {directory}")
    try:
        values = SecretsSettingsSource(Settings, directory, env_prefix="")()
    except (SettingsError, OSError) as error:
        raise BadSettings(f"{SECRETS_VARIABLE}: {error}") from error
    return [(name, value, str(Path(directory, name))) for name, value in values.items()]


def _from_file(path: Path | None) -> _Source:
    if path is None:
        return []
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no TOML
        raise BadSettings(f"the file of settings {path} cannot be read: {error}") from error
    for name in values:
        _see_that_it_is_one(name, f"{path}: {name}")
    return [(name, value, str(path)) for name, value in values.items()]


def _see_that_it_is_one(name: str, where: str) -> None:
    if name in Settings.model_fields:
        return
    slip = _meant(name, list(Settings.model_fields))
    raise BadSettings(f"{where} is no setting" + (f": did you mean {slip}?" if slip else ""))


def _meant(name: str, known: Sequence[str]) -> str | None:
    """What somebody who wrote this name may have meant."""
    prefix = ENV_PREFIX if name.startswith(ENV_PREFIX) else ""
    # Without what they all begin with: it would make all of them similar.
    short = {each.removeprefix(prefix): each for each in known}
    for match in get_close_matches(name.removeprefix(prefix), short, n=1, cutoff=_SIMILAR):
        return short[match]
    return None


def _sentences(error: ValidationError, origins: Mapping[str, str]) -> str:
    problems = []
    for each in error.errors(include_url=False, include_input=False):
        message = each["msg"].removeprefix("Value error, ")
        if not each["loc"]:  # it is about several settings, and names them
            problems.append(f"settings: {message}")
            continue
        name = str(each["loc"][0])
        origin = origins.get(name)
        where = f" (from {origin})" if origin else ""
        problems.append(f"setting {name}{where}: {message[:1].lower()}{message[1:]}")
    return "; ".join(problems)
