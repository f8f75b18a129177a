"""What a panel and a dashboard are, and how they become Grafana's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boards.queries import complete
from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model

_SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        description: What it means to a reader.
        queries: Legend -> PromQL.
        unit: Grafana's id of a unit.
        width: Of 24 columns.
        exemplars: Single calls are shown as points that lead to their traces.
        limits: Where the colour changes, from good to worse to bad.
        states: Texts for the values 0, 1, 2: a state timeline instead of lines.
        number: The last value instead of lines.
    """

    title: str
    description: str
    queries: Mapping[str, str]
    unit: str = "short"
    width: int = 8
    exemplars: bool = False
    limits: tuple[float, float] | None = None
    states: Sequence[str] = ()
    number: bool = False


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """Rows of panels: title -> panels."""

    name: str
    title: str
    description: str
    rows: Mapping[str, Sequence[Panel]]


def to_json(spec: Dashboard) -> str:
    """The dashboard as Grafana imports it."""
    made = (
        builder.Dashboard(spec.title)
        .uid(f"orderflow-{spec.name}")
        .description(spec.description)
        .tags(["orderflow"])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables(_variables())
        .link(
            builder.DashboardLink("Orderflow")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["orderflow"])
            .include_vars(True)
            .keep_time(True)
        )
    )
    # Ids are the panels' places, so that links to them stay.
    for row, (title, panels) in enumerate(spec.rows.items(), start=1):
        made = made.with_row(builder.Row(title).id(row * 100))
        for place, panel in enumerate(panels, start=1):
            made = made.with_panel(_panel(panel).id(row * 100 + place))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _variables() -> list[Any]:
    def choice(name: str, label: str, metric: str) -> builder.QueryVariable:
        return (
            builder.QueryVariable(name)
            .label(label)
            .datasource(_SOURCE)
            .query(f"label_values({metric}, {name})")
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(model.VariableOption(text="All", value="$__all"))
        )

    return [
        builder.DatasourceVariable("datasource").label("Metrics").type("prometheus"),
        choice("job", "Job", "orderflow_build_info"),
        choice("instance", "Instance", 'orderflow_build_info{job=~"$job"}'),
    ]


def _panel(spec: Panel) -> Any:
    """The builder of a panel; the kinds have methods in common, but no type."""
    made: Any
    if spec.states:
        made = statetimeline.Panel().mappings([_texts(spec.states)])
    elif spec.number:
        made = stat.Panel()
    else:
        made = _lines()
    made = (
        made.title(spec.title)
        .description(spec.description)
        .datasource(_SOURCE)
        .unit(spec.unit)
        .span(spec.width)
        .height(_HEIGHT)
    )
    for ref_id, (legend, expression) in zip("ABC", spec.queries.items(), strict=False):
        made = made.with_target(
            prometheus.Dataquery()
            .expr(complete(expression))
            .legend_format(legend)
            .exemplar(spec.exemplars)
            .range()
            .ref_id(ref_id)
        )
    return made.thresholds(_thresholds(spec.limits)) if spec.limits else made


def _lines() -> timeseries.Panel:
    return (
        timeseries.Panel()
        .fill_opacity(10)
        .axis_soft_min(0)
        .tooltip(common_builder.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
        .legend(
            common_builder.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
        )
    )


def _thresholds(limits: tuple[float, float]) -> builder.ThresholdsConfig:
    good_to_worse, worse_to_bad = limits
    steps = (
        [(None, "green"), (good_to_worse, "orange"), (worse_to_bad, "red")]
        if good_to_worse < worse_to_bad
        else [(None, "red"), (worse_to_bad, "orange"), (good_to_worse, "green")]
    )
    return (
        builder.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def _texts(states: Sequence[str]) -> model.ValueMap:
    """Two states: bad and good. Three: from good to bad."""
    colors = ["red", "green"] if len(states) == 2 else ["green", "orange", "red"]
    return model.ValueMap(
        options={
            str(value): model.ValueMappingResult(text=text, color=color, index=value)
            for value, (text, color) in enumerate(zip(states, colors, strict=True))
        }
    )
