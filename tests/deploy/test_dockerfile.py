"""The Dockerfile is in step with the rest, and what it makes is small and has few rights."""

from __future__ import annotations

import json
import re

from deploy.queries import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
FINAL = DOCKERFILE.rpartition("\nFROM ")[2]


def instruction(name: str) -> str:
    """What follows the only instruction of that name in the final stage."""
    [found] = re.findall(rf"^{name} (.+)$", FINAL, flags=re.MULTILINE)
    return str(found)


def test_uv_is_the_one_of_the_makefile() -> None:
    [wanted] = re.findall(r"^UV_VERSION := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"ARG UV_VERSION={wanted}\n" in DOCKERFILE


def test_the_base_image_is_one_version_and_can_be_another() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=\S+:3\.11\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2


def test_only_the_environment_reaches_the_final_image() -> None:
    assert re.findall(r"^(?:COPY|ADD) (.+)$", FINAL, re.MULTILINE) == [
        "--from=build /opt/orderflow /opt/orderflow"
    ]


def test_it_is_nobodys_root_and_its_first_process_gets_the_signals() -> None:
    uid, _, gid = instruction("USER").partition(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert json.loads(instruction("ENTRYPOINT")) == ["orderflow-server"]
    assert json.loads(instruction("CMD")) == ["serve"]
    assert instruction("STOPSIGNAL") == "SIGTERM"


def test_its_health_is_what_the_health_service_says() -> None:
    assert instruction("HEALTHCHECK").endswith('CMD ["orderflow", "health"]')


def test_the_builder_gets_nothing_but_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = re.findall(r"^COPY ([^-].+) \S+$", DOCKERFILE, re.MULTILINE)
    assert sent == {path.split("/")[0] for paths in copied for path in paths.split()}
