"""`orderflow-server settings`: what can be set, to what it is set, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from orderflow_server.configuration import Configuration
from orderflow_server.settings import INTERNAL, Settings, variable


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingLine:
    """One setting.

    Attributes:
        name: In the file, and with `--set`.
        variable: In the environment.
        value: In force. Of a database with a password in its URL: without the password.
        origin: What set it; None: it is the default.
    """

    name: str
    variable: str
    default: Any
    value: Any
    origin: str | None
    meaning: str


def setting_lines(configuration: Configuration) -> list[SettingLine]:
    """All that people may set, in the order in which `Settings` has them."""
    values = configuration.settings.model_dump(mode="json")
    defaults = Settings.model_construct().model_dump(mode="json")
    return [
        SettingLine(
            name=name,
            variable=variable(name),
            default=defaults[name],
            value=values[name],
            origin=configuration.origins.get(name),
            meaning=field.description or "",
        )
        for name, field in Settings.model_fields.items()
        if name not in INTERNAL
    ]


def print_settings(configuration: Configuration) -> None:
    console = Console(markup=False)
    table = Table(show_lines=True)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("meaning", ratio=1)
    for line in setting_lines(configuration):
        value = _shown(line.value)
        if line.origin is not None:
            value += f"\n(default: {_shown(line.default)})\nfrom {line.origin}"
        table.add_row(line.name, value, line.meaning)
    console.print(table)
    console.print(
        "Each is a variable in the environment (grace_s is ORDERFLOW_GRACE_S), a key of the file "
        "that --config or ORDERFLOW_CONFIG names, and --set grace_s=5 on the command line."
    )


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
