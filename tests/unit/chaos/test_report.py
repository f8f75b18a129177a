from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

from orderflow_server.chaos.expectations import Verdict
from orderflow_server.chaos.plots import svg
from orderflow_server.chaos.recording import (
    OK,
    REFUSED,
    AlertsSeen,
    Call,
    FaultSeen,
    Recording,
    Sample,
)
from orderflow_server.chaos.report import write_report
from orderflow_server.chaos.run import Outcome
from orderflow_server.chaos.scenarios import SCENARIOS

RECORDING = Recording(
    calls=[
        Call(begun_s=0.1, took_s=0.02, outcome=OK),
        Call(begun_s=1.1, took_s=0.5, outcome=REFUSED),
        Call(begun_s=2.1, took_s=0.5, outcome="INTERNAL"),
    ],
    samples=[
        Sample(
            at_s=float(at_s),
            server=server,
            gateway_breaker="open",
            store_breaker="closed",
            attempts=10.0 * at_s,
            retries=float(at_s),
            limit=100.0,
            in_flight=3.0,
        )
        for at_s in range(4)
        for server in (1, 2)
    ],
    faults=[FaultSeen(what="all of it <broken>", begin_s=1.0, end_s=2.0)],
    ended_s=4.0,
)


def outcome(*, passed: bool, checked: bool = True) -> Outcome:
    return Outcome(
        scenario=replace(SCENARIOS["gateway-down"], shows="a < b"),
        seed=7,
        without="",
        recording=RECORDING,
        verdicts=[
            Verdict(what="calls", wanted=">= 1", seen="3", passed=passed, checked=checked),
            Verdict(what="others", wanted="none", seen="none", passed=True),
        ],
    )


class Page(HTMLParser):
    """What a browser would fetch, and the text it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str | None] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in ("script", "link", "img"):
            self.fetched.append(attributes.get("src") or attributes.get("href"))

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_the_report_is_one_page_that_fetches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "made" / "report.html"
    write_report(path, [outcome(passed=True)])
    page = Page(path.read_text())
    assert page.fetched == []
    for shown in (
        "before the fault p99 was 0.02 s",
        "1 of 1 scenarios passed",
        "a < b",
        ">= 1",
        "seed 7",
        "<broken>",
        "p99",
    ):
        assert shown in page.shown


def test_the_report_says_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, [outcome(passed=True), outcome(passed=False)])
    assert "1 of 2 scenarios passed" in Page(path.read_text()).shown


def test_what_was_not_checked_is_never_said_to_have_passed(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    unchecked = outcome(passed=False, checked=False)
    write_report(path, [outcome(passed=True), unchecked])
    assert unchecked.word == "not all checked"
    shown = Page(path.read_text()).shown
    assert "1 of 2 scenarios passed, 1 as far as they were checked" in shown
    assert "gateway-down not all checked" in shown


def test_an_alert_that_fired_is_named_in_the_picture() -> None:
    recording = replace(
        RECORDING,
        alerts=[
            AlertsSeen(at_s=1.0, firing=frozenset()),
            AlertsSeen(at_s=2.0, firing=frozenset({"BreakerOpen"})),
        ],
    )
    assert "BreakerOpen" in svg(recording, name="any")
    assert "BreakerOpen" not in svg(RECORDING, name="any")


def test_a_picture_is_well_formed_and_takes_its_colours_from_the_page() -> None:
    picture = svg(RECORDING, name="any")
    ET.fromstring(picture)
    for variable in ("var(--ink)", "var(--grid)", "var(--fault)"):
        assert variable in picture


def test_a_run_in_which_no_call_was_answered_has_a_picture_too() -> None:
    ET.fromstring(svg(Recording(ended_s=3.0), name="empty"))
