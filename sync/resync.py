"""A full resync in a session: the spooled snapshot applied, and what two ways have to know before and after it."""

from __future__ import annotations

from collections.abc import Container

from canal.commands import ServerKind
from canal.position import Position
from sync.fieldexpiry import FieldRule
from sync.homes import Place
from sync.reunion import Leaves, Reunion
from sync.session import Session, Superseded
from sync.sessions import Sessions
from sync.snapshot import Contact, SnapshotRun
from sync.tag import Checkpoint
from sync.target.connection import connect


def is_first(checkpoint: Checkpoint) -> bool:
    """Would a snapshot be the first thing of this task that is applied as a whole?"""
    return checkpoint.first if checkpoint.snapshot else checkpoint.position is None


async def apply_snapshot(
    sessions: Sessions,
    session: Session,
    start: Position,
    checkpoint: Checkpoint,
    target: ServerKind,
    fields: FieldRule | None,
    reunion: Reunion | None,
    *,
    barren: bool,
) -> Container[Place] | None:
    """Apply the snapshot of ``start``, from where an earlier session got to by the ``checkpoint``. Returns the keys
    that it had, where that is known and of use. Raises `Superseded` when the source began another one meanwhile.

    ``fields``: learns deadlines of hash fields. ``barren``: the source was rolled back, and nothing is to be brought.
    """
    config, capture, generation = session.config, session.capture, session.generation
    converge, deadlines = sessions.converge, sessions.deadlines
    if deadlines is not None:
        session.deadlines, session.fields = deadlines.keys.deadlines, fields
        deadlines.snapshot_begins()
    if converge is not None:
        converge.snapshot_seen = ""
    if capture.generation != generation or capture.spool.position != start:
        raise Superseded("the snapshot broke off, or another began, before it could be applied")
    resumes = checkpoint.snapshot and checkpoint.position == start
    contact = Contact(
        first=is_first(checkpoint),
        again=checkpoint.snapshot and (checkpoint.again or not resumes),
        resumes=resumes,
        barren=barren,
    )
    run = SnapshotRun(session, checkpoint.progress if resumes else 0, contact, target, sessions.transform)
    if reunion is not None and not run.first and not barren:
        run.leaves = await _begin_reunion(session, reunion, start)
        if capture.generation != generation:
            raise Superseded("the source began a new snapshot")
    elif converge is not None and reunion is None and not run.first:
        converge.not_compared()
    await run.run()
    run.leaves = None  # millions of keys, maybe
    if capture.generation != generation:  # it was not applied as a whole, and nothing streams yet
        raise Superseded("the source began a new snapshot")
    if sessions.slots is not None and config.two_way:
        await sessions.slots.pin()
    if deadlines is not None:
        deadlines.snapshot_ended(whole=not run.resumed and not barren)
    return run.had


async def _begin_reunion(session: Session, reunion: Reunion, position: Position) -> Leaves | None:
    """On a connection of its own: the session's replies belong to the writer."""
    conn = await connect(session.config.target)
    try:
        return await reunion.begin(conn, position=position)
    finally:
        conn.close()
