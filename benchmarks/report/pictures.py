"""The pictures of a run, as SVG and PNG; drawn with matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from benchmarks.report import standings, wording
from benchmarks.report.charts import Chart, Line, Panel, Point, charts
from benchmarks.report.labels import spread_out
from benchmarks.results import Results
from benchmarks.systems import Kind

__all__ = ["draw", "draw_all"]

# Near Okabe and Ito's colours, which those who see red and green alike can tell apart, but dark
# enough for text. Vermilion is the store's own; peers take the others in the order of the run.
_STORE = "#d55e00"
_PEERS = ("#0072b2", "#00876c", "#b0518f", "#2f9bd6", "#8c6d1f", "#6a51a3", "#777777")
_REFERENCES: dict[Kind, tuple[str, str]] = {"driver": ("#444444", "--"), "limit": ("#111111", ":")}
_MARKERS = ("s", "^", "D", "v", "P", "X", "p")

# Inches, and the points that a line of a label takes.
_PANEL_WIDTH, _PANEL_HEIGHT = 2.6, 3.1
_LEFT, _GAP, _TITLE, _TOP, _BOTTOM = 1.05, 0.3, 0.3, 0.4, 0.65
_ROW_HEIGHT = 0.42
_LINE_POINTS = 11.5
_LABEL_CHARACTERS = 22
_CHARACTER_WIDTH = 0.083


@dataclass(frozen=True, slots=True)
class _Style:
    """How one system looks, in every picture of its store."""

    colour: str
    dash: str
    marker: str
    width: float
    label: str

    @property
    def weight(self) -> str:
        return "bold" if self.colour == _STORE else "normal"


def draw_all(results: Results, directory: Path) -> list[Path]:
    """Draw every picture of a run into a directory, which is made where it is missing.

    Returns:
        The files: an SVG and a PNG for each picture; names depend on the store alone.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for store in standings.stores(results):
        styles = _styles(standings.systems(results, store))
        for chart in charts(results, store):
            files += draw(chart, styles, directory)
    return files


def _styles(systems: Sequence[tuple[str, Kind]]) -> dict[str, _Style]:
    styles: dict[str, _Style] = {}
    peers = 0
    for system, kind in systems:
        label = f"{kind}: {system}" if kind in _REFERENCES else system
        label = "\n".join(textwrap.wrap(label, _LABEL_CHARACTERS, break_long_words=False))
        if kind == "store":
            # A second form of the store has its colour, and another line.
            is_first = not any(style.colour == _STORE for style in styles.values())
            style = _Style(_STORE, "-" if is_first else "-.", "o", 2.8 if is_first else 2, label)
        elif kind == "peer":
            place = peers % len(_PEERS)
            # Where colours come round again, lines are broken.
            dash = "-" if peers < len(_PEERS) else "-."
            style = _Style(_PEERS[place], dash, _MARKERS[place], 1.5, label)
            peers += 1
        else:
            style = _Style(*_REFERENCES[kind], ".", 1.6, label)
        styles[system] = style
    return styles


def draw(chart: Chart, styles: Mapping[str, _Style], directory: Path) -> list[Path]:
    """Draw one picture as an SVG and a PNG of the same name."""
    svg, png = (directory / f"{chart.name}.{suffix}" for suffix in ("svg", "png"))
    with _settings():
        figure = _lines(chart, styles) if chart.form == "lines" else _ranges(chart, styles)
        figure.savefig(svg, metadata={"Date": None, "Creator": None, "Title": chart.title})
        drawn = BytesIO()
        figure.savefig(drawn, format="png")
    # Lines and letters need few colours; a palette makes the file a third as large.
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(96).save(png, optimize=True)
    return [svg, png]


def _settings() -> AbstractContextManager[None]:
    settings: AbstractContextManager[None] = mpl.rc_context(
        {
            "axes.edgecolor": "#999999",
            "axes.labelcolor": "#333333",
            "axes.spines.right": False,
            "axes.spines.top": False,
            # What SVGs name: Verdana is about as wide where there is no DejaVu.
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans", "Verdana"],
            "font.size": 10.5,
            "grid.color": "#e3e3e3",
            "grid.linewidth": 0.8,
            "svg.fonttype": "none",
            "svg.hashsalt": "asyncsessions",  # the same figures give the same file
            "xtick.color": "#555555",
            "ytick.color": "#555555",
        }
    )
    return settings


def _figure(chart: Chart, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=96, facecolor="white")
    figure.text(0.15 / width, 1 - 0.3 / height, chart.title, size=12.5, weight="bold")
    return figure


def _label_width(chart: Chart, styles: Mapping[str, _Style]) -> float:
    """Return the inches that the longest label takes."""
    systems = {line.system for panel in chart.panels for line in panel.lines}
    longest = max(len(text) for system in systems for text in styles[system].label.split("\n"))
    return 0.2 + longest * _CHARACTER_WIDTH


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    return axes


def _scale(axis: Axis, steps: Sequence[float], *, is_time: bool) -> None:
    """Write some steps of a logarithmic axis in full, and nothing between them."""
    write = wording.latency if is_time else wording.number
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.set_minor_locator(NullLocator())


def _points(chart: Chart) -> list[Point]:
    return [point for panel in chart.panels for line in panel.lines for point in line.points]


