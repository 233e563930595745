"""One command's updates for jobs, and which jobs each of them is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bson import encode
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from asyncsessions.pacing import Pacer
from asyncsessions.stores._mongo_changes import shared_change, shared_update, update_between
from asyncsessions.stores._mongo_database import Document
from asyncsessions.stores._mongo_jobs import Job

__all__ = ["Updates"]


class Updates(NamedTuple):
    """The updates of one command.

    Attributes:
        documents: The updates.
        jobs: For each, the jobs that share it.
    """

    documents: list[Document]
    jobs: list[Sequence[Job]]

    @classmethod
    async def of(cls, jobs: Sequence[Job]) -> Updates:
        """Return the updates that make the last attempts of jobs their sessions' versions."""
        changes: dict[str, RawBSONDocument] = {}
        sharers: list[Job] = []
        updates = cls([], [])
        pacer = Pacer()
        for job in jobs:
            await pacer.pause()
            attempt = job.attempts[-1]
            assert attempt.base is not None  # noqa: S101  # or it would be an insert
            is_alone = job.is_alone or len(jobs) == 1
            change = None if is_alone else shared_change(attempt.base, attempt.head)
            if change is None:
                updates.add(update_between(attempt.base, attempt.head), [job])
            else:
                # One object until the reply is there, instead of seven that the collector visits.
                changes[job.session_id] = RawBSONDocument(encode(change))
                sharers.append(job)
        if sharers:
            updates.add(shared_update(changes), sharers)
        return updates

    def add(self, update: Document, jobs: Sequence[Job]) -> None:
        """Take one more."""
        self.documents.append(update)
        self.jobs.append(jobs)

    def refused(self, failures: Mapping[int, OperationFailure]) -> dict[Job, OperationFailure]:
        """Return the jobs that the server has refused.

        Where several shared an update, one of them may have made it fail, and the server may have
        got to some of the others. They are to look, and if need be try again alone.
        """
        refused: dict[Job, OperationFailure] = {}
        for index, failure in failures.items():
            jobs = self.jobs[index]
            if len(jobs) == 1:
                refused[jobs[0]] = failure
            for job in jobs:
                job.is_alone = True
        return refused
