"""How a `DefaultSessionStore` gets to its sessions, and what it does where that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Hashable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import unquote

from asyncsessions import registry
from asyncsessions.errors import (
    ForkedStoreError,
    InvalidMessageError,
    InvalidSessionIdError,
    SessionSharedError,
    SessionStoreError,
    StoreClosedError,
    StoreUnavailableError,
)
from asyncsessions.protocols import SessionStore
from asyncsessions.stores._urls import split_url
from asyncsessions.sync._bridge import LoopThread, loop_thread, run
from asyncsessions.sync._original.anystore import AnyStore
from asyncsessions.sync._original.constants import (
    DEFAULT_MAX_MESSAGES,
    DEFAULT_RETENTION,
    RETENTION_COMPACT,
    RETENTION_KEEP_ALL,
    RETENTION_TRUNCATE,
)
from asyncsessions.sync._original.documents import Documents
from asyncsessions.sync._original.editing import EditableStore
from asyncsessions.sync._original.lease import Lease, shared_lease
from asyncsessions.sync._original.methods import Original
from asyncsessions.sync._original.mirror import Mirror, MirrorWriter
from asyncsessions.sync._original.spill import spill_directory

__all__ = ["REFUSALS", "Errors", "Opening", "Retention"]

REFUSALS = (InvalidMessageError, SessionSharedError, StoreUnavailableError)
"""After which the original's methods return False: nothing was stored."""

T = TypeVar("T")

Errors = Literal["original", "raise"]
Retention = Literal["compact", "truncate", "keep_all"]

_RETENTIONS = (RETENTION_COMPACT, RETENTION_TRUNCATE, RETENTION_KEEP_ALL)

logger: logging.Logger = logging.getLogger("asyncsessions.sync")


class Opening:
    """Opens the async store below at the first call, and runs calls in the loop thread."""

    session_dir: str
    """Where the files are; empty where the sessions are on a server."""
    max_messages: int
    """How long a working history is at most, unless its caller says."""
    lock_timeout: float
    """How long a write waits for a session that another process has locked, in seconds."""
    retention: str
    """What becomes of messages beyond the active window."""
    active_window: int
    """How many messages stay active; 0 or less: all."""

    def _set_up(
        self,
        *,
        max_messages: int,
        lock_timeout: float,
        retention: str | None,
        active_window: int | None,
        mirror: Mirror | None,
        errors: Errors,
        url: str | None = None,
        options: dict[str, Any],
    ) -> None:
        if retention is None:
            is_given = max_messages != DEFAULT_MAX_MESSAGES
            retention = RETENTION_TRUNCATE if is_given else DEFAULT_RETENTION
        if retention not in _RETENTIONS:
            raise ValueError(f"Invalid retention {retention!r}; give one of {_RETENTIONS}")
        if errors not in {"original", "raise"}:
            raise ValueError(f"errors={errors!r}: give 'original' or 'raise'")
        self.max_messages = max_messages
        self.lock_timeout = lock_timeout
        self.retention = retention
        self.active_window = max_messages if active_window is None else active_window
        self._raises = errors == "raise"
        self._url = url
        self._options = options
        # One as a rule, by the loop thread and by what it depends on.
        self._leases: dict[tuple[LoopThread, Hashable], Lease] = {}
        self._is_closed = False
        self._mirror = None if mirror is None else MirrorWriter(mirror)

    # The store below.

    def _lease(self) -> Lease:
        """Return the lease for a call, which is to hold it until it ends."""
        if self._is_closed:
            raise StoreClosedError
        thread = loop_thread()
        options = (self.session_dir, self.retention, self.active_window, self.lock_timeout)
        found = self._leases.get((thread, options))
        if found is not None:
            return found
        # At the first call, in a forked child, and where somebody changed an attribute. Where two
        # threads come at once, both take the first one's.
        found = self._leases.setdefault((thread, options), self._take_lease(thread))
        for other in [key for key in self._leases if key != (thread, options)]:
            self._leases.pop(other, None)
        return found

    def _take_lease(self, thread: LoopThread) -> Lease:
        if self._url is None:
            retention = tuple(self._retention_options().items())
            options = tuple(self._options.items())
            make = self._over_documents
            key = (str(self.session_dir), retention, self.lock_timeout, options, make)
            return shared_lease(thread, key, self._make_documents)
        is_forked = any(other is not thread for other, _ in list(self._leases))
        if is_forked and split_url(self._url).scheme == "memory":
            raise ForkedStoreError
        return shared_lease(thread, None, self._make_any)

    def _retention_options(self) -> dict[str, int]:
        """Return the option of a store of documents that does what the retention says."""
        window = self.active_window
        if self.retention == RETENTION_KEEP_ALL or window is None or window <= 0:
            return {}
        name = "active_window" if self.retention == RETENTION_COMPACT else "max_messages"
        return {name: window}

    def _make_documents(self) -> tuple[SessionStore, Original]:
        options: dict[str, Any] = {**self._options, **self._retention_options()}
        options["lock_timeout"] = max(0.0, self.lock_timeout)
        store = EditableStore(self.session_dir, **options)
        return store, self._over_documents(Documents(store, spill_directory()))

    def _make_any(self) -> tuple[SessionStore, Original]:
        url, options = self._url or "", self._retention_options()
        if split_url(url).scheme == "json":
            documents = EditableStore.from_url(url, **options, **self._options)
            return documents, self._over_documents(Documents(documents, spill_directory()))
        window = options.pop("active_window", None)
        return self._over_store(registry.open_store(url, **options, **self._options), window)

    @staticmethod
    def _over_documents(documents: Documents) -> Original:
        return Original(documents)

    @staticmethod
    def _over_store(store: SessionStore, window: int | None) -> tuple[SessionStore, Original]:
        return store, Original(AnyStore(store, window))

    # Calls.

    def _run(
        self, method: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> T:
        lease = self._lease()
        try:
            return run(method, lease.original, *args, **kwargs)
        except InvalidSessionIdError as exc:
            if exc.session_id is None:
                raise TypeError(str(exc)) from exc  # It is no text at all.
            raise

    def _read(
        self,
        fallback: Callable[[], T],
        method: Callable[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> T:
        """Return a method's result, or what the original returns where the store is unavailable."""
        try:
            return self._run(method, *args, **kwargs)
        except StoreUnavailableError as exc:
            if self._raises:
                raise
            logger.error("sessions can't be read: %s", exc)  # noqa: TRY400  # the text says it all
            return fallback()

    def _write(
        self, method: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any, **kwargs: Any
    ) -> bool:
        """Return whether a method could store what it was given."""
        try:
            self._run(method, *args, **kwargs)
        except REFUSALS as exc:
            self._refused(exc)
            return False
        return True

    def _refused(self, exc: SessionStoreError) -> None:
        """Log why nothing was stored, unless the caller wants the error."""
        if self._raises:
            raise exc
        logger.error("nothing was stored: %s", exc)

    # Life.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all resources; nothing is lost without it. Later calls raise."""
        self._is_closed = True
        self._leases.clear()
        if self._mirror is not None:
            self._mirror.close()


def directory_of(url: str) -> str:
    """Return the directory of a ``json://`` URL; empty text for any other."""
    parts = split_url(url)
    return unquote(parts.netloc + parts.path) if parts.scheme == "json" else ""
