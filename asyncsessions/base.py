"""The base class of all stores: every shared semantic, once.

A store fills seven hooks; each is one atomic action of its server or file. Everything else
(validation, encoding, group commit, windows, expiry, cancellation, error translation, life
cycle) happens here and means the same on every store.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Any, Self, TypeVar, final
from weakref import WeakValueDictionary

import msgspec

from asyncsessions import codec, exporting, history, importing
from asyncsessions.batching import Outcome
from asyncsessions.engine import Engine
from asyncsessions.errors import (
    CorruptSessionError,
    InvalidMessageError,
    StoreUnavailableError,
    VersionConflictError,
)
from asyncsessions.hooks import (
    Append,
    Appended,
    Change,
    Replace,
    Replaced,
    Scan,
    Tail,
    Update,
    Window,
)
from asyncsessions.ids import check_session_id
from asyncsessions.models import (
    Checkpoint,
    ImportReport,
    JSONValue,
    Message,
    SearchHit,
    SessionData,
    SessionInfo,
    SessionPage,
)
from asyncsessions.pacing import Pacer, paced_map
from asyncsessions.protocols import Sessions, SessionStore
from asyncsessions.requests import (
    Policy,
    append_all,
    append_large,
    append_one,
    check_limit,
    check_text,
    decode_cursor,
    encode_cursor,
    is_number,
    make_changes,
    make_update,
    take_object,
)
from asyncsessions.search import search_newest

__all__ = ["BaseSessionStore"]

T = TypeVar("T")

# What a long read holds in memory at a time.
_PAGE = Window(limit=1000, oldest=True, max_bytes=4 << 20)
_PURGE_PAGE = 100
_MESSAGES = frozenset({Message})
_LOOKED_UP = ("agent_name", "user_id", "agent_id", "gateway_session_id")


class BaseSessionStore(SessionStore, ABC):
    """Implements `SessionStore` on a few hooks.

    Whatever here isn't a hook has two underscores before its name, so a store's can't clash;
    only `_perform`, `_consult` and `_enqueue` are there for a store to call.

    Args:
        max_messages: Retention: older messages are dropped for good in the same step as an
            append, tool calls together with their results. None keeps everything.
        ttl_seconds: A session vanishes so long after its last write. None: never.
        max_message_bytes: The largest message, in bytes of JSON.
        clock: Returns seconds since the epoch.

    Raises:
        ValueError: An argument is out of range.
    """

    #: What a driver raises when its server or disk fails; becomes `StoreUnavailableError`.
    _driver_errors: tuple[type[Exception], ...] = (OSError,)
    #: Whether the hooks leave out what has expired themselves, by their server's clock. The
    #: ``now`` that they get says then only what time the record and the messages show.
    _expires_by_server: bool = False
    #: How many batches `_append` and `_update` may have under way at the same time; no session is
    #: in two of them, unless appends are chained.
    _flushes_at_once: int = 1
    #: Whether one may begin while callers of the last one are still to be told, where there are
    #: many. It saves time where a flush takes little of this process's own.
    _overlaps_flushes: bool = False
    #: Whether `_append` may get a batch of one session's while its last such batch is under way. It
    #: then sees to it that they take effect in their order, or that those of the first never do.
    _chains_appends: bool = False
    #: Whether messages stay until a call removes them, or ``max_messages`` or an expiry does.
    _keeps_messages: bool = True

    def __init__(
        self,
        *,
        max_messages: int | None = None,
        ttl_seconds: float | None = None,
        max_message_bytes: int = 8 << 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if clock is not time.time:
            # What is stored is a float, also where the clock's seconds are whole numbers.
            given, clock = clock, lambda: float(given())
        self.__policy = Policy(max_messages, ttl_seconds, max_message_bytes, clock)
        # Sessions of which a message is being removed.
        self.__removing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.__engine = Engine(self)

    @classmethod
    @abstractmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Return a store for a URL; options win over those in its query.

        Raises:
            ValueError: The URL or an option isn't valid; names it.
        """

    # The hooks, which a store fills.

    async def _open(self) -> None:
        """Get ready: connect, create what is missing. Called once, before any other hook."""

    async def _close(self) -> None:
        """Let go of everything that this store owns. Called once; no write is under way."""

    @abstractmethod
    async def _append(self, batch: Sequence[Append]) -> Sequence[Outcome[Appended]]:
        """Append to many sessions, in as few round trips as possible.

        The appends of one session are stored in their order. Each append is atomic by itself,
        and the others go on where one fails. Inside the session's atomic step: a session that
        has expired by ``now`` counts as absent, `hooks.admit` decides whether to store,
        ``seq`` continues from the highest one ever given in the session, the key is remembered,
        retention drops what `history.messages_to_drop` says, and ``updated_at`` and the expiry
        move. What is returned as stored is durable and readable by every process.

        Returns:
            For each append its result, the error for its caller, or a future of either.
        """

    @abstractmethod
    async def _update(self, batch: Sequence[Update]) -> Sequence[Outcome[list[JSONValue] | None]]:
        """Change the records of many sessions; each update is atomic, as in `_append`.

        An expired session counts as absent. What the changes mean: `hooks.apply_changes`.

        Returns:
            For each update the values of its changes; None where the session doesn't exist and
            isn't to be created; the error for its caller; or a future of these.
        """

    @abstractmethod
    async def _replace(self, replace: Replace) -> Replaced | None:
        """Remove a session's newest messages for good and add others, in one atomic step.

        Returns:
            None where nothing was done: ``if_newest`` is another message, or the session doesn't
            exist (or has expired) and isn't to be created.

        Raises:
            SessionSharedError: As `hooks.check_unshared` says, inside the step.
        """

    @abstractmethod
    async def _delete(self, session_id: str, *, expired_at: float | None = None) -> bool:
        """Remove a session with everything that belongs to it, for good.

        Args:
            session_id: The session.
            expired_at: Only if it has expired by this time.

        Returns:
            Whether there was a session to remove.

        Raises:
            SessionSharedError: As `hooks.check_unshared` says, inside the step; but what has
                expired is removed whoever reads it, as nobody can any more.
        """

    @abstractmethod
    async def _head(self, session_id: str) -> SessionInfo | None:
        """Return a session's record; None where there is none."""

    @abstractmethod
    async def _tail(self, session_id: str, window: Window) -> Tail | None:
        """Return messages, at a cost that depends on the window and not on the history.

        Returns:
            None where there is no session.
        """

    @abstractmethod
    async def _scan(self, scan: Scan) -> Sequence[SessionInfo]:
        """Return the sessions that `Scan.matches`, in its order."""

    async def _ping(self) -> None:
        """Raise one of ``_driver_errors`` if the store can't be used now."""

    async def _locate(self, session_id: str, damaged: bytes) -> tuple[str | None, int | None]:
        """Return the path and line of a damaged message, for the error; None where unknown."""
        del session_id, damaged  # Only a store with files knows.
        return None, None

    def _explain(self, exc: Exception) -> tuple[type[StoreUnavailableError], str]:
        """Say what one of ``_driver_errors`` means: which error it becomes, and its text.

        The text says what happened and what to do. It holds no content and no credentials.
        """
        return StoreUnavailableError, str(exc)

    def _failure(self, exc: Exception, session_id: str | None) -> StoreUnavailableError:
        """Return this library's error for one of ``_driver_errors``."""
        which = "" if session_id is None else f" for session {session_id!r}"
        kind, detail = self._explain(exc)
        error = kind(f"{type(self).__name__} failed{which}: {detail}", session_id=session_id)
        error.__cause__ = exc
        return error

    # Life cycle.

    @final
    async def __aenter__(self) -> Self:
        await self.__engine.open()
        return self

    @final
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.__engine.aclose()

    @final
    async def aclose(self) -> None:
        await self.__engine.aclose()

    @final
    @property
    def policy(self) -> Policy:
        """The options that every store has."""
        return self.__policy

    @final
    @property
    def is_open(self) -> bool:
        """Whether the store is open; then it belongs to the event loop that opened it."""
        return self.__engine.is_ready

    @final
    async def ping(self) -> None:
        await self.__engine.read(self._ping)

    @final
    async def _perform(
        self, session_id: str, verb: Callable[[Policy], Coroutine[Any, Any, T]]
    ) -> T:
        """Return the result of a write that only this store has.

        It is called as the hooks are: with a valid id, while the store is open, and seen through
        where the caller is cancelled. It gets the options that every store has.
        """
        check_session_id(session_id)
        return await self.__engine.act(session_id, verb, self.__policy)

    @final
    async def _consult(self, hook: Callable[..., Awaitable[T]], session_id: str, *args: Any) -> T:
        """Return what a hook reads; the driver's errors become this library's."""
        return await self.__engine.read(hook, session_id, *args)

    @final
    async def _enqueue(self, write: Append | Update, size: int) -> asyncio.Future[Any]:
        """Queue a write, of so many bytes, and return where its outcome will be.

        This is for a store that is made of this one: its writes are in one order with all others.
        """
        entry = await self.__engine.enqueue(write, size)
        return entry.caller

    # Append.

    @final
    async def add_message(
        self,
        session_id: str,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None = None,
        *,
        tool_calls: list[Any] | None = None,
        tool_call_id: str | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        policy = self.__policy
        message = Message(
            role,
            content,
            policy.clock(),
            {} if metadata is None else metadata,
            tool_calls,
            tool_call_id,
            name,
        )
        if codec.is_large(message):
            append = await append_large(policy, session_id, message, idempotency_key)
        else:
            append = append_one(policy, session_id, message, idempotency_key)
        size = len(append.bodies[0])
        engine = self.__engine
        entry = engine.offer(session_id, append, size) or await engine.enqueue(append, size)
        # A hundred thousand calls may wait here, so none keeps what it has encoded.
        del append, message, content, metadata, tool_calls
        try:
            await entry.caller
        except asyncio.CancelledError:
            await entry.settle()
            raise
        return True

    @final
    async def append(
        self,
        session_id: str,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> list[Message]:
        given = await self.__given(messages)
        append = await append_all(
            self.__policy,
            session_id,
            given,
            idempotency_key=idempotency_key,
            expected_seq=expected_seq,
        )
        if not given and expected_seq is None:
            return []
        try:
            done: Appended = await self.__engine.write(append, sum(map(len, append.bodies)))
        except VersionConflictError as exc:
            exc.messages = await self.get_messages(session_id, after=exc.expected_seq)
            raise

        def stored(index: int) -> Message:
            message = given[index]
            return msgspec.structs.replace(
                message, seq=done.first_seq + index, timestamp=message.timestamp or done.now
            )

        return await paced_map(stored, range(len(given)))

    @staticmethod
    async def __given(messages: Sequence[Message | Mapping[str, Any]]) -> Sequence[Message]:
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
            text = f"messages is a list of messages, not {type(messages).__name__}"
            raise InvalidMessageError(text, field="messages")
        given: list[Any] = list(messages)
        if _MESSAGES.issuperset(map(type, given)):
            return given
        indexes = range(len(given))
        return await paced_map(lambda index: codec.message_from(index, given[index]), indexes)

    @final
    async def add_user_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        return await self.add_message(session_id, "user", content, metadata)

    @final
    async def add_assistant_message(
        self, session_id: str, content: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        return await self.add_message(session_id, "assistant", content, metadata)

    # Streaming turns.

    @final
    async def upsert_partial_assistant_message(
        self, session_id: str, content: str, *, finalize: bool = False
    ) -> bool:
        policy = self.__policy
        metadata = {} if finalize else {"partial": True}
        message = Message("assistant", content, policy.clock(), metadata)
        if codec.is_large(message):
            append = await append_large(policy, session_id, message, None)
        else:
            append = append_one(policy, session_id, message, None)
        if finalize and not content:
            return await self.discard_partial_assistant_message(session_id)
        while True:
            newest = await self.__newest(session_id)
            if newest is None or not _is_partial(newest):
                if await self.__append_after(newest, append):
                    return True
            elif await self.__swap_newest(session_id, newest.seq, append.bodies):
                return True

    @final
    async def discard_partial_assistant_message(self, session_id: str) -> bool:
        await self.__remove_newest(session_id, _is_partial)
        return True

    @final
    async def pop_message(self, session_id: str) -> Message | None:
        return await self.__remove_newest(session_id, lambda _: True)

    async def __newest(self, session_id: str) -> Message | None:
        return next(iter(await self.__messages(session_id, limit=1)), None)

    async def __append_after(self, newest: Message | None, append: Append) -> bool:
        """Append unless another message has come after ``newest``; return whether it did."""
        info = await self.__info(append.session_id)
        last_seq = 0 if info is None else info.last_seq
        if last_seq and (newest is None or newest.seq != last_seq):
            # The last one was removed, or another one came.
            again = await self.__newest(append.session_id)
            if again != newest:
                return False
        append = msgspec.structs.replace(append, expected_seq=last_seq)
        try:
            await self.__engine.write(append, len(append.bodies[0]))
        except VersionConflictError:
            return False
        return True

    async def __swap_newest(self, session_id: str, seq: int, bodies: tuple[bytes, ...]) -> bool:
        """Put another message, or none, in place of ``seq`` if that is the newest one still."""
        replace = self.__replacement(
            session_id, seq, bodies=bodies, if_newest=seq, in_place=bool(bodies)
        )
        return await self.__engine.act(session_id, self._replace, replace) is not None

    async def __remove_newest(
        self, session_id: str, is_wanted: Callable[[Message], bool]
    ) -> Message | None:
        """Remove the newest message if it is one that is wanted, and return it.

        It is compare-and-swap on the newest ``seq``: whoever finds that another writer was first
        looks again. One of the contenders always gets through, and this store sends only one.
        """
        async with self.__removing.setdefault(session_id, asyncio.Lock()):
            while True:
                newest = await self.__newest(session_id)
                if newest is None or not is_wanted(newest):
                    return None
                if await self.__swap_newest(session_id, newest.seq, ()):
                    return newest

    def __replacement(self, session_id: str, from_seq: int, **fields: Any) -> Replace:
        fields.setdefault("bodies", ())
        policy = self.__policy
        return Replace(
            session_id, from_seq, now=policy.clock(), ttl_seconds=policy.ttl_seconds, **fields
        )

    # Read.

    @final
    async def get_chat_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        window = await self.__messages(session_id, limit=check_limit("max_messages", max_messages))
        return await history.to_chat(window)

    @final
    async def get_messages(
        self,
        session_id: str,
        *,
        limit: int | None = None,
        before: int | None = None,
        after: int | None = None,
    ) -> list[Message]:
        return await self.__messages(
            session_id,
            limit=check_limit("limit", limit),
            before=check_limit("before", before),
            after=check_limit("after", after) or 0,
            oldest=after is not None and before is None,
        )

    async def __messages(self, session_id: str, **window: Any) -> list[Message]:
        check_session_id(session_id)
        if window.get("limit") == 0:
            return []
        tail = await self.__engine.read(self._tail, session_id, Window(**window))
        if tail is None or (
            tail.expires_at is not None and tail.expires_at <= self.__policy.clock()
        ):
            return []
        return await self.__decode(session_id, tail.messages)

    async def __decode(self, session_id: str, bodies: Sequence[bytes]) -> list[Message]:
        messages: list[Message] = []
        try:
            await codec.decode_messages(bodies, messages)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            path, line = await self._locate(session_id, bodies[len(messages)])
            detail = f"a message can't be decoded: {exc}"
            error = CorruptSessionError(detail, session_id=session_id, path=path, line=line)
            raise error from exc
        return messages

    @final
    async def iter_messages(
        self, session_id: str, *, after: int = 0, before: int | None = None
    ) -> AsyncIterator[Message]:
        page = msgspec.structs.asdict(_PAGE) | {"before": before}
        pacer = Pacer()
        while messages := await self.__messages(session_id, **page | {"after": after}):
            for index, message in enumerate(messages):
                yield message
                if not index & 15:
                    await pacer.pause()
            after = messages[-1].seq

    @final
    async def get_info(self, session_id: str) -> SessionInfo | None:
        """Return a session's record without its messages; None where there is no session."""
        return await self.__info(session_id)

    @final
    async def session_exists(self, session_id: str) -> bool:
        return await self.__info(session_id) is not None

    async def __info(self, session_id: str) -> SessionInfo | None:
        check_session_id(session_id)
        info = await self.__engine.read(self._head, session_id)
        if info is None or self._expires_by_server:
            return info
        return None if info.is_expired(self.__policy.clock()) else info

    @final
    async def get_session(self, session_id: str, *, max_messages: int | None = None) -> SessionData:
        limit = check_limit("max_messages", max_messages)
        info = await self.__info(session_id)
        if info is None:
            return SessionData(session_id=session_id)
        messages = await self.__messages(session_id, limit=limit, before=info.last_seq + 1)
        fields = {name: getattr(info, name) for name in info.__struct_fields__}
        return SessionData(**fields, messages=messages)

    @final
    async def get_working_history(
        self, session_id: str, max_messages: int | None = None
    ) -> list[dict[str, Any]]:
        limit = check_limit("max_messages", max_messages)
        info = await self.__info(session_id)
        checkpoint = None if info is None else info.checkpoint
        after = 0 if checkpoint is None else checkpoint.seq
        window = await self.__messages(session_id, limit=limit, after=after)
        chat = await history.to_chat(window)
        return chat if checkpoint is None else [checkpoint.to_chat(), *chat]

    @final
    async def window(
        self, session_id: str, around_seq: int | None = None, *, window: int = 5
    ) -> list[Message]:
        check_limit("window", window)
        check_limit("around_seq", around_seq)
        if around_seq is None:
            return await self.__messages(session_id, limit=window + 1)
        older = await self.__messages(session_id, limit=window + 1, before=around_seq + 1)
        newer = await self.__messages(session_id, limit=window, after=around_seq, oldest=True)
        return older + newer

    # Rewrite.

    @final
    async def set_chat_history(
        self, session_id: str, messages: Sequence[Message | Mapping[str, Any]]
    ) -> bool:
        given = await self.__given(messages)
        if self.__policy.max_messages is not None:
            excess = len(given) - self.__policy.max_messages
            given = given[history.messages_to_drop(map(history.is_tool_result, given), excess) :]
        bodies = (await append_all(self.__policy, session_id, given)).bodies
        replace = self.__replacement(
            session_id, 1, bodies=bodies, drop_checkpoint=True, create=True
        )
        await self.__engine.act(session_id, self._replace, replace)
        return True

    @final
    async def clear_session(self, session_id: str) -> bool:
        check_session_id(session_id)
        replace = self.__replacement(session_id, 1, drop_checkpoint=True)
        done = await self.__engine.act(session_id, self._replace, replace)
        return done is not None and (done.removed > 0 or done.had_checkpoint)

    @final
    async def delete_session(self, session_id: str) -> bool:
        check_session_id(session_id)
        try:
            # What has expired is gone already, as far as a caller can tell.
            existed = await self.__info(session_id) is not None
        except CorruptSessionError:
            existed = True
        return await self.__engine.act(session_id, self._delete, session_id) and existed

    @final
    async def append_compaction_checkpoint(
        self,
        session_id: str,
        summary: str,
        *,
        role: str = "system",
        tokens_before: int = 0,
        tokens_after: int = 0,
        metadata: dict[str, Any] | None = None,
        seq: int | None = None,
    ) -> bool:
        if not isinstance(summary, str) or not summary.strip():
            raise InvalidMessageError("summary is text that isn't blank", field="summary")
        codec.encode_message(Message(role), self.__policy.max_message_bytes)
        metadata = await take_object(self.__policy, session_id, "metadata", metadata or {})
        for field, tokens in (("tokens_before", tokens_before), ("tokens_after", tokens_after)):
            if type(tokens) is not int:
                text = f"{field} is a whole number, not {type(tokens).__name__}"
                raise InvalidMessageError(text, field=field)
        if check_limit("seq", seq) is None:
            # Read first: a message that comes in meanwhile isn't covered, and stays visible.
            info = await self.__info(session_id)
            seq = 0 if info is None else info.last_seq
        now = self.__policy.clock()
        checkpoint = Checkpoint(summary, seq or 0, role, tokens_before, tokens_after, now, metadata)
        await self.__change(session_id, Change(("checkpoint",), "set", checkpoint))
        return True

    # Record.

    async def __change(self, session_id: str, *changes: Change, **options: Any) -> Any:
        """Apply changes to the record in one atomic step; return their values."""
        update, size = await make_update(self.__policy, session_id, changes, **options)
        return await self.__engine.write(update, size)

    @final
    async def update_session_metadata(self, session_id: str, /, **fields: Any) -> bool:
        check_session_id(session_id)
        given = {field: value for field, value in fields.items() if value is not None}
        changes = make_changes("set", "metadata", given)
        changes += [_set_text(field, given[field]) for field in _LOOKED_UP[:3] if field in given]
        if changes:
            await self.__change(session_id, *changes)
        return True

    @final
    async def merge_session_metadata_map(
        self,
        session_id: str,
        key: str,
        updates: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any] | None = None,
    ) -> bool:
        absent = make_changes("default", "metadata", defaults or {}, key)
        present = make_changes("set", "metadata", updates, key)
        await self.__change(session_id, *absent, *present)
        return True

    @final
    async def rename_session(self, session_id: str, title: str) -> bool:
        text = check_text("title", title).strip()
        path = ("metadata", "title")
        await self.__change(session_id, Change(path, "set" if text else "remove", text or None))
        return True

    @final
    async def set_agent_info(
        self, session_id: str, agent_name: str | None = None, user_id: str | None = None
    ) -> bool:
        return await self.__set_texts(session_id, agent_name=agent_name, user_id=user_id)

    @final
    async def set_gateway_info(
        self,
        session_id: str,
        gateway_session_id: str | None = None,
        agent_id: str | None = None,
    ) -> bool:
        return await self.__set_texts(
            session_id, gateway_session_id=gateway_session_id, agent_id=agent_id
        )

    async def __set_texts(self, session_id: str, **fields: str | None) -> bool:
        changes = [_set_text(field, text) for field, text in fields.items() if text]
        await self.__change(session_id, *changes)
        return True

    @final
    async def amend_session(
        self,
        session_id: str,
        changes: Sequence[Change],
        *,
        create: bool = False,
    ) -> list[JSONValue] | None:
        """Change a session's record in one atomic step: all changes or none.

        This is for what is built on stores. Callers have methods with names for what they change.

        Args:
            session_id: The session.
            changes: What to change, in this order.
            create: Whether to create a session that doesn't exist.

        Returns:
            The new value of each change; None where there is no session.

        Raises:
            SessionChangedError: Something isn't as one of the changes expects.
        """
        values: list[JSONValue] | None = await self.__change(session_id, *changes, create=create)
        return values

    @final
    async def discard_session(self, session_id: str, *, last_seq: int, updated_at: float) -> bool:
        """Remove a session for good, unless it goes on, or others read it.

        Args:
            session_id: The session.
            last_seq: Only if this is its newest ``seq`` still,
            updated_at: and it was last written then.

        Returns:
            Whether there was a session to remove.

        Raises:
            SessionChangedError: It was written meanwhile.
            SessionSharedError: Others read its messages.
        """
        expected = {"last_seq": last_seq, "updated_at": updated_at}
        done = await self.__change(
            session_id,
            *(Change((field,), "expect", value) for field, value in expected.items()),
            create=False,
            ttl_seconds=0.0,
            unless_shared=True,
        )
        if done is None:
            return False
        now = self.__policy.clock()
        await self.__engine.act(session_id, self._delete, session_id, expired_at=now)
        return True

    # State.

    @final
    async def get_state(
        self, session_id: str, key: str | None = None, default: JSONValue = None
    ) -> JSONValue:
        info = await self.__info(session_id)
        state: dict[str, JSONValue] = {} if info is None else info.state
        return state if key is None else state.get(key, default)

    @final
    async def set_state(self, session_id: str, key: str, value: JSONValue) -> None:
        await self.__change(session_id, *make_changes("set", "state", {key: value}))

    @final
    async def update_state(
        self, session_id: str, values: Mapping[str, JSONValue], *, remove: Iterable[str] = ()
    ) -> None:
        changes = make_changes("set", "state", values)
        changes += make_changes("remove", "state", dict.fromkeys(remove))
        await self.__change(session_id, *changes)

    @final
    async def increment_state(self, session_id: str, key: str, by: float = 1) -> float:
        if isinstance(by, bool) or not isinstance(by, int | float):
            text = f"by is a number, not {type(by).__name__}"
            raise InvalidMessageError(text, field="by", session_id=session_id)
        if not codec.is_finite(by):
            raise InvalidMessageError("by isn't finite", field="by", session_id=session_id)
        values = await self.__change(session_id, *make_changes("increment", "state", {key: by}))
        total: float = values[0]
        return total

    # Find.

    @final
    async def list_sessions(
        self,
        limit: int = 50,
        cursor: str | None = None,
        *,
        agent_name: str | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        gateway_session_id: str | None = None,
    ) -> SessionPage:
        texts = (agent_name, user_id, agent_id, gateway_session_id)
        fields = zip(_LOOKED_UP, texts, strict=True)
        where = {field: check_text(field, text) for field, text in fields if text is not None}
        below = None if cursor is None else decode_cursor(cursor)
        limit = check_limit("limit", limit) or 0
        if limit == 0:
            return SessionPage([], cursor)
        # One more than asked for tells whether there is another page.
        scan = Scan(limit + 1, self.__policy.clock(), below, where)
        found = await self.__engine.read(self._scan, scan)
        page = found[:limit]
        return SessionPage(page, encode_cursor(page[-1]) if len(found) > limit else None)

    @final
    async def get_sessions_by_agent(self, agent_name: str, limit: int = 10) -> list[SessionInfo]:
        return await self.list_sessions(limit, agent_name=agent_name)

    @final
    async def get_by_gateway_session(self, gateway_session_id: str) -> SessionData | None:
        page = await self.list_sessions(1, gateway_session_id=gateway_session_id)
        return await self.get_session(page[0].session_id) if page else None

    @final
    async def recent(self, *, limit: int = 10) -> list[SessionInfo]:
        return await self.list_sessions(limit)

    async def search(self, query: str, *, limit: int = 5, window: int = 5) -> list[SearchHit]:
        check_limit("limit", limit)
        check_limit("window", window)
        return await search_newest(self, query, limit=limit, window=window)

    # Move.

    async def export_session(self, session_id: str) -> dict[str, Any]:
        check_session_id(session_id)
        return await exporting.export_session(self, session_id)

    @final
    async def export_all(self) -> AsyncIterator[dict[str, Any]]:
        async for part in exporting.export_all(self):
            yield part

    async def import_sessions(
        self,
        sessions: Sessions,
        *,
        overwrite: bool = False,
        max_sessions: int | None = None,
    ) -> ImportReport:
        limit = check_limit("max_sessions", max_sessions)
        return await importing.import_sessions(
            self,
            sessions,
            self.__prepare,
            clock=self.__policy.clock,
            overwrite=overwrite,
            max_sessions=limit,
        )

    async def __prepare(
        self, info: SessionInfo, messages: Sequence[Message], expected_seq: int | None
    ) -> Callable[[], Awaitable[None]]:
        """Check imported messages and, unless it is a later part, their session's record.

        Returns:
            What stores them.
        """
        append = await append_all(
            self.__policy, info.session_id, messages, expected_seq=expected_seq
        )
        now = info.updated_at or append.now
        left = None
        if info.expires_at is not None:
            # A server counts from its own present, not from when the session was written.
            start = self.__policy.clock() if self._expires_by_server else now
            left = max(info.expires_at - start, 0.0)
        options = {"now": now, "ttl_seconds": left}
        changes = importing.record_changes(info)
        update, size = await make_update(self.__policy, info.session_id, changes, **options)
        append = msgspec.structs.replace(append, now=now)

        async def write() -> None:
            last, last_size = update, size
            if messages:
                done = await self.__engine.write(append, sum(map(len, append.bodies)))
                moved = importing.renumbered(info, done.first_seq - 1 - (expected_seq or 0))
                if moved is not info:
                    changes = importing.record_changes(moved)
                    last, last_size = await make_update(
                        self.__policy, info.session_id, changes, **options
                    )
            # A session without messages is one, too.
            if last.changes or left is not None or not messages:
                await self.__engine.write(last, last_size)

        return write

    # Expiry.

    @final
    async def expire_session(self, session_id: str, seconds: float | None) -> bool:
        if seconds is not None and not (is_number(seconds) and seconds >= 0):
            raise ValueError(f"seconds={seconds!r}: give 0 or more, or None for never")
        done = await self.__change(
            session_id,
            create=False,
            ttl_seconds=seconds,
            persist=seconds is None,
            unless_shared=seconds is not None,
        )
        return done is not None

    @final
    async def purge_expired(self) -> int:
        purged = 0
        while True:
            now = self.__policy.clock()
            found = await self.__engine.read(self._scan, Scan(_PURGE_PAGE, now, expired=True))
            before = purged
            for info in found:
                sid = info.session_id
                purged += await self.__engine.act(sid, self._delete, sid, expired_at=now)
            # A whole page that others have renewed or removed meanwhile is no reason to go on.
            if len(found) < _PURGE_PAGE or purged == before:
                return purged


def _set_text(field: str, value: object) -> Change:
    return Change((field,), "set", check_text(field, value))


def _is_partial(message: Message) -> bool:
    return message.role == "assistant" and bool(message.metadata.get("partial"))
