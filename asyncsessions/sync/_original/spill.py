"""Messages that PraisonAI could not write, taken over when their session is read.

Two things that PraisonAI's own take-over does can't be told from the files alone:

* A file names its session but no directory, and PraisonAI gives it to whichever directory reads a
  session of that id first. Here it stays where it is unless PraisonAI opened the session in this
  directory when it was made, or since. Where it uses one id in two directories at the same time,
  only a home of its own for each (``PRAISONAI_HOME``) keeps them apart.
* PraisonAI clears and deletes sessions without looking here, so that what was spilled before
  comes back afterwards. Whoever takes over before clearing, replacing or deleting has that in the
  session by then, and it goes with the rest.
"""

from __future__ import annotations

import os
from pathlib import Path

from anyio import to_thread

from asyncsessions.stores.json import JSONSessionStore

__all__ = ["spill_directory", "take_over_spills"]


async def take_over_spills(
    store: JSONSessionStore, session_id: str, spills: Path | None = None
) -> int:
    """Return how many messages a session got that PraisonAI had to spill.

    See `JSONSessionStore.take_over_spills`. Where nothing was spilled, it costs one look at one
    directory, off the event loop.

    Args:
        store: Where the session is.
        session_id: The session.
        spills: Where PraisonAI spills; None looks it up (`spill_directory`), in a thread.
    """
    if spills is None:
        spills = await to_thread.run_sync(spill_directory)
    return await store.take_over_spills(session_id, spills)


def spill_directory() -> Path:
    """Return where PraisonAI spills for this user and environment; it may be missing.

    It looks at the disk, so call it off the event loop.
    """
    return _state_directory() / "state" / "session_spill"


def _state_directory() -> Path:
    given = os.environ.get("PRAISONAI_HOME")
    if given:
        return Path(given).expanduser()
    home = Path.home()
    for name in (".praisonai", ".praison"):
        if (home / name).exists():
            return home / name
    state = os.environ.get("XDG_STATE_HOME", "")
    # A relative path is to be ignored, says the XDG specification.
    return (Path(state) if Path(state).is_absolute() else home / ".local/state") / "praisonai"
