"""What was not won, as Markdown: found in the results, never chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.report import standings, wording
from benchmarks.report.markdown import table, target_table
from benchmarks.report.standings import Loss
from benchmarks.results import Case, Results

__all__ = ["not_won"]

_Group = tuple[str, Callable[[Loss], bool]]

_GROUPS: tuple[_Group, ...] = (
    ("Slower than a peer", lambda loss: (loss.figure, loss.other.kind) == ("rate", "peer")),
    (
        "Slower than the driver used directly",
        lambda loss: (loss.figure, loss.other.kind) == ("rate", "driver"),
    ),
    (
        f"Below {standings.SHARE_OF_LIMIT * 100:.0f} % of the limit",
        lambda loss: (loss.figure, loss.other.kind) == ("rate", "limit"),
    ),
    ("A higher 99th percentile of the latency than a peer's", lambda loss: loss.figure == "p99"),
)


def not_won(results: Results) -> str:
    """Return every missed target, every case that was not won, and what was not measured."""
    losses = list(standings.losses(results))
    parts = [_part("Missed targets", _missed(results))]
    for title, belongs in _GROUPS:
        parts.append(_part(title, _losses([loss for loss in losses if belongs(loss)])))
    parts.append(_part("Messages that the store did not keep, or kept twice", _miscounted(results)))
    parts.append(_part("Not measured", "\n".join(f"- {fault}" for fault in results.faults)))
    return "\n\n".join(parts)


def _part(title: str, body: str) -> str:
    return f"### {title}\n\n{body or 'None.'}"


def _missed(results: Results) -> str:
    missed = [check for check in results.checks if not check.passed]
    return target_table(missed) if missed else ""


def _losses(losses: Sequence[Loss]) -> str:
    rows = [
        (
            wording.store_title(loss.ours.store),
            _case(loss),
            loss.other.system,
            _figure(loss, loss.ours),
            _figure(loss, loss.other),
            wording.spread(loss.ratio),
        )
        for loss in losses
    ]
    header = ("Store", "Case", "Behind", "Ours", "Theirs", "Ratio (interval)")
    return table(header, rows) if rows else ""


def _case(loss: Loss) -> str:
    ours = loss.ours
    name = ours.operation if ours.scenario == "history" else ours.scenario
    case = f"`{name}`, {wording.level(ours.scenario, ours.level)}"
    is_disturbed = standings.is_disturbed(ours) or standings.is_disturbed(loss.other)
    return f"{case} \\*" if is_disturbed else case


def _figure(loss: Loss, case: Case) -> str:
    rate = f"{wording.number(case.rate.median)} /s"
    figure = rate
    if loss.figure == "p99":
        figure = wording.latency(case.latency("p99").median)
        # At the same share of its own capacity, each system has other work to do.
        figure += f" at {rate}" if case.scenario == "arrivals" else ""
    kept = wording.kept_share([case])
    return f"{figure} ({kept})" if kept else figure


def _miscounted(results: Results) -> str:
    return "\n".join(
        f"- {wording.store_title(case.store)}, {case.system}, `{case.scenario}`, "
        f"{wording.level(case.scenario, case.level)}: {case.stored:,} stored of "
        f"{case.acknowledged:,} acknowledged"
        for case in results.cases
        if case.kind == "store" and not case.is_whole
    )
