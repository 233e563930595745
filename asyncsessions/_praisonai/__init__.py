"""What PraisonAI leaves on a disk, translated to what `import_sessions` takes.

    directory    which sessions are in a directory, and where each of them is
    database     the sessions of a sessions.db
    spill        messages that could not be written to their session
    parsing      JSON text, and the errors that name a file and line
    session      one session object
    snapshots    the snapshots in it
    transcript   the messages in it, archived ones included
    message      one message

Nothing here changes what it reads.
"""

from __future__ import annotations

from asyncsessions._praisonai.directory import Directory
from asyncsessions._praisonai.session import from_praisonai

__all__ = ["Directory", "from_praisonai"]
