"""Which server is the master now, asked of Sentinels; and being told when it is another one.

An address counts when as many Sentinels name it as make a majority of those in the URL, since one of them alone may not
have heard of a failover yet. Other Sentinels that they know of stand in for those that do not answer. Where fewer
answer than that, only the master of before will do: Sentinels that are away stop nobody from going on where he was, but
never send him anywhere else. The server has to call itself a master, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from canal.asking import Asker, asking, must_be_master
from canal.backoff import Backoff
from canal.errors import AuthError, CanalError, ConfigError, NotRedis, PeerError, TlsError, Unreachable, Unready
from canal.url import Endpoint, Group

log = logging.getLogger(__name__)

_ANSWER_S: Final = 2.0
_FRESH_S: Final = 1.0
_SIGN_OF_LIFE_S: Final = 10.0

Address = tuple[str, int]


@dataclass(slots=True)
class _Known:
    """What is remembered of one group, for all links of this process."""

    master: Address | None = None  # the last that enough Sentinels agreed on
    at: float = 0.0  # time.monotonic() of a whole answer; 0: ask again
    others: set[Address] = field(default_factory=set)  # Sentinels that the URL does not name


_known: dict[tuple[tuple[Address, ...], str], _Known] = {}


async def master_of(endpoint: Endpoint) -> Endpoint:
    """The master of a Sentinel group. Raises Unready (retry) while it is not clear, PeerError for an unknown name."""
    group = endpoint.group
    assert group is not None
    known = _known.setdefault((group.seeds, group.name), _Known())
    if known.master is not None and known.at and time.monotonic() - known.at < _FRESH_S:
        return endpoint.member(*known.master)
    found = await _agreed(endpoint, known)
    member = endpoint.member(*found)
    await must_be_master(member, f"{endpoint.label}: the Sentinels name {member.address}")
    if known.master != found:
        log.info("the Sentinels of %s name %s", endpoint.label, member.label)
    known.master, known.at = found, time.monotonic()
    return member


def forget(endpoint: Endpoint) -> None:
    """Ask the Sentinels anew the next time; what stood there is no use any more."""
    group = endpoint.group
    if group is not None and (known := _known.get((group.seeds, group.name))) is not None:
        known.at = 0.0


# --- votes ---


async def _agreed(endpoint: Endpoint, known: _Known) -> Address:
    group = endpoint.group
    assert group is not None
    needed = len(group.seeds) // 2 + 1
    poll = _Poll(endpoint, needed)
    found = await poll.ask(group.seeds)
    if found is None and known.others - set(group.seeds):
        found = await poll.ask(known.others - set(group.seeds))
    if found is not None:
        known.others |= poll.others
        return found
    if known.master is not None and set(poll.votes) <= {known.master} and not poll.unknown:
        log.warning("%s: going on with the master of before, %s", poll.summary(), known.master)
        return known.master
    raise poll.error()


class _Poll:
    """Asks Sentinels, all at once, until enough of them name the same address."""

    def __init__(self, endpoint: Endpoint, needed: int) -> None:
        assert endpoint.group is not None
        self.votes: Counter[Address] = Counter()
        self.unknown = 0  # how many do not know the name
        self.others: set[Address] = set()
        self._endpoint = endpoint
        self._group: Group = endpoint.group
        self._needed = needed
        self._asked = 0
        self._errors: list[CanalError] = []

    async def ask(self, sentinels: Iterable[Address]) -> Address | None:
        """The address that enough have named by now, or None when all have answered or had their time."""
        tasks = [asyncio.create_task(self._one(address)) for address in sorted(sentinels)]
        self._asked += len(tasks)
        try:
            for next_one in asyncio.as_completed(tasks):
                await next_one
                for address, count in self.votes.items():
                    if count >= self._needed:
                        return address
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return None

    async def _one(self, address: Address) -> None:
        sentinel = sentinel_at(self._endpoint, address)
        try:
            async with asking(sentinel, _ANSWER_S) as asker:
                name = self._group.name.encode()
                answer = await asker.ask(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name, timeout_s=_ANSWER_S)
                if answer is None:
                    self.unknown += 1
                    return
                more = await asker.ask(b"SENTINEL", b"SENTINELS", name, timeout_s=_ANSWER_S)
                self.others |= set(_addresses(more))
                self.votes[answer[0].decode(), int(answer[1])] += 1
        except CanalError as error:
            self._errors.append(_of_sentinel(error))
        except (TypeError, ValueError, IndexError, AttributeError):
            self._errors.append(NotRedis(f"Sentinel {sentinel.label}: an answer of another shape than a Sentinel's"))

    def summary(self) -> str:
        """What the Sentinels said, in a line."""
        named = [f"{count} {_named(address)}" for address, count in self.votes.most_common()]
        parts = [", ".join(named)] if named else []
        if self.unknown:
            parts.append(f"{self.unknown} know no master {self._group.name!r}")
        if self._errors:
            parts.append(f"{len(self._errors)} did not answer ({self._errors[0]})")
        return f"of {self._asked} Sentinels {', '.join(parts)}"

    def error(self) -> CanalError:
        """Why there is no answer: a mistake, or something that passes."""
        label = self._endpoint.label
        if self.unknown >= self._needed:
            return PeerError(f"{label}: {self.summary()}; check the name at the end of the URL (SENTINEL MASTERS)")
        for kind in (AuthError, TlsError, NotRedis, ConfigError):
            for error in self._errors:
                if isinstance(error, kind) and not self.votes:
                    return error
        if len(self._errors) == self._asked:
            return Unreachable(f"{label}: no Sentinel can be asked: {self._errors[0]}")
        return Unready(f"{label}: {self.summary()}, and {self._needed} have to agree")


def _named(address: Address) -> str:
    return f"named {address[0]}:{address[1]}"


def sentinel_at(endpoint: Endpoint, address: Address) -> Endpoint:
    """One Sentinel of the group, with the Sentinels' own credentials. Those of the URL are reached as they stand."""
    group = endpoint.group
    assert group is not None
    host, port = address if address in group.seeds else group.reached(*address)
    scheme = "rediss" if group.tls is not None else "redis"
    return Endpoint(scheme, host, port, username=group.username, password=group.password, tls=group.tls)


