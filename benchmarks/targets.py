"""Which ratios the stores have to reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.measure import Run
from benchmarks.results import STORES, Case, Check, Results
from benchmarks.systems import contenders

__all__ = ["checks"]

# What a quick run must reach of a throughput: less says that batches are lost.
_QUICK = 0.25
# A lone caller waits for each thread and process in turn, which a busy machine may hold up.
_QUICK_COST = 4
_LIMIT = "hand-written batch"
_SHARE_OF_LIMIT = 0.7
_LAG = 5.0
_QUICK_LAG = 1000.0


@dataclass(frozen=True, slots=True)
class _Throughput:
    """Appends a second over those of another system, in one scenario at one level."""

    scenario: str
    store: str
    level: int
    to: str
    target: float


@dataclass(frozen=True, slots=True)
class _Cost:
    """The time of a lone caller's append over that of another system."""

    store: str
    to: str
    target: float


_THROUGHPUTS = (
    _Throughput("hot", "jsonl", 64, "one hop per append", 8.0),
    _Throughput("hot", "jsonl", 256, "one hop per append", 15.0),
    _Throughput("sessions", "jsonl", 64, "one hop per append", 2.0),
    _Throughput("sessions", "jsonl-os", 64, "one hop per append", 5.0),
    _Throughput("hot", "redis", 64, "RPUSH per append", 6.0),
    _Throughput("hot", "redis", 64, "OpenAI Agents RedisSession", 60.0),
    _Throughput("sessions", "redis", 256, "RPUSH per append", 4.0),
    _Throughput("sessions", "redis", 256, "OpenAI Agents RedisSession", 40.0),
    _Throughput("hot", "postgres", 64, "INSERT per append", 6.0),
    _Throughput("hot", "postgres", 64, "OpenAI Agents SQLAlchemySession", 80.0),
    _Throughput("sessions", "postgres", 256, "INSERT per append", 5.0),
    _Throughput("sessions", "postgres", 256, "OpenAI Agents SQLAlchemySession", 80.0),
    _Throughput("hot", "mongo", 64, "insert_one per append", 9.0),
    _Throughput("sessions", "mongo", 256, "insert_one per append", 7.0),
    _Throughput("sessions", "mongo", 256, "OpenAI Agents MongoDBSession", 18.0),
    *(
        _Throughput("sessions", store, 256, _LIMIT, _SHARE_OF_LIMIT)
        for store in ("redis", "postgres", "mongo")
    ),
)
_COSTS = (
    _Cost("jsonl", "one hop per append", 1.3),
    _Cost("redis", "EVALSHA per append", 1.3),
    _Cost("postgres", "the statement, awaited", 1.2),
    _Cost("mongo", "insert_one per append", 1.6),
)
_WHERE = {"hot": "one session", "sessions": "1,000 sessions"}


def checks(run: Run, results: Results) -> list[Check]:
    """Return the checks of whatever was measured of what has a target."""
    found = [
        *(_throughput(run, results, each) for each in _THROUGHPUTS),
        *(_cost(run, results, each) for each in _COSTS),
        *(_lag(run, results, each) for each in ("redis", "postgres", "mongo")),
        *(_processes(run, results, each) for each in STORES),
    ]
    return [*filter(None, found), *_ahead(run, results)]


def _pair(
    results: Results, scenario: str, store: str, level: int, to: str
) -> tuple[Case, Case] | None:
    ours = results.case(scenario, store, contenders(store)[0].name, level)
    other = results.case(scenario, store, to, level)
    return (ours, other) if ours and other else None


def _detail(ours: Case, other: Case) -> str:
    return f"{ours.rate.median:,.0f}/s to {other.rate.median:,.0f}/s"


def _throughput(run: Run, results: Results, each: _Throughput) -> Check | None:
    pair = _pair(results, each.scenario, each.store, each.level, each.to)
    ratio = pair and pair[0].ratio_to(pair[1])
    if pair is None or ratio is None:
        return None
    callers = f"{each.level} callers on {_WHERE[each.scenario]}"
    return Check(
        scenario=each.scenario,
        name=f"{STORES[each.store]}: {callers}, to {each.to}",
        measured=ratio,
        target=each.target * (_QUICK if run.is_quick else 1),
        is_floor=True,
        detail=_detail(*pair),
    )


def _cost(run: Run, results: Results, each: _Cost) -> Check | None:
    pair = _pair(results, "hot", each.store, 1, each.to)
    ratio = pair and pair[1].ratio_to(pair[0])
    if pair is None or ratio is None:
        return None
    return Check(
        scenario="hot",
        name=f"{STORES[each.store]}: cost of a lone caller's append, to {each.to}",
        measured=ratio,
        target=each.target * (_QUICK_COST if run.is_quick else 1),
        is_floor=False,
        detail=_detail(*pair),
    )


def _lag(run: Run, results: Results, store: str) -> Check | None:
    case = results.case("sessions", store, contenders(store)[0].name, 256)
    if case is None:
        return None
    return Check(
        scenario="sessions",
        name=f"{STORES[store]}: 99th percentile of the loop's lag, 256 callers",
        measured=case.lag("p99"),
        target=_QUICK_LAG if run.is_quick else _LAG,
        is_floor=False,
        unit=" ms",
    )


def _processes(run: Run, results: Results, store: str) -> Check | None:
    name = contenders(store)[0].name
    one, four = (results.case("processes", store, name, level) for level in (1, 4))
    if one is None or four is None:
        return None
    ratio = four.ratio_to(one)
    if ratio is None:
        return None
    return Check(
        scenario="processes",
        name=f"{STORES[store]}: 4 processes on one session, to one process",
        measured=ratio,
        target=_QUICK if run.is_quick else 1.0,
        is_floor=True,
        detail=_detail(four, one),
    )


def _ahead(run: Run, results: Results) -> Iterator[Check]:
    """Check that no peer is ahead anywhere: one figure for each peer, that of its best case."""
    peers = [case for case in results.cases if case.kind == "peer" and case.is_measured]
    for store, name in [] if run.is_quick else dict.fromkeys((c.store, c.system) for c in peers):
        compared = [
            (ratio, ours, case)
            for case in peers
            if (case.store, case.system) == (store, name)
            # A peer that loses messages is ahead of nobody.
            if case.scenario != "arrivals" and case.is_whole
            for ours in [_ours(results, case)]
            for ratio in [ours and ours.ratio_to(case)]
            if ours and ratio
        ]
        if compared:
            ratio, ours, peer = min(compared, key=lambda each: each[0].median)
            yield Check(
                scenario=peer.scenario,
                name=f"{STORES[store]}: to {name}, in its best case",
                measured=ratio,
                target=1.0,
                is_floor=True,
                detail=f"{peer.operation}, {peer.level:,}: {_detail(ours, peer)}",
            )


def _ours(results: Results, other: Case) -> Case | None:
    """Return the store's case beside another system's."""
    name = contenders(other.store)[0].name
    return results.case(other.scenario, other.store, name, other.level, other.operation)
