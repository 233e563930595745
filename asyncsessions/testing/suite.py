"""The suite for a store in one process: all cases together."""

from __future__ import annotations

from asyncsessions.testing.appending import AppendCases, IdempotencyCases
from asyncsessions.testing.cancelling import AwaitCases
from asyncsessions.testing.concurrency import CancellationCases, ConcurrencyCases
from asyncsessions.testing.expiring import ExpiryCases
from asyncsessions.testing.finding import ListCases, SearchCases
from asyncsessions.testing.living import CostCases, LifeCases
from asyncsessions.testing.moving import MoveCases
from asyncsessions.testing.properties import ModelCases, PropertyCases
from asyncsessions.testing.reading import ReadCases, WindowCases
from asyncsessions.testing.recording import AliasingCases, MetadataCases, StateCases
from asyncsessions.testing.refusing import BadInputCases, SessionIdCases
from asyncsessions.testing.rewriting import PartialTurnCases, RetentionCases, RewriteCases

__all__ = ["StoreConformance"]


class StoreConformance(
    AppendCases,
    IdempotencyCases,
    BadInputCases,
    SessionIdCases,
    ReadCases,
    WindowCases,
    RewriteCases,
    PartialTurnCases,
    RetentionCases,
    MetadataCases,
    StateCases,
    AliasingCases,
    ListCases,
    SearchCases,
    MoveCases,
    ExpiryCases,
    LifeCases,
    CostCases,
    ConcurrencyCases,
    CancellationCases,
    AwaitCases,
    PropertyCases,
    ModelCases,
):
    """Every guarantee of a store that one process uses.

    Subclass it once and define `make_store`; pytest runs the rest. The subclass's name starts
    with ``Test``. Each test has a directory of its own in ``self.tmp_path``; a store on a server
    makes a fresh name space from it, such as a digest of the path.

    A store passes its options on to `BaseSessionStore`, or takes ``max_messages``,
    ``ttl_seconds``, ``max_message_bytes`` and ``clock`` itself and gives them the same meaning.
    A store that expires by its server's clock takes the moment from ``clock`` where one is given.
    """