def _lines(chart: Chart, styles: Mapping[str, _Style]) -> Figure:
    """Draw panels of lines, two beside each other; all have the same vertical axis."""
    columns = min(len(chart.panels), 2)
    rows = math.ceil(len(chart.panels) / columns)
    across = _PANEL_WIDTH + _label_width(chart, styles) + _GAP
    height = max(_PANEL_HEIGHT, *(_label_height(panel, styles) for panel in chart.panels))
    up = height + _TOP + _BOTTOM
    figure = _figure(chart, _LEFT + columns * across - _GAP, _TITLE + rows * up)
    low = min(point.low for point in _points(chart))
    high = max(point.high for point in _points(chart))
    steps = (1,) if high / low > 100 else (1, 2, 5)
    for place, panel in enumerate(chart.panels):
        row, column = divmod(place, columns)
        left, bottom = _LEFT + column * across, _BOTTOM + (rows - 1 - row) * up
        axes = _axes(figure, left, bottom, _PANEL_WIDTH, height)
        axes.set_yscale("log")
        axes.set_ylim(low / 1.4, high * 1.4)
        _scale(axes.yaxis, steps, is_time=chart.is_time)
        axes.tick_params(labelleft=column == 0)
        if column == 0:
            axes.set_ylabel(chart.figure)
        _draw_panel(axes, panel, styles, is_log=chart.is_log)
    return figure


def _draw_panel(axes: Axes, panel: Panel, styles: Mapping[str, _Style], *, is_log: bool) -> None:
    if is_log:
        axes.set_xscale("log")
    axes.set_xticks(list(panel.ticks), list(panel.ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(panel.x_label)
    axes.set_title(panel.title, loc="left", size=11)
    axes.grid(visible=True)
    # The store's line is drawn last, above the others.
    for line in reversed(panel.lines):
        style = styles[line.system]
        places = [point.x for point in line.points]
        axes.fill_between(
            places,
            [point.low for point in line.points],
            [point.high for point in line.points],
            color=style.colour,
            alpha=0.13,
            linewidth=0,
        )
        axes.plot(
            places,
            [point.y for point in line.points],
            color=style.colour,
            linestyle=style.dash,
            linewidth=style.width,
            marker=style.marker,
            markersize=5 if style.width < 2 else 6.5,
        )
    _label(axes, panel.lines, styles)


def _label(axes: Axes, lines: Sequence[Line], styles: Mapping[str, _Style]) -> None:
    """Write each system's name beside the end of its line."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    length = axes.bbox.height / axes.figure.dpi * 72
    wanted = [(math.log(line.points[-1].y) - low) / (high - low) * length for line in lines]
    texts = [_text(line, styles[line.system]) for line in lines]
    places = spread_out(wanted, [_points_of(text) for text in texts], length)
    for line, text, place in zip(lines, texts, places, strict=True):
        style = styles[line.system]
        axes.annotate(
            text,
            xy=(line.points[-1].x, line.points[-1].y),
            xytext=(1.05, place / length),
            textcoords="axes fraction",
            color=style.colour,
            weight=style.weight,
            size=9.5,
            linespacing=1.0,
            verticalalignment="center",
            arrowprops={
                "arrowstyle": "-",
                "color": style.colour,
                "linewidth": 0.7,
                "alpha": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 4,
            },
        )


def _points_of(text: str) -> float:
    """Return how high a label is."""
    return _LINE_POINTS * (text.count("\n") + 1) + 2.5


def _label_height(panel: Panel, styles: Mapping[str, _Style]) -> float:
    """Return the inches that all labels of a panel take below one another."""
    return sum(_points_of(_text(line, styles[line.system])) for line in panel.lines) / 72


def _text(line: Line, style: _Style) -> str:
    return f"{style.label}\n({line.note})" if line.note else style.label


def _ranges(chart: Chart, styles: Mapping[str, _Style]) -> Figure:
    """Draw panels with a row for each system: a bar between two figures."""
    found = {line.system for panel in chart.panels for line in panel.lines}
    systems = [system for system in styles if system in found]
    height = _ROW_HEIGHT * len(systems)
    names = _label_width(chart, styles)
    # The figures are written behind the bars, beyond the axes.
    across = _PANEL_WIDTH + 1.1
    figure = _figure(chart, names + len(chart.panels) * across, _TITLE + _TOP + height + _BOTTOM)
    limits = (
        min(point.y for point in _points(chart)) / 1.5,
        max(point.high for point in _points(chart)) * 1.5,
    )
    for column, panel in enumerate(chart.panels):
        axes = _axes(figure, names + column * across, _BOTTOM, _PANEL_WIDTH, height)
        axes.set_xscale("log")
        axes.set_xlim(*limits)
        _scale(axes.xaxis, (1, 3), is_time=chart.is_time)
        axes.set_ylim(len(systems) - 0.5, -0.5)
        axes.set_yticks(range(len(systems)), [styles[system].label for system in systems])
        for name, system in zip(axes.get_yticklabels(), systems, strict=True):
            name.set(color=styles[system].colour, size=9.5, weight=styles[system].weight)
        axes.tick_params(axis="y", length=0, labelleft=column == 0)
        axes.set_title(panel.title, loc="left", size=11)
        axes.set_xlabel(chart.figure)
        axes.grid(visible=True, axis="x")
        _draw_ranges(axes, panel, systems, styles)
    return figure


def _draw_ranges(
    axes: Axes, panel: Panel, systems: Sequence[str], styles: Mapping[str, _Style]
) -> None:
    for line in panel.lines:
        style, row = styles[line.system], systems.index(line.system)
        [point] = line.points
        axes.plot([point.y, point.high], [row, row], color=style.colour, linewidth=style.width + 1)
        axes.plot([point.y], [row], "o", color=style.colour, markersize=7)
        axes.plot([point.high], [row], "|", color=style.colour, markersize=11, markeredgewidth=2)
        axes.annotate(
            f"{wording.latency(point.y)} to {wording.latency(point.high)}",
            xy=(point.high, row),
            xytext=(7, 0),
            textcoords="offset points",
            color=style.colour,
            size=9.5,
            verticalalignment="center",
        )
