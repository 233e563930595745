"""Pages: what of a session is outside of its document.

A page is written once, under a random name, before the session's document names it; and it is
removed only after the document has stopped naming it. So writers can't disturb one another here,
however late one of them comes: what no document names is invisible, whoever left it behind.

When a session has many pages, the oldest become a page of pages, so that the list in its document
stays short however long the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from bson import MaxKey, MinKey, ObjectId

from asyncsessions.errors import CorruptSessionError
from asyncsessions.pacing import Pacer
from asyncsessions.stores._mongo_cache import Messages, PageCache
from asyncsessions.stores._mongo_database import Database, Document
from asyncsessions.stores._mongo_session import (
    HEAD_FIELDS,
    Entry,
    Head,
    Page,
    checked,
    messages_of,
)

__all__ = ["Move", "Pages", "StaleError", "moved_to"]

# Large enough to read a history in few documents, small enough to read a part of one.
_PAGE_MESSAGES = 256
_PAGE_BYTES = 256 << 10
# When pages in a row become one page of the level above, and how many.
_FOLD_AT = 48
_FOLD = 32
# What goes to the server, or comes from it, in one command; its limits are 48 MB and 16 MB.
_COMMAND_BYTES = 8 << 20
_TAIL_FIELDS: Document = {"tail": 1, "incarnation": 1, "edition": 1}


class StaleError(Exception):
    """The session has changed since its head was read; read it again."""


class Move(msgspec.Struct, eq=False):
    """Pages that are written, and wait for the session's document to name them.

    Attributes:
        head: The outline of the version that they were made from.
        entries: How many entries at the start of its tail they hold.
        pages: All pages of the session, with them.
        nodes: The documents written for it.
        sent_onto: The newest version onto which a write was planned that names them; None as long
            as there is none, so that nobody can name them behind this store's back.
    """

    head: Head
    entries: int
    pages: tuple[Page, ...]
    nodes: tuple[ObjectId, ...]
    sent_onto: int | None = None

    def fits(self, head: Head) -> bool:
        """Whether the tail still begins with what was moved, and the pages are the same."""
        mine = self.head
        if head.incarnation != mine.incarnation or head.edition != mine.edition:
            return False
        if len(head.tail) < self.entries or head.pages != mine.pages:
            return False
        # Within an edition an entry never changes, so its place tells which one it is.
        moved = mine.tail[: self.entries]
        return all(a.seq == b.seq for a, b in zip(head.tail, moved, strict=False))

    def apply(self, head: Head) -> None:
        """Have a head name the pages, before it is the next version; only where it `fits`."""
        self.sent_onto = max(self.sent_onto or 0, head.version)
        head.tail = head.tail[self.entries :]
        head.pages = self.pages


class _Stored(msgspec.Struct, gc=False):
    """A page's document."""

    bodies: bytes
    # Where messages that were taken back have left gaps: what of it follows one another.
    runs: tuple[tuple[int, int], ...] = ()


