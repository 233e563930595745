"""Sessions as PraisonAI's own JSON files: one document each, shared with PraisonAI."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from asyncsessions._compat import override
from asyncsessions.errors import CorruptSessionError
from asyncsessions.hooks import Append, Scan, Tail, Window
from asyncsessions.models import SessionInfo
from asyncsessions.omissions import leave_out
from asyncsessions.requests import Policy
from asyncsessions.stores._docplace import find, names_of, read_place
from asyncsessions.stores._docshelf import Shelf
from asyncsessions.stores._docspill import Spills, find_spills
from asyncsessions.stores._document import Document
from asyncsessions.stores._documentfile import DocumentFile
from asyncsessions.stores._files import URL_OPTIONS, FileStore

__all__ = ["JSONSessionStore"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("asyncsessions.json")


class JSONSessionStore(FileStore):
    """Keeps each session in one JSON document, in the format of PraisonAI's session store.

    Format, names and locks are those of praisonaiagents 1.7, so its ``DefaultSessionStore`` and
    ``HierarchicalSessionStore`` may read and write the same directory at the same time, and
    nothing of either is lost. Keys that only they know (forks, snapshots, the archive, runtime
    state) are kept. An append costs as much as the document is long; concurrent callers share
    that cost. Where nobody else reads the files, `JSONLinesSessionStore` is the better store.

    What the format has no place for (``seq``, state, expiry, idempotency keys) is in
    ``metadata.asyncsessions``, and in a message's ``metadata.asyncsessions`` its ``name`` and
    unknown keys. Neither shows in what this store returns.

    Another program's writes weaken some guarantees, because it knows nothing of these:

    * ``seq``: messages that it appends get the next ones. Where it rolls up the oldest ones, the
      rest keep theirs, and the summary gets that of the last message it stands for. Where it
      inserts or removes messages in the middle, older ones get the ``seq`` of their neighbours.
      Where it replaces, clears or removes the newest message known here, all that is left gets
      new ones, above every ``seq`` this store gave. Nothing it does makes ``last_seq`` go back
      below what this store wrote.
    * Retention is its own: by default it rolls up all but 100 messages at its next write. What
      it archived is no part of the history here; `clear_session` removes it, too.
    * Expiry is unknown to it: it shows expired sessions, and its writes don't prolong any.
    * Its deletions take no lock, so a write under way may bring the session back.
    * Its snapshots keep their messages after `clear_session`, until the session is deleted.

    Two ids never share a document, although PraisonAI gives ``a.b`` and ``a_b`` one name: who
    comes second gets a suffixed name, which PraisonAI lists but can't open. A damaged document,
    an empty file too, raises `CorruptSessionError`; it stays as it is until `quarantine` moves it
    aside (PraisonAI does so when it opens it). What PraisonAI could not write, and spilled, is in
    no document until somebody takes it over: PraisonAI, or `take_over_spills`.

    Args:
        directory: Where the files are; made if missing.
        active_window: What PraisonAI calls ``compact``: so many messages stay, and an append moves
            older ones, tool calls together with their results, to the document's archive. One
            summary message in front says how many these are. None leaves them where they are.
        **options: ``durability``, ``lock_timeout`` and ``disk`` as for `JSONLinesSessionStore`;
            the others as for `BaseSessionStore`.

    Raises:
        ValueError: An argument is out of range; or ``max_messages`` is given, too, which would
            drop what ``active_window`` keeps.
    """

    _url_options: ClassVar[Mapping[str, Any]] = URL_OPTIONS | {"active_window": int}
    # PraisonAI takes a lock again as soon as it has given it up.
    _hard_try: ClassVar[float] = 0.01

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        active_window: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(directory, **options)
        if active_window is not None:
            if isinstance(active_window, bool) or not active_window > 0:
                raise ValueError(f"active_window={active_window!r}: give 1 or more, or None")
            if options.get("max_messages") is not None:
                raise ValueError("give max_messages, which drops, or active_window, which archives")
        self._active_window = active_window
        self._keeps_messages = active_window is None
        self._shelf = Shelf(self._disk, self.directory)

    @override
    def _writer(self, session_id: str) -> DocumentFile:
        return DocumentFile(
            self._disk,
            self.directory,
            session_id,
            is_synced=self._is_synced,
            lock_timeout=self._lock_timeout,
            window=self._active_window,
            shelf=self._shelf,
        )

    @override
    def _start_threads(self) -> None:
        super()._start_threads()
        # Not a method of this store, which would keep itself alive.
        self._shelf.later = self._syncers.later

    @override
    async def _close(self) -> None:
        await super()._close()
        self._shelf.clear()

    async def quarantine(self, session_id: str) -> Path | None:
        """Move a session's document aside if it is damaged, so that the session starts anew.

        It keeps its bytes, under the name that PraisonAI gives to such files, and is no session
        any more. Of many callers, in any number of processes and PraisonAI's among them, one
        moves it. What a later version of this library wrote isn't damaged.

        Returns:
            Where it is now; None where the document is sound, or there is none.

        Raises:
            LockTimeoutError: Another process held the session for too long.
            StoreUnavailableError: The system refused.
        """

        async def move(_: object) -> Path | None:
            job = self._job(session_id, "quarantine", None, create=False, load=False)
            aside: Path | None = await self._alone(job)
            return aside

        aside = await self._perform(session_id, move)
        if aside is not None:
            logger.warning("a damaged document was moved aside: %s", aside)
        return aside

    async def take_over_spills(self, session_id: str, spills: str | os.PathLike[str]) -> int:
        """Append the messages that PraisonAI could not write to a session's document.

        When a write of its `add_message` fails, PraisonAI spills the message into a directory
        that serves all session directories, and takes it over when it next reads the session.
        This does the same, under the same lock: each file once, however often this is called and
        by how many processes, PraisonAI's among them, and also where one of them is killed. A
        file is removed when the disk has its messages. They come last, in the order of the files;
        what the session has already, told by time, role and content, isn't added again.

        A file names the session but no directory. It is left where it is unless PraisonAI opened
        the session's lock here at that time, as it does before it can fail, or later.

        Args:
            session_id: The session.
            spills: PraisonAI's directory of such files; it may be missing.

        Returns:
            How many messages were appended.

        Raises:
            CorruptSessionError: The document is damaged; the files stay.
            LockTimeoutError: Another process held the session for too long.
            StoreUnavailableError: The system refused; the files stay.
        """

        async def take_over(policy: Policy) -> int:
            given = (self._disk, Path(spills), self.directory, session_id)
            paths = tuple(await self._in_thread(find_spills, *given))
            if not paths:
                return 0
            now, keep, ttl = policy.clock(), policy.max_messages, policy.ttl_seconds
            request = Spills(Append(session_id, (), (), now, keep, ttl), paths)
            count: int = await self._alone(self._job(session_id, "take_over", request, create=True))
            return count

        return await self._perform(session_id, take_over)

    # Reads take no lock: a document is replaced as a whole.

    @override
    async def _head(self, session_id: str) -> SessionInfo | None:
        return await self._in_thread(self._read, session_id, Document.read_info)

    @override
    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        def read(document: Document) -> Tail:
            return Tail(document.read(window), document.own.expires_at)

        return await self._in_thread(self._read, session_id, read)

    def _read(self, session_id: str, read: Callable[[Document], T]) -> T | None:
        place = self._shelf.find(session_id) or find(self._disk, self.directory, session_id)
        if place.is_free:
            self._missing(FileNotFoundError(place.path))
        document = place.document(session_id)
        if document is None:
            return None
        try:
            with place.understanding(session_id):
                return read(document)
        finally:
            if place.kept is None:
                document.close()

    @override
    async def _scan(self, scan: Scan) -> list[SessionInfo]:
        return await self._in_thread(self._list, scan)

    def _list(self, scan: Scan) -> list[SessionInfo]:
        found = [info for info in self._infos() if scan.matches(info)]
        found.sort(key=lambda info: (info.updated_at, info.session_id), reverse=True)
        return found[: scan.limit]

    def _infos(self) -> Iterator[SessionInfo]:
        """Iterate over all sessions that can be read; the damaged ones are left out."""
        with os.scandir(self.directory) as entries:
            names = {entry.name for entry in entries if entry.name.endswith(".json")}
        for name in names:
            try:
                info = self._read_file(self.directory / name)
            except CorruptSessionError as exc:
                leave_out(logger, "list", exc)
                continue
            except OSError as exc:
                leave_out(logger, "list", f"{name}: {exc.strerror}")
                continue
            if info is None:
                continue
            # A copy under another name isn't a session of its own.
            own = names_of(info.session_id)
            if name == own.suffixed or (name == own.primary and own.suffixed not in names):
                yield info

    def _read_file(self, path: Path) -> SessionInfo | None:
        place = read_place(self._disk, path)
        owner = place.owner()
        document = place.document(path.stem if owner is None else owner)
        return None if document is None else document.info

    @override
    async def _locate(self, session_id: str, damaged: bytes) -> tuple[str | None, int | None]:
        place = await self._in_thread(find, self._disk, self.directory, session_id)
        # The message as it stands in the file, behind the ``seq`` that was put in front.
        found = (place.data or b"").find(damaged[damaged.find(b",") + 1 :])
        line = None if found < 0 else (place.data or b"").count(b"\n", 0, found) + 1
        return str(place.path), line
