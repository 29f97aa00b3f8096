"""The script that guards a batch: position and epoch are compared before anything of it is written.

A call of it names the checkpoint that its batch builds on, so any number may be on their way: behind one that was not
applied all others refuse. `sync.target.cluster.script` has the one for a cluster's nodes.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from canal.errors import CanalError, Unready
from sync.conditional import DELETE_HEAD, FIELDS_HEAD
from sync.effects import JUDGED
from sync.render import Failures
from sync.target.errors import classify, is_transient

_GUARD: Final = b"""\
redis.call('SELECT', 0)
local found = redis.call('HMGET', KEYS[1], 'pos', 'epoch', 'snap')
if (found[1] or '') ~= ARGV[1] or (found[2] or '0') ~= ARGV[2] or (found[3] or '0') ~= ARGV[3] then
  return redis.error_reply('MOVED_ON checkpoint is ' .. tostring(found[1]) .. ' epoch ' .. tostring(found[2]))
end
--[[delete_if]]
-- names that are looked up for every command are made local: a third less of the target's CPU
local ARGV, unpack, pcall, type, tonumber = ARGV, unpack, redis.pcall, type, tonumber
local failed = {}
local judged = {--[[names]]}
local at, number, total = 4, 0, #ARGV
while at <= total do
  local argc = tonumber(ARGV[at])
  if number == 0 then
    redis.call(unpack(ARGV, at + 1, at + argc))
  else
    local reply
    if ARGV[at + 1] == 'EVAL' then  -- scripts cannot call scripts: the only ones that come here are sync.conditional's
      if ARGV[at + 5] == 'fields' then
        reply = fields_if(ARGV[at + 4], ARGV, at + 6, at + argc)
      else
        reply = delete_if(ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], ARGV[at + 7])
      end
    else
      reply = pcall(unpack(ARGV, at + 1, at + argc))
    end
    if type(reply) == 'table' and reply.err then
      failed[#failed + 1] = number
      failed[#failed + 1] = reply.err
    --[[empty]]
    end
  end
  at = at + argc + 1
  number = number + 1
end
return failed
"""
_JUDGING: Final = b"""\
elseif (reply == 0 or reply == -1 or not reply or (type(reply) == 'table' and not reply.ok and #reply == 0))
      and judged[string.upper(ARGV[at + 1])] then
      failed[#failed + 1] = number
      failed[#failed + 1] = ''\
"""
GUARD: Final = _GUARD.replace(b"--[[delete_if]]\n", DELETE_HEAD + FIELDS_HEAD)
JUDGING_GUARD: Final = GUARD.replace(b"--[[empty]]", _JUDGING).replace(
    b"--[[names]]", b",".join(b"['%b']=1" % name for name in sorted(JUDGED))
)
"""As GUARD, two ways: commands that answered nothing are told too, with no text."""


def guard(judging: bool) -> tuple[bytes, bytes]:
    """The script that guards batches, and its SHA-1."""
    body = JUDGING_GUARD if judging else GUARD
    return body, hashlib.sha1(body).hexdigest().encode()


def call(sha: bytes, key: bytes, stands: tuple[str, int], epoch: int, raw: bytes, number: int) -> bytes:
    """The call for a batch that `sync.render.script_form` made ``number`` arguments of, ``raw``. ``stands``: position
    and progress of the checkpoint at ``key`` that it builds on.
    """
    pos, snap = stands
    head = [b"EVALSHA", sha, b"1", key, pos.encode(), b"%d" % epoch, b"%d" % snap]
    parts = [b"*%d\r\n" % (len(head) + number)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in head]
    parts.append(raw)
    return b"".join(parts)


def answers(reply: list[Any]) -> Failures:
    """What the script returned, by the numbers of replies: errors, and empty texts where there was no effect."""
    return [(int(number), _text(text)) for number, text in zip(reply[::2], reply[1::2], strict=True)]


def verdict(text: str) -> CanalError:
    """What an error reply to the call means. The script's first write is the tag: nothing was applied."""
    if text.startswith("MOVED_ON"):
        return Unready(f"target: {text}: another writer was there, starting again from the checkpoint")
    if is_transient(text):
        return Unready(f"target refused a batch: {text}")
    return classify(text, "applying a batch by script")


def _text(error: Any) -> str:
    return error.decode("utf-8", "replace") if isinstance(error, bytes) else str(error)
