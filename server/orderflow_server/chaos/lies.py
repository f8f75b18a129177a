"""What became of the orders about which the payment simulator gave a wrong answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from orderflow_server.payments.simulator.faults import Lie

_READABLE = {lie.value for lie in Lie} - {Lie.UNPARSEABLE.value, Lie.INVALID_TEXT.value}
"""An answer that cannot be read says nothing, so the question may be asked again."""


def lies(gateway_log: Path) -> Iterable[tuple[str, bool]]:
    """Yield the order of each wrong answer, and whether the answer could be read."""
    for line in gateway_log.read_text().splitlines():
        if '"lie"' in line:
            found = json.loads(line)
            yield found["reference"], found["lie"] in _READABLE