class Pages:
    """Writes, reads and removes pages.

    Args:
        database: Where.
        collection: The collection of pages.
        sessions: The collection of sessions.
    """

    def __init__(self, database: Database, collection: str, sessions: str) -> None:
        self._database = database
        self._collection = collection
        self._sessions = sessions
        self._cache = PageCache()

    async def read_tail(self, head: Head) -> tuple[Entry, ...]:
        """Return the entries that a head has, with their bodies.

        Raises:
            StaleError: It isn't the stored version any more.
        """
        if not head.tail:
            return ()
        where = {"_id": head.session_id, "version": head.version}
        found = await self._database.find(self._sessions, where, limit=1, projection={"tail": 1})
        if not found:
            raise StaleError
        entries = checked(found[0].get("tail"), tuple[Entry, ...], head.session_id)
        # The head may have let go of some at the start already.
        return entries[len(entries) - len(head.tail) :]

    async def move_tails(self, tails: Sequence[tuple[Head, int]]) -> list[Move]:
        """Write the oldest entries of sessions' tails into pages.

        Others may append meanwhile: that changes nothing at a tail's start. A session whose tail
        begins differently by now is left out.

        Args:
            tails: For each session a version of it, and how many entries are to move.
        """
        where = {"_id": {"$in": [head.session_id for head, _ in tails]}}
        found = await self._database.find(self._sessions, where, projection=_TAIL_FIELDS)
        stored = {document["_id"]: document for document in found}
        pacer = Pacer()
        written: list[tuple[Head, int, list[Page]]] = []
        documents: list[tuple[Page, Document]] = []
        for head, count in tails:
            entries = _oldest_entries(head, count, stored.get(head.session_id, {}))
            if entries:
                pages = [_page_of(head, group) for group in _grouped(entries)]
                documents += pages
                written.append((head, count, [page for page, _ in pages]))
            await pacer.pause()
        await self._insert(documents)
        moves = []
        for head, count, added in written:
            pages_now, nodes = await self._fold(head, head.pages + tuple(added))
            nodes = [*(page.node for page in added), *nodes]
            # It may wait for long.
            moves.append(Move(head.outline(), count, pages_now, tuple(nodes)))
        return moves

    async def write(self, head: Head, entries: Iterable[Entry]) -> list[Page]:
        """Write messages into pages and return these, oldest first."""
        pages = [_page_of(head, group) for group in _grouped(entries)]
        await self._insert(pages)
        return [page for page, _ in pages]

    async def _insert(self, pages: Sequence[tuple[Page, Document]]) -> None:
        documents: list[Document] = []
        size = 0
        for page, document in pages:
            if documents and size + page.size > _COMMAND_BYTES:
                (await self._database.insert(self._collection, documents)).check()
                documents, size = [], 0
            documents.append(document)
            size += page.size
        if documents:
            (await self._database.insert(self._collection, documents)).check()

    async def fold(self, head: Head) -> list[ObjectId]:
        """Shorten the list of pages in a head if it is long; return what was written for it."""
        head.pages, nodes = await self._fold(head, head.pages)
        return nodes

    async def _fold(
        self, head: Head, pages: tuple[Page, ...]
    ) -> tuple[tuple[Page, ...], list[ObjectId]]:
        nodes: list[ObjectId] = []
        while (start := _long_row(pages)) is not None:
            row = pages[start : start + _FOLD]
            node = ObjectId()
            document = {
                "_id": _id(head, node),
                "pages": [msgspec.structs.asdict(page) for page in row],
            }
            (await self._database.insert(self._collection, [document])).check()
            nodes.append(node)
            folded = Page(
                row[0].seq,
                row[-1].last,
                sum(page.count for page in row),
                sum(page.size for page in row),
                node,
                row[0].level + 1,
            )
            pages = (*pages[:start], folded, *pages[start + _FOLD :])
        return pages, nodes

    async def messages(
        self, head: Head, pages: Sequence[Page], *, keep: bool = False
    ) -> list[Messages]:
        """Return the messages of pages that a head names.

        Args:
            head: A version of their session.
            pages: The pages.
            keep: Whether they may be wanted again soon.

        Raises:
            StaleError: One has been removed meanwhile.
            CorruptSessionError: One doesn't hold what its name says.
        """
        found = self._cache.find(head, pages)
        missing = [page for page in pages if page not in found]
        if missing:
            documents = await self._read(head, missing)
            read = {
                page: _messages_in(document, page)
                for page, document in zip(missing, documents, strict=True)
            }
            if keep:
                self._cache.keep(head, read)
            found |= read
        return [found[page] for page in pages]

    async def _read(self, head: Head, pages: Sequence[Page]) -> list[Document]:
        ids = [_id(head, page.node) for page in pages]
        found: dict[ObjectId, Document] = {}
        while missing := [each for each in ids if each["n"] not in found]:
            documents = await self._database.find(self._collection, {"_id": {"$in": missing}})
            if not documents:
                raise StaleError
            found |= {document["_id"]["n"]: document for document in documents}
        return [found[page.node] for page in pages]

    async def unfold(self, head: Head, page: Page) -> tuple[Page, ...]:
        """Return the pages that a page of pages holds.

        Raises:
            StaleError: It has been removed meanwhile.
            CorruptSessionError: It holds something else.
        """
        documents = await self._read(head, [page])
        return checked(documents[0].get("pages"), tuple[Page, ...], head.session_id)

    async def remove(self, head: Head, nodes: Sequence[ObjectId]) -> None:
        """Remove pages that no document names."""
        if nodes:
            ids = [_id(head, node) for node in nodes]
            await self._database.delete(self._collection, {"_id": {"$in": ids}})

    async def remove_unnamed(self, move: Move) -> None:
        """Remove the pages of a move that nobody will name any more, and nobody has named.

        Where that can't be told they stay, invisible, until the session goes.
        """
        if move.sent_onto is not None:
            where = {"_id": move.head.session_id}
            found = await self._database.find(
                self._sessions, where, limit=1, projection=HEAD_FIELDS
            )
            if found and not _is_past(move, Head.read(found[0])):
                return
        await self.remove(move.head, move.nodes)

    async def remove_tree(self, head: Head, node: ObjectId, level: int) -> None:
        """Remove a page with all pages below it."""
        page = Page(0, 0, 0, 0, node, level)
        if level:
            # Those below go first, so that whoever is interrupted can begin again from the top.
            try:
                children = await self.unfold(head, page)
            except StaleError:
                return  # Somebody else has removed it.
            except CorruptSessionError:
                children = ()
            for child in children:
                if child.level:
                    await self.remove_tree(head, child.node, child.level)
            await self.remove(head, [child.node for child in children])
        await self.remove(head, [node])

    async def remove_all(self, session_id: str, volume: ObjectId) -> None:
        """Remove every page of a volume that no session has any more."""
        low = {"s": session_id, "i": volume, "n": MinKey()}
        await self._database.delete(
            self._collection, {"_id": {"$gte": low, "$lte": low | {"n": MaxKey()}}}
        )

    async def volumes(self, session_id: str) -> list[ObjectId]:
        """Return of which volumes of a session there are pages."""
        where = {"_id": {"$gte": {"s": session_id}, "$lt": {"s": session_id, "i": MaxKey()}}}
        found: list[ObjectId] = await self._database.distinct(self._collection, "_id.i", where)
        return found


