"""A side of a two-way link that went back: restored from an old file, or failed over to a replica that lacked writes.

What it lost of the other side's writes comes again by the link. What it lost of its own stands at the other side alone,
as tagged writes that no link brings back, while its old state is about to be taken for its newest. So the side that was
rolled back loses everywhere:

- Both sides are compared, and the healthy one's state wins, its absence too (`sync.reunion`).
- A snapshot of the side that went back brings nothing, and what was replayed beyond a fork is not fetched again.
- Until both are equal no key is echoed there, whoever its home is: an echo would make the old state a new write. Nor is
  one at a server that was restarted or took over until both links of the pair have looked at it.

What it writes from then on comes through its stream like any other write.

It is noticed by evidence (`sync.evidence`), by whichever link meets it first: the link *into* that side finds its
checkpoint there older than what it had committed, or than what that side's own tags say of it; the link *out of* it had
applied more of its stream than there is now. The mark is a reserved key at the healthy side, written before anything is
done that would wipe the evidence out, and removed by the link into the side that went back once both are equal. A
server that lost everything, the checkpoints too, is no such side: it has no old state that could win.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Final

from canal.errors import AuthError, CanalError
from canal.position import Position
from sync.config import LinkConfig
from sync.echoes import Echoes
from sync.evidence import Told, behind, holds_all, links_from, lost, takes_up, told_by
from sync.failover import Fork
from sync.reunion import Reunion, rollback_key
from sync.seen import PREFIX as DIGITS
from sync.status import LinkStatus
from sync.tag import INDEX, Checkpoint, checkpoint_key
from sync.target.connection import Connection, connect
from sync.target.fence import ServerInfo, server_info

log = logging.getLogger(__name__)

_LOOK_S: Final = 5.0
_PENDING_S: Final = 1.0
_LIVES_MS: Final = 7 * 24 * 3_600_000  # the mark of a link that is gone holds echoes up for no longer


class Rollback:
    """One link's. ``judge_target``, ``judge_fork`` and ``judge_snapshot`` at the start of each session, in this order
    and before anything is written; ``run`` beside the link.
    """

    def __init__(self, config: LinkConfig, status: LinkStatus, reunion: Reunion, echoes: Echoes) -> None:
        self._config, self._status = config, status
        self._reunion, self._echoes = reunion, echoes
        self._source = ""  # what tells that the source went back, as long as the mark stands at the target
        echoes.vet()
        self._show()

    async def run(self) -> None:
        """Until cancelled: hear what other links have found, and when it is over."""
        looked = 0.0
        while True:
            await asyncio.sleep(_PENDING_S)
            pending = self._status.rolled_back or self._echoes.waits_for_trust
            if self._status.state == "streaming" and (pending or time.monotonic() - looked >= _LOOK_S):
                looked = time.monotonic()
                try:
                    source, target = await self._connected()
                    try:
                        await self._look(source, target)
                    finally:
                        source.close()
                        target.close()
                except CanalError as error:
                    log.debug("whether a side went back is not known: %s", error)
            self._show()

    async def _connected(self) -> tuple[Connection, Connection]:
        source = await connect(self._config.source, who="source")
        try:
            return source, await connect(self._config.target)
        except BaseException:
            source.close()
            raise

    async def _look(self, source: Connection, target: Connection) -> None:
        back = await links_from(source, self._config.target_dc)  # a mark stands before a link is in the new history
        servers = server_info(await source.call(b"INFO")), server_info(await target.call(b"INFO"))
        self._source = await _marked(target, self._config.source_dc)
        why = await _marked(source, self._config.target_dc)
        if why and not self._reunion.rolled_back:
            await self._reunion.begin(target, why)
        self._show()
        self._echoes.met_source(servers[0])
        self._trust_target(back, servers[1])

    def _trust_target(self, back: list[Told], server: ServerInfo) -> None:
        followed = takes_up(back, server)
        self._echoes.part(not followed)
        if followed:
            self._echoes.trust_target(server)

    def _show(self) -> None:
        config, status = self._config, self._status
        sides = ((config.source_dc, self._source), (config.target_dc, self._reunion.rolled_back))
        before, status.rolled_back = status.rolled_back, "; ".join(f"{dc} went back: {why}" for dc, why in sides if why)
        if status.detail in ("", before):
            status.detail = status.rolled_back
        self._echoes.distrust(source=bool(self._source), target=bool(self._reunion.rolled_back))

    # --- the target ---

    async def judge_target(self, conn: Connection, found: Position | None, known: Position | None) -> None:
        """``found``: the checkpoint at the target; ``known``: what this process had committed there last.

        Raises CanalError where the target is known to have gone back, and the source cannot be told. Where the source
        cannot be asked at all, its evidence is not waited for: the target may need what the journal has.
        """
        self._echoes.part(True)  # a target that has to be connected to again may have another history
        self._source = await _marked(conn, self._config.source_dc)
        sure = found is not None and known is not None and behind(found, _promise(known), _NOBODY)
        try:
            await self._judge(conn, found, known)
        except CanalError as error:
            if sure:
                raise
            log.info("whether the target went back is not known: %s", error)
        self._show()

    async def _judge(self, conn: Connection, found: Position | None, known: Position | None) -> None:
        config = self._config
        source = await connect(config.source, who="source")
        try:
            back = await links_from(source, config.target_dc)
            owner = server_info(await source.call(b"INFO"))
            server = server_info(await conn.call(b"INFO"))
            why = "" if found is None else self._target_lacks(found, known, back, owner)
            if why and holds_all(back, server):
                log.info("%s went back, but has all of its own writes that were applied: %s", config.target_dc, why)
                why = ""
            marked = await _marked(source, config.target_dc)
            if why and not marked:
                await _mark(source, config.target_dc, why)
                log.error(
                    "datacenter %s (%s) was rolled back: %s. It loses: what differs is set to the state of %s, and a "
                    "snapshot of it brings nothing; writes made there from now on count",
                    *(config.target_dc, config.target.label, why, config.source_dc),
                )
            if (why or marked) and not self._reunion.rolled_back:
                await self._reunion.begin(conn, marked or why)
            self._trust_target(back, server)
        finally:
            source.close()

    def _target_lacks(self, found: Position, known: Position | None, back: list[Told], owner: ServerInfo) -> str:
        dc = self._config.source_dc
        said = [told.seen[dc] for told in back if dc in told.seen]
        if known is not None:
            said.append(_promise(known))
        for promised in said:
            if behind(found, promised, owner):
                return f"it had {dc} up to {promised[0]}:{promised[1]}, and has it up to {found}"
        return ""

    # --- the source ---

    async def judge_fork(self, conn: Connection, fork: Fork, position: Position | None) -> Fork:
        """The source's history parts from what was received: are the keys beyond the fork to be fetched from it?"""
        at = fork.position
        beyond = position is not None and position.replid == at.replid and position.offset > at.offset
        if beyond and fork.places and not self._source:
            await self._source_went_back(conn, f"{position} of it was applied, and that history ends at {at.offset}")
        self._show()
        return replace(fork, places=[]) if self._source else fork

    async def judge_snapshot(self, conn: Connection, checkpoint: Checkpoint) -> bool:
        """Is the snapshot that is about to be applied one of a side that went back, of which nothing is to be brought?

        Raises PeerError when the source cannot be asked.
        """
        self._source = await _marked(conn, self._config.source_dc)
        if not self._source:
            try:
                why = await self._source_lacks(conn, checkpoint)
            except AuthError as error:
                log.warning("whether the source went back is not known: %s", error)
                why = ""
            if why:
                await self._source_went_back(conn, why)
        self._show()
        return bool(self._source)

    async def _source_lacks(self, conn: Connection, checkpoint: Checkpoint) -> str:
        config = self._config
        told = await told_by(conn, checkpoint_key(config.task, config.shard))
        owner = server_info(await conn.call(b"INFO"))
        position = None if checkpoint.snapshot else checkpoint.position
        source = await connect(config.source, who="source")
        try:
            server = server_info(await source.call(b"INFO"))
            others = await links_from(source, config.target_dc)
        finally:
            source.close()
        gone = None if position is None else lost(position, server)
        if gone is not None:
            return f"{position} of it was applied, and that history ends before" if gone else ""
        promised = told.seen.get(config.target_dc)
        places = [one.position for one in others if one.position is not None]
        if promised is None or not places or not all(behind(place, promised, owner) for place in places):
            return ""
        has = ", ".join(map(str, places))
        return f"it had {config.target_dc} up to {promised[0]}:{promised[1]}, and has it up to {has}"

    async def _source_went_back(self, conn: Connection, why: str) -> None:
        config = self._config
        self._source = await _marked(conn, config.source_dc)
        if self._source:
            return
        await _mark(conn, config.source_dc, why)
        self._source = why
        log.error(
            "datacenter %s (%s) was rolled back: %s. It loses: of its old state nothing is brought to %s; writes made "
            "there from now on count",
            *(config.source_dc, config.source.label, why, config.target_dc),
        )


_NOBODY: Final = ServerInfo("", "", "", "")


def _promise(position: Position) -> tuple[str, int]:
    return position.replid[:DIGITS], position.offset


async def _marked(conn: Connection, datacenter: str) -> str:
    """What tells, at this server, that ``datacenter`` went back; empty when nothing does."""
    found = await conn.call(b"GET", rollback_key(datacenter))
    return (found or b"").decode("utf-8", "replace")


async def _mark(conn: Connection, datacenter: str, why: str) -> None:
    key = rollback_key(datacenter)
    await conn.call(b"SADD", INDEX, key)
    await conn.call(b"SET", key, why.encode(), b"PX", b"%d" % _LIVES_MS)
