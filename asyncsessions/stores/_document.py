"""One session as PraisonAI's document, and as this library's model: pure, without I/O.

Whatever another program stored, it is kept; what it changed since this library wrote last is
taken as it is.
"""

from __future__ import annotations

import bisect
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from asyncsessions.codec import decode_json, decode_message, encode_json
from asyncsessions.history import is_tool_result, messages_to_drop
from asyncsessions.hooks import Window, Write, check_unshared, renewed
from asyncsessions.models import Checkpoint, SessionInfo
from asyncsessions.pacing import Breather
from asyncsessions.stores._docformat import (
    RESERVED,
    DamageError,
    extend_list,
    format_document,
    from_iso,
    is_object,
    lay_out,
    loads,
    parse_list,
    parse_messages,
    parse_object,
    to_iso,
)
from asyncsessions.stores._docmessage import entry_from_body, entry_to_body, identity, unhide
from asyncsessions.stores._docown import Own, number, runs
from asyncsessions.stores._docparts import (
    checkpoint_fields,
    is_null,
    part,
    read_checkpoint,
    typed,
)
from asyncsessions.stores._docsummary import count_of_summary, make_summary

__all__ = ["Document"]

# PraisonAI's keys in the order in which it writes them, with what is there where nothing is set.
_DEFAULTS = {
    "session_id": b'""',
    "messages": b"[]",
    "created_at": b"null",
    "updated_at": b"null",
    "agent_name": b"null",
    "user_id": b"null",
    "metadata": b"{}",
    "gateway_session_id": b"null",
    "agent_id": b"null",
    "runtime_state": b"{}",
    "archived_messages": b"[]",
}
# Metadata that is repeated at the top level.
_MIRRORED = (
    "model",
    "llm",
    "total_tokens",
    "token_count",
    "cost",
    "source",
    "reasoning_effort",
)
# A snapshot with one of these doesn't depend on the messages of the session.
_WITH_TRANSCRIPT = {"transcript", "transcript_refs"}
_TEXTS = ("agent_name", "user_id", "agent_id", "gateway_session_id")