def _is_past(move: Move, head: Head) -> bool:
    """Whether a session neither names the pages of a move nor ever will.

    A write that names them and is still on its way fails as soon as the version is past the one
    that it was sent onto.
    """
    if head.incarnation != move.head.incarnation:
        return True
    if move.sent_onto is None or head.version <= move.sent_onto:
        return False
    if move.fits(head):
        return False  # In a contested session they are named onto any version that they fit.
    first = move.head.tail[0].seq
    return not any(
        page.node in move.nodes or (page.level and page.last >= first) for page in head.pages
    )


def _oldest_entries(head: Head, count: int, stored: Document) -> Sequence[Entry]:
    """Return the entries of a tail that are to move; none where it begins differently by now."""
    if stored.get("incarnation") != head.incarnation or stored.get("edition") != head.edition:
        return ()
    try:
        tail = checked(stored.get("tail"), tuple[Entry, ...], head.session_id)
    except CorruptSessionError:
        return ()  # Whoever reads it is told.
    is_same = [entry.seq for entry in tail[:count]] == [entry.seq for entry in head.tail[:count]]
    return tail[:count] if is_same else ()


def _id(head: Head, node: ObjectId) -> Document:
    return {"s": head.session_id, "i": head.volume, "n": node}


def _grouped(entries: Iterable[Entry]) -> Iterable[list[Entry]]:
    """Yield entries in groups that make good pages."""
    group: list[Entry] = []
    count = size = 0
    for entry in entries:
        if group and (count + entry.count > _PAGE_MESSAGES or size + entry.size > _PAGE_BYTES):
            yield group
            group, count, size = [], 0, 0
        group.append(entry)
        count += entry.count
        size += entry.size
    if group:
        yield group


def _page_of(head: Head, group: Sequence[Entry]) -> tuple[Page, Document]:
    node = ObjectId()
    count = sum(entry.count for entry in group)
    page = Page(group[0].seq, group[-1].last, count, sum(entry.size for entry in group), node)
    bodies = b"\n".join([entry.bodies or b"" for entry in group])
    document: Document = {"_id": _id(head, node), "bodies": bodies}
    if page.last - page.seq + 1 != count:
        # Messages that were taken back have left gaps.
        document["runs"] = [[entry.seq, entry.count] for entry in group]
    return page, document


def _long_row(pages: Sequence[Page]) -> int | None:
    """Return where a long row of pages of the same level begins; None where none does."""
    start = 0
    for index, page in enumerate(pages):
        if page.level != pages[start].level:
            start = index
        if index - start + 1 >= _FOLD_AT:
            return start
    return None


def _messages_in(document: Document, page: Page) -> Messages:
    session_id = document["_id"]["s"]
    stored = checked(document, _Stored, session_id)
    return messages_of(stored.bodies, stored.runs or ((page.seq, page.count),), session_id)


def moved_to(seq: int, pages: Sequence[Page]) -> list[Page]:
    """Return pages of consecutive messages as if these began at another ``seq``."""
    shift = seq - pages[0].seq
    return [
        Page(page.seq + shift, page.last + shift, page.count, page.size, page.node)
        for page in pages
    ]