def _of_sentinel(error: CanalError) -> CanalError:
    if isinstance(error, AuthError):
        text = f"Sentinel {error}; Sentinels have credentials of their own (--source-sentinel-password-file …, "
        return AuthError(text + "or sentinel_credentials in the task)")
    return type(error)(f"Sentinel {error}")


def _addresses(answer: Any) -> Iterable[Address]:
    """The addresses in a reply of SENTINEL SENTINELS: an array of maps as flat arrays."""
    for one in answer:
        fields = dict(zip(one[::2], one[1::2], strict=False))
        ip, port = fields.get(b"ip", b""), fields.get(b"port", b"")
        if ip and port.isdigit() and int(port):
            yield ip.decode(), int(port)


# --- being told ---


class SwitchWatch:
    """Listens to all Sentinels of a group; ``switched`` is called with the new master whenever it is another one."""

    def __init__(self, endpoint: Endpoint, switched: Callable[[Endpoint], None]) -> None:
        assert endpoint.group is not None
        self._endpoint = endpoint
        self._group: Group = endpoint.group
        self._switched = switched
        self._current: Endpoint | None = None
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Listen until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for address in self._group.seeds:
                tasks.create_task(self._listen(sentinel_at(self._endpoint, address)))

    async def _listen(self, sentinel: Endpoint) -> None:
        backoff = Backoff(0.5, 5.0)
        while True:
            try:
                async with asking(sentinel, _ANSWER_S) as asker:
                    await asker.ask(b"SUBSCRIBE", b"+switch-master", timeout_s=_ANSWER_S)
                    await self._look()  # what happened while nobody listened
                    backoff.reset()
                    await self._hear(asker)
            except CanalError as error:
                log.debug("Sentinel %s: %s", sentinel.address, error)
            await asyncio.sleep(backoff.next())

    async def _hear(self, asker: Asker) -> None:
        """Until the Sentinel has been silent for too long."""
        silent = 0
        while silent < 3:
            try:
                message = await asker.next(_SIGN_OF_LIFE_S)
            except TimeoutError:
                silent += 1
                asker.send(b"PING")
                continue
            silent = 0
            told = isinstance(message, list) and len(message) == 3 and message[0] == b"message"
            if told and bytes(message[2]).split(b" ")[0] == self._group.name.encode():
                forget(self._endpoint)
                await self._look()

    async def _look(self) -> None:
        """Ask them all; the first to hear of a failover may be alone with that for a moment."""
        async with self._looking:
            for attempt in range(20):
                try:
                    found = await master_of(self._endpoint)
                except CanalError as error:
                    log.debug("%s", error)
                    await asyncio.sleep(min(1.0, 0.1 * (attempt + 1)))
                    continue
                if self._current is not None and found != self._current:
                    log.warning("the Sentinels moved %s to %s", self._endpoint.label, found.address)
                    self._switched(found)
                self._current = found
                return
