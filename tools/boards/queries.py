"""PromQL in the words of the dashboards.

`{here` stands for the chosen instances, `{fleet` for all instances of the chosen job: what rules
record has no instance, and what is read from the database is the same on every replica.
"""

from __future__ import annotations

CALLS = 'grpc_service="orderflow.v1.OrderService"'
UNARY = f'{CALLS}, grpc_type="unary"'

_FLEET = '{job=~"$job"'
_HERE = _FLEET + ', instance=~"$instance"'


def complete(expression: str) -> str:
    """The expression as Prometheus reads it."""
    return expression.replace("{here", _HERE).replace("{fleet", _FLEET)


def per_second(metric: str, by: str, *, only: str = "") -> str:
    labels = f"{{here, {only}}}" if only else "{here}"
    return f"sum by ({by}) (rate({metric}{labels}[$__rate_interval]))"


def quantile(q: float, histogram: str, by: str, *, only: str = "") -> str:
    return f"histogram_quantile({q}, {per_second(f'{histogram}_bucket', f'{by}, le', only=only)})"


def mean(histogram: str, by: str) -> str:
    return f"{per_second(f'{histogram}_sum', by)} / {per_second(f'{histogram}_count', by)}"
