"""Alerting rules whose minutes are seconds, so that what they wait for fits into a scenario.

All durations of a rule file are divided by one number, and nothing else is changed: what is looked
at, at which share of failures or state of a breaker it complains, stays as it is in production.
"""

from __future__ import annotations

import copy
import re
from typing import Any

SPEED = 60
"""A minute in the rules is a second in a scenario."""

_UNITS_MS = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
    "y": 31_536_000_000,
}
_PART = r"\d+(?:ms|[smhdwy])"
_IN_BRACKETS = re.compile(rf"(?<=\[)(?:{_PART}|:)+(?=\])")
_AFTER_OFFSET = re.compile(rf"(?<=\boffset )-?(?:{_PART})+")
_AGE = re.compile(r"(_(?:age|lag)_seconds\b(?:\{[^}]*\})?[\s)]*[<>]=?\s*)(\d+(?:\.\d+)?)")
_OF_GROUP = ("interval", "query_offset")
_OF_RULE = ("for", "keep_firing_for")


def hurried(rules: dict[str, Any], *, speed: int = SPEED) -> dict[str, Any]:
    """The rules with each duration so many times shorter.

    That is: how often a group is evaluated; how long an alert waits and stays; the ranges and
    offsets of its expression; and the number with which a gauge is compared that tells for how
    long something has waited (`..._age_seconds`, `..._lag_seconds`), which is a duration, too.

    Args:
        rules: A rule file of Prometheus, parsed; it is left alone.
        speed: How many times.

    Raises:
        ValueError: One would be shorter than a millisecond, the least that Prometheus knows.
    """
    rules = copy.deepcopy(rules)
    for group in rules["groups"]:
        _shorten(group, _OF_GROUP, speed)
        for rule in group["rules"]:
            _shorten(rule, _OF_RULE, speed)
            rule["expr"] = _expression(rule["expr"], speed)
    return rules


def shorter(duration: str, speed: int) -> str:
    """The duration in milliseconds, so many times shorter.

    Args:
        duration: As Prometheus writes them: `1m`, `1h30m`.
        speed: How many times.

    Raises:
        ValueError: It would be shorter than a millisecond.
    """
    sign = "-" if duration.startswith("-") else ""
    parts = re.findall(r"(\d+)(ms|[smhdwy])", duration)
    all_ms = sum(int(number) * _UNITS_MS[unit] for number, unit in parts) / speed
    if 0 < all_ms < 1:
        raise ValueError(f"{duration} is too short to be made {speed} times shorter")
    return f"{sign}{all_ms:.0f}ms"


def _shorten(of: dict[str, Any], fields: tuple[str, ...], speed: int) -> None:
    for field in fields:
        if field in of:
            of[field] = shorter(of[field], speed)


def _expression(text: str, speed: int) -> str:
    # A subquery is [range:step], and its step may be left out.
    text = _IN_BRACKETS.sub(
        lambda range_: ":".join(
            part and shorter(part, speed) for part in range_.group().split(":")
        ),
        text,
    )
    text = _AFTER_OFFSET.sub(lambda offset: shorter(offset.group(), speed), text)
    return _AGE.sub(lambda age: f"{age[1]}{float(age[2]) / speed:g}", text)
