"""What a two-way link knows of the deadlines at its source, of keys and of hash fields, as long as it lives.

Deletes are judged by them (`sync.expiry`, `sync.fieldexpiry`). A snapshot brings them all; a link that goes on from the
journal learns them by SCAN before its first delete.
"""

from __future__ import annotations

import contextlib
import logging

from canal.commands import ServerKind
from canal.endpoint import Endpoint
from canal.errors import CanalError
from sync.deadline_scan import scan_deadlines
from sync.expiry import Deadlines, ExpiryRule
from sync.field_scan import learn_fields
from sync.fieldexpiry import FieldDeadlines, FieldRule, has_field_ttl

log = logging.getLogger(__name__)


class DeadlineRules:
    """``keys`` and ``fields``: the rules. At most ``max_keys`` deadlines are kept of either. ``held``: the hash that
    remembers deadlines held off at the target (`sync.held`).
    """

    def __init__(self, max_keys: int, held: bytes) -> None:
        self.keys = ExpiryRule(Deadlines(max_keys), held)
        self.fields = FieldRule(FieldDeadlines(max_keys))
        self._learned = False
        self._fields_learned = False

    def fields_between(self, source: ServerKind | None, target: ServerKind) -> FieldRule | None:
        """The rule for hash fields, where both servers have deadlines of them. ``source`` None: not known."""
        if not has_field_ttl(target) or (source is not None and not has_field_ttl(source)):
            return None
        self.fields.flavor = source.flavor if source is not None else target.flavor
        return self.fields

    def snapshot_begins(self) -> None:
        """What was known goes: the snapshot tells."""
        self.keys.begin_anew()
        self.fields.deadlines.clear()

    def snapshot_ended(self, *, whole: bool) -> None:
        """``whole``: all of its values were read by this process, which tells the deadlines of fields as well."""
        self._learned, self._fields_learned = True, whole

    async def learn_keys(self, source: Endpoint) -> None:
        """Those of keys alone, as far as the source can be asked now; a session learns them again."""
        if not self._learned:
            with contextlib.suppress(CanalError):
                await scan_deadlines(source, self.keys.deadlines)

    async def learn(self, source: Endpoint, offset_ms: int, fields: FieldRule | None) -> None:
        """After a restart. ``offset_ms``: the source's clock minus ours."""
        self.keys.offset_ms = offset_ms
        if not self._learned:
            try:
                found = await scan_deadlines(source, self.keys.deadlines)
                log.info("%d keys of the source have a deadline", found)
            except CanalError as error:
                log.warning("the source's deadlines are not known, its deletes go unjudged: %s", error)
            self._learned = True
        if fields is not None:
            fields.offset_ms = offset_ms
            if not self._fields_learned:
                self._fields_learned = await learn_fields(source, fields.deadlines)