class Document:
    """One session's document, in memory.

    Args:
        session_id: Whose it is.
        top: Its values, as they came.
        modified: Stands for its times where it has none, in seconds since the epoch.

    Raises:
        DamageError: It can't be understood.
    """

    def __init__(
        self, session_id: str, top: Mapping[str, msgspec.Raw], modified: float = 0.0
    ) -> None:
        self.session_id = session_id
        self._breather = Breather()
        self._top: dict[str, bytes | msgspec.Raw] = dict(top)
        self._load_metadata(top)
        self._load_messages(top)
        places = list(self._junk_places())
        self.checkpoint = read_checkpoint(top, self.seqs, places, self.own.covered)
        self.created_at = self._time(top, "created_at", self.own.created_at) or modified
        self.updated_at = self._time(top, "updated_at", self.own.updated_at) or modified
        self._info: SessionInfo | None = None

    # Loading.

    def _load_metadata(self, top: Mapping[str, msgspec.Raw]) -> None:
        metadata: dict[str, Any] = part(top, "metadata", parse_object) or {}
        try:
            own = unhide(metadata, Own) or Own()
        except DamageError as exc:
            exc.key = RESERVED
            raise
        if own.metadata is not msgspec.UNSET:
            metadata[RESERVED] = msgspec.Raw(encode_json(own.metadata))
        if own.session_id not in {"", self.session_id}:
            # PraisonAI copied the metadata to a fork: the state goes along, the rest stays.
            own = Own(state=own.state)
        for key in _MIRRORED:
            if key not in metadata and not is_null(top.get(key)):
                metadata[key] = top[key]
        self.own: Own = own
        self._metadata: dict[str, msgspec.Raw] = metadata

    def _load_messages(self, top: Mapping[str, msgspec.Raw]) -> None:
        entries: list[msgspec.Raw]
        entries, is_laid_out = part(top, "messages", parse_messages) or ([], False)
        self._breather.breathe()
        # What is no object is no message; it is kept, with how many messages are before it.
        self._junk: list[tuple[int, msgspec.Raw]] = []
        messages: list[msgspec.Raw] = []
        for entry in entries:
            if is_object(entry):
                messages.append(entry)
            else:
                self._junk.append((len(messages), entry))
            self._breather.breathe()
        self._entries = entries = messages
        # How many of them, from the first, are as `lay_out` returns them.
        self._laid_out = len(entries) if is_laid_out else 0
        self._breather.breathe()
        try:
            self.seqs = number(self.own, entries)
        except DamageError as exc:
            exc.key = RESERVED
            raise
        # Whether another program changed the messages since this library wrote last.
        self.was_changed = bool(entries) and runs(self.seqs) != self.own.seqs
        self.last_seq = max(self.own.last_seq, self.seqs[-1] if self.seqs else 0)

    def _junk_places(self) -> Iterator[int]:
        """Iterate over the places, among all entries, of those that are no messages."""
        return (before + index for index, (before, _) in enumerate(self._junk))

    @staticmethod
    def _time(top: Mapping[str, msgspec.Raw], key: str, exact: float | None) -> float | None:
        text = None if key not in top else loads(top[key])
        if exact is not None and to_iso(exact) == text:
            return exact
        return from_iso(text)

    # Reading.

    @property
    def info(self) -> SessionInfo:
        """The session's record."""
        if self._info is None:
            self._info = self._make_info()
        return self._info

    def read_info(self) -> SessionInfo:
        """Return the session's record for a caller, who may change what is in it."""
        info = self._make_info()
        state = decode_json(encode_json(info.state))
        checkpoint = info.checkpoint
        if checkpoint is not None:
            checkpoint = msgspec.convert(msgspec.to_builtins(checkpoint), Checkpoint)
        return msgspec.structs.replace(info, state=state, checkpoint=checkpoint)

    def _make_info(self) -> SessionInfo:
        texts = {key: self._text(key) for key in _TEXTS}
        return SessionInfo(
            session_id=self.session_id,
            created_at=self.created_at,
            updated_at=self.updated_at,
            last_seq=self.last_seq,
            message_count=len(self.seqs),
            metadata={key: loads(raw) for key, raw in self._metadata.items()},
            state=self.own.state,
            checkpoint=self.checkpoint,
            expires_at=self.own.expires_at,
            **texts,
        )

    def _text(self, key: str) -> str | None:
        value = self.value(key)
        return value if isinstance(value, str) else None

    def read(self, window: Window) -> list[bytes]:
        """Return the messages of a window, encoded with their ``seq``, oldest first."""
        start, end = window.range_of(self.seqs)
        return list(self.bodies(start, end))

    def identities(self) -> Iterator[str]:
        """Iterate over the `identity` of each message, those that PraisonAI archived included."""
        for entry in (*self._entries, *self.archived()):
            yield identity(entry)
            self._breather.breathe()

    def entries(self, newest: int | None = None) -> list[msgspec.Raw]:
        """Return the messages as they stand in the document, oldest first; or the newest ones."""
        start = 0 if newest is None else max(0, len(self._entries) - newest)
        return self._entries[start:]

    def archived(self) -> list[msgspec.Raw]:
        """Return the archived messages as they stand in the document, oldest first."""
        archived = part(self._top, "archived_messages", parse_list) or []
        return [*filter(is_object, archived)]

    def value(self, key: str) -> Any:
        """Return a value at the top level; None where there is none."""
        raw = self._top.get(key)
        return None if raw is None else loads(msgspec.Raw(raw))

    def raw(self, key: str) -> msgspec.Raw | None:
        """Return a value at the top level as it stands there; None where there is none."""
        raw = self._top.get(key)
        return None if raw is None else msgspec.Raw(raw)

    def bodies(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Iterate over messages, encoded with their ``seq``, oldest first."""
        end = len(self.seqs) if end is None else end
        for index in range(start, end):
            yield entry_to_body(self._entries[index], self.seqs[index])
            self._breather.breathe()

    # Changing.

    def add(self, bodies: Iterable[bytes]) -> int:
        """Add encoded messages with new ``seq``; return the first one."""
        return self.add_entries(map(entry_from_body, bodies))

    def add_entries(self, entries: Iterable[msgspec.Raw]) -> int:
        """Add messages as a document holds them, with new ``seq``; return the first one."""
        first = self.last_seq + 1
        for entry in entries:
            self.last_seq += 1
            self._entries.append(entry)
            self.seqs.append(self.last_seq)
            self._breather.breathe()
        self._info = None
        return first

    def replace_newest(self, entry: msgspec.Raw) -> None:
        """Put another message, as a document holds it, in place of the newest one.

        Raises:
            SessionSharedError: Others read it.
        """
        check_unshared(self.session_id, self.info.metadata, self.seqs[-1])
        self._entries[-1] = entry
        self._laid_out = min(self._laid_out, len(self._entries) - 1)

    def set_value(self, key: str, value: Any) -> None:
        """Set a value at the top level that means nothing to this library."""
        self._top[key] = encode_json(value)

    def go_on_after(self, old: Document) -> None:
        """Number the messages on from those of a document that this one replaces."""
        self.seqs = [seq + old.last_seq for seq in self.seqs]
        self.last_seq += old.last_seq
        if self.checkpoint is not None and self.checkpoint.seq:
            seq = self.checkpoint.seq + old.last_seq
            self.checkpoint = msgspec.structs.replace(self.checkpoint, seq=seq)
        self._info = None

    def put(self, body: bytes, seq: int) -> None:
        """Add an encoded message with a ``seq`` that was taken away before (`cut`)."""
        self._entries.append(entry_from_body(body))
        self.seqs.append(seq)
        self._info = None

    def cut(self, from_seq: int) -> int:
        """Remove the messages from a ``seq`` on; return how many.

        Raises:
            SessionSharedError: Others read some of them.
        """
        check_unshared(self.session_id, self.info.metadata, from_seq)
        start = bisect.bisect_left(self.seqs, from_seq)
        removed = len(self.seqs) - start
        del self._entries[start:], self.seqs[start:]
        self._laid_out = min(self._laid_out, start)
        self._junk = [(before, raw) for before, raw in self._junk if before < start]
        if removed:
            self.invalidate_snapshots(start)
        self._info = None
        return removed

    def drop_oldest(self, count: int) -> None:
        """Remove the oldest messages."""
        if not count:
            return
        del self._entries[:count], self.seqs[:count]
        self._laid_out = max(0, self._laid_out - count)
        self._junk = [(before - count, raw) for before, raw in self._junk if before > count]
        self.invalidate_snapshots(0)
        self._info = None

    def archive(self, window: int, now: float) -> None:
        """Move the oldest messages to the archive, and let one summary stand for them.

        A summary in front, PraisonAI's own too, is folded into the new one. So the active messages
        are ``window`` and the summary, and neither grows; the cut falls where retention's would.
        """
        first, archived_before = 0, 0
        if self._entries:
            count = count_of_summary(self._entries[0])
            if count is not None:
                first, archived_before = 1, count
        results = (is_tool_result(decode_message(body)) for body in self.bodies(first))
        count = messages_to_drop(results, len(self.seqs) - first - window)
        if not count:
            return
        end = first + count
        moved = self._entries[first:end]
        moved[max(0, self._laid_out - first) :] = map(
            lay_out, moved[max(0, self._laid_out - first) :]
        )
        seq = self.seqs[end - 1]
        self._top["archived_messages"] = extend_list(self._top.get("archived_messages"), moved)
        self.drop_oldest(end)
        self._entries.insert(0, lay_out(make_summary(archived_before + count, now)))
        self.seqs.insert(0, seq)
        self._laid_out += 1
        self._junk = [(before + 1, raw) for before, raw in self._junk]

    def clear_archive(self) -> int:
        """Remove what PraisonAI moved out of its window; return how many messages it was."""
        try:
            archived = part(self._top, "archived_messages", parse_list) or []
        except DamageError:
            archived = []  # Whatever it was, it is removed.
        self._top["archived_messages"] = b"[]"
        return len(archived)

    def invalidate_snapshots(self, kept: int) -> None:
        """Mark snapshots that only point at messages, of which no more than ``kept`` are left.

        PraisonAI does the same where it changes messages; else it would go back to others.
        """
        if is_null(self._top.get("snapshots")):
            return
        snapshots = loads(msgspec.Raw(self._top["snapshots"]))
        for snapshot in snapshots if isinstance(snapshots, list) else ():
            if not isinstance(snapshot, dict) or _WITH_TRANSCRIPT & snapshot.keys():
                continue
            if typed(snapshot.get("message_index"), int, 0) >= kept:
                snapshot["invalidated"] = True
        self._top["snapshots"] = encode_json(snapshots)

    def touch(self, write: Write) -> None:
        """Move the times on after a write, and the expiry where the write does so."""
        self.created_at = self.created_at or write.now
        self.updated_at = write.now
        self.own.expires_at = renewed(self.own.expires_at, write)
        self._info = None

    def set_info(self, info: SessionInfo) -> None:
        """Take over a changed record."""
        old = self.info
        for key in _TEXTS:
            if getattr(info, key) != getattr(old, key):
                self._top[key] = encode_json(getattr(info, key))
        if info.metadata is not old.metadata:
            self._metadata = {
                key: self._metadata[key]
                if key in old.metadata and value is old.metadata[key]
                else msgspec.Raw(encode_json(value))
                for key, value in info.metadata.items()
            }
        self.own.state = info.state
        self.own.expires_at = info.expires_at
        self.checkpoint = info.checkpoint
        self.last_seq = info.last_seq
        self.created_at, self.updated_at = info.created_at, info.updated_at
        self._info = info

    # Writing.

    def copy(self) -> Document:
        """Return a document that can be changed while others read this one."""
        other = copy.copy(self)
        vars(other).update(
            _breather=Breather(),
            _top=dict(self._top),
            _metadata=dict(self._metadata),
            _entries=list(self._entries),
            _junk=list(self._junk),
            seqs=list(self.seqs),
            own=msgspec.structs.replace(self.own, keys=dict(self.own.keys)),
        )
        return other

    def dump(self) -> list[bytes]:
        """Return the parts of the document's text."""
        top: dict[str, bytes | msgspec.Raw] = {}
        given = self._top
        given["session_id"] = encode_json(self.session_id)
        for key, default in _DEFAULTS.items():
            top[key] = default if is_null(given.get(key)) else given[key]
        top["messages"] = b"[]"
        self._set_time(top, "created_at", self.created_at)
        self._set_time(top, "updated_at", self.updated_at)
        if self.checkpoint is not None:
            top["last_compaction"] = self._compaction(self.checkpoint)
        for key in _MIRRORED:
            if key in self._metadata:
                top[key] = self._metadata[key]
        left_out = {"last_compaction", *_MIRRORED}
        top |= {key: raw for key, raw in given.items() if key not in top and key not in left_out}
        top["metadata"] = self._metadata_with_own()
        self._breather.breathe()
        # From now on it is as it will be read again.
        self.was_changed = False
        if self._junk or "snapshot_storage" in top:
            return format_document(top, self._all_entries())
        self._lay_out()
        return format_document(top, self._entries, is_laid_out=True)

    def _lay_out(self) -> None:
        """Lay out the messages that aren't, once for all later writes."""
        for index in range(self._laid_out, len(self._entries)):
            self._entries[index] = lay_out(self._entries[index])
            self._breather.breathe()
        self._laid_out = len(self._entries)

    def close(self) -> None:
        """Free what may be much, without a stop for other threads."""
        self._breather.free(self._entries)

    def _all_entries(self) -> Sequence[msgspec.Raw]:
        entries = list(self._entries)
        for before, raw in reversed(self._junk):
            entries.insert(before, raw)
        return entries

    def _set_time(self, top: dict[str, bytes | msgspec.Raw], key: str, seconds: float) -> None:
        """Set a time, and remember it exactly where its text is rounded."""
        raw = top[key]
        text = loads(msgspec.Raw(raw))
        if not isinstance(text, str) or (from_iso(text) != seconds and to_iso(seconds) != text):
            text = to_iso(seconds)
            self._top[key] = top[key] = encode_json(text)
        setattr(self.own, key, None if from_iso(text) == seconds else seconds)

    def _compaction(self, checkpoint: Checkpoint) -> bytes:
        fields: dict[str, Any] = part(self._top, "last_compaction", parse_object) or {}
        index = bisect.bisect_right(self.seqs, checkpoint.seq)
        covered = self.seqs[index - 1] if index else 0
        self.own.covered = None if covered == checkpoint.seq else checkpoint.seq
        entries = index + sum(before <= index for before, _ in self._junk)
        fields |= checkpoint_fields(checkpoint, entries)
        return encode_json(fields)

    def _metadata_with_own(self) -> bytes:
        fields: dict[str, Any] = dict(self._metadata)
        own = self.own
        own.metadata = fields.pop(RESERVED, msgspec.UNSET)
        own.version, own.session_id = 0, ""
        own.last_seq = self.last_seq
        own.seqs = runs(self.seqs)
        own.anchor = identity(self._entries[-1]) if self._entries else ""
        if self.checkpoint is None:
            own.covered = None
        if own != Own():
            own.version, own.session_id = 1, self.session_id
            fields[RESERVED] = own
        return encode_json(fields)
