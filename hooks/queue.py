"""The queue of uploads whose pipeline has to run, on a Redis stream with one consumer group.

Knows: who runs what, for how long that is believed, and how work passes from the dead to the
living.
Must not know: what a job does, or when to give one up (it counts deliveries for who decides that).

An upload is in the queue at most once. A delivery belongs to its consumer until another takes it
over; from then on the old owner can neither renew, nor finish, nor give it back. Consumer and count
of deliveries together are the proof of ownership, so one that takes over from itself is another
owner, too. When Redis forgot everything the group is made again; the uploads come back from disk.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import anyio
from redis import exceptions

from hooks.record import Record
from hooks.redis import BLOCK_SECONDS, Client, Keys
from hooks.status import KEPT_SECONDS, PUT, Publication

logger = logging.getLogger(__name__)

# A consumer that holds nothing and was silent for so many leases is forgotten.
_CONSUMER_KEPT_LEASES = 60
_MOST_PENDING = 1_000
# What Redis answers when the group, or the stream under a waiting reader, is gone.
_GROUP_GONE = ("NOGROUP", "UNBLOCKED")


@dataclass(frozen=True)
class Delivery:
    """A job in our hands. `deliveries` counts this one: 1 for a job that nobody had before."""

    entry_id: str
    upload_id: str
    deliveries: int


@dataclass(frozen=True)
class Pending:
    """A job that somebody has, and how long they have been silent: alive or dead, who knows."""

    entry_id: str
    upload_id: str
    consumer: str
    idle_seconds: float
    deliveries: int


@dataclass(frozen=True)
class Depth:
    """How much there is to do. The age is that of the oldest waiting job, 0 when none waits."""

    waiting: int
    running: int
    oldest_age_seconds: float


# An entry has the fields `upload_id`, `queued_ms` (when it came first, by Redis's clock) and
# `spent` (deliveries that it had under an earlier id, before it was given back).
#   entry(id): its fields; nil when it is gone or not ours, and then nothing of it stays behind.
#   holder(id): consumer, idle ms, deliveries, fields; nil when nobody has it or there is no group.
_COMMON = f"""
local jobs, ids, group = KEYS[1], KEYS[2], '{Keys.JOB_GROUP}'
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function named(flat)
  local fields = {{}}
  for at = 1, #flat, 2 do fields[flat[at]] = flat[at + 1] end
  return fields
end
local function drop(id, upload_id)
  redis.pcall('XACK', jobs, group, id)
  redis.call('XDEL', jobs, id)
  if upload_id and redis.call('HGET', ids, upload_id) == id then
    redis.call('HDEL', ids, upload_id)
  end
end
local function entry(id)
  local found = redis.call('XRANGE', jobs, id, id)[1]
  local fields = found and named(found[2]) or {{}}
  if fields.upload_id then return fields end
  drop(id)
end
local function holder(id)
  local rows = redis.pcall('XPENDING', jobs, group, id, id, 1)
  if rows.err or not rows[1] then return end
  local fields = entry(id)
  if fields then return rows[1][2], rows[1][3], rows[1][4] + fields.spent, fields end
end
local function add(upload_id, queued_ms, spent)
  redis.call('HSET', ids, upload_id, redis.call('XADD', jobs, '*',
    'upload_id', upload_id, 'queued_ms', queued_ms, 'spent', spent))
end
"""

_ENQUEUE = f"""{_COMMON}
local known = redis.call('HGET', ids, ARGV[1])
if known and entry(known) then return 0 end
add(ARGV[1], now_ms(), 0)
return 1
"""

_WITHDRAW = f"""{_COMMON}
local id = redis.call('HGET', ids, ARGV[1])
if not id or not entry(id) or holder(id) then return 0 end
drop(id, ARGV[1])
return 1
"""

_PENDING = f"""{_COMMON}
local rows = redis.pcall('XPENDING', jobs, group, '-', '+', {_MOST_PENDING})
if rows.err then return {{}} end
local pending = {{}}
for _, row in ipairs(rows) do
  local consumer, idle, deliveries, fields = holder(row[1])
  if consumer then
    table.insert(pending, {{row[1], fields.upload_id, consumer, idle, deliveries}})
  end
end
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', jobs, group)) do
  local consumer = named(row)
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[1]) then
    redis.call('XGROUP', 'DELCONSUMER', jobs, group, consumer.name)
  end
end
return pending
"""

# ARGV: entry, who has it, deliveries, how long it was idle already, who takes it.
_TAKE_OVER = f"""{_COMMON}
local consumer, idle, deliveries = holder(ARGV[1])
if consumer ~= ARGV[2] or deliveries ~= tonumber(ARGV[3]) or idle < tonumber(ARGV[4]) then
  return 0
end
redis.call('XCLAIM', jobs, group, ARGV[5], 0, ARGV[1])
return 1
"""

# What only the owner may do. ARGV: entry, owner, deliveries.
_OWNED = f"""{_COMMON}
local consumer, _, deliveries, fields = holder(ARGV[1])
if consumer ~= ARGV[2] or deliveries ~= tonumber(ARGV[3]) then return 0 end
"""

_HEARTBEAT = f"""{_OWNED}
redis.call('XCLAIM', jobs, group, consumer, 0, ARGV[1], 'JUSTID')
return 1
"""

_GIVE_BACK = f"""{_OWNED}
drop(ARGV[1], fields.upload_id)
add(fields.upload_id, fields.queued_ms, deliveries - 1)
return 1
"""

_DROP = f"""{_OWNED}
drop(ARGV[1], fields.upload_id)
return 1
"""

_FINALIZE = f"""{PUT}{_OWNED}
put({{unpack(KEYS, 3)}}, {{unpack(ARGV, 4)}})
drop(ARGV[1], fields.upload_id)
return 1
"""

_DEPTH = f"""{_COMMON}
local running, delivered = 0, '0-0'
local groups = redis.pcall('XINFO', 'GROUPS', jobs)
for _, row in ipairs(groups.err and {{}} or groups) do
  local found = named(row)
  if found.name == group then
    running, delivered = found.pending, found['last-delivered-id']
  end
end
local oldest = redis.call('XRANGE', jobs, '(' .. delivered, '+', 'COUNT', 1)[1]
local queued_ms = oldest and named(oldest[2]).queued_ms or now_ms()
return {{redis.call('XLEN', jobs) - running, running, now_ms() - queued_ms}}
"""


class JobQueue:
    """The queue, as one consumer sees it."""

    def __init__(self, redis: Client, consumer: str, *, lease_seconds: float = 15.0) -> None:
        """Claim as `consumer`, a name that no other process has or had.

        Whoever was silent for `lease_seconds` counts as dead: beat several times within them.
        """
        self.lease_seconds = lease_seconds
        self._redis = redis
        self._consumer = consumer
        self._keys = (Keys.JOBS, Keys.JOB_IDS)

    async def enqueue(self, upload_id: str) -> bool:
        """Put the upload in, at the end; False when it is in already, waiting or running."""
        return bool(await self._redis.once(_ENQUEUE, self._keys, [upload_id]))

    async def claim(self, block_seconds: float) -> Delivery | None:
        """The oldest waiting job, or None when none came for so long.

        Raises:
            CoordinationLost: Redis stayed away.
        """
        give_up_at = anyio.current_time() + block_seconds
        while True:
            left_seconds = max(0.0, give_up_at - anyio.current_time())
            for entry_id, fields in await self._read(min(left_seconds, BLOCK_SECONDS)):
                if "upload_id" in fields:
                    return Delivery(entry_id, fields["upload_id"], int(fields["spent"]) + 1)
                logger.warning("job_unreadable entry_id=%s", entry_id)
                await self._redis.xack(Keys.JOBS, Keys.JOB_GROUP, entry_id)
                await self._redis.xdel(Keys.JOBS, entry_id)
            if not left_seconds:
                return None

    async def heartbeat(self, delivery: Delivery) -> bool:
        """Hold the lease from now on anew; False when the job is no longer ours: stop working."""
        return bool(await self._redis.script(_HEARTBEAT, self._keys, self._token(delivery)))

    async def finalize(self, delivery: Delivery, record: Record) -> bool:
        """Take the job out and publish how it ended, both or neither.

        False when it is no longer ours: nothing changed, and its new owner will say how it ended.
        """
        end = Publication.of(record, None, KEPT_SECONDS)
        keys, args = (*self._keys, *end.keys), (*self._token(delivery), *end.args)
        return bool(await self._redis.once(_FINALIZE, keys, args))

    async def drop(self, delivery: Delivery) -> bool:
        """Take a job out that turned out to be none; False when it is no longer ours."""
        return bool(await self._redis.script(_DROP, self._keys, self._token(delivery)))

    async def give_back(self, delivery: Delivery) -> bool:
        """Let others claim the job at once, as if this delivery had not been.

        It waits at the end of the queue. False when it is no longer ours.
        """
        return bool(await self._redis.once(_GIVE_BACK, self._keys, self._token(delivery)))

    async def withdraw(self, upload_id: str) -> bool:
        """Take a job out that nobody has; False when it is not there or somebody has it."""
        return bool(await self._redis.once(_WITHDRAW, self._keys, [upload_id]))

    async def pending(self) -> list[Pending]:
        """All jobs that somebody has, the living too. Forgets consumers that are long gone."""
        kept_ms = round(self.lease_seconds * _CONSUMER_KEPT_LEASES * 1000)
        return [
            Pending(entry_id, upload_id, consumer, idle_ms / 1000, deliveries)
            for entry_id, upload_id, consumer, idle_ms, deliveries in await self._redis.script(
                _PENDING, self._keys, [kept_ms]
            )
        ]

    async def take_over(self, pending: Pending) -> Delivery | None:
        """Become the owner, one delivery later, of a job whose owner is dead.

        None when the owner gave a sign of life, or a rival took it, after `pending` was read.
        """
        idle_ms = round(pending.idle_seconds * 1000)
        args = (pending.entry_id, pending.consumer, pending.deliveries, idle_ms, self._consumer)
        if not await self._redis.once(_TAKE_OVER, self._keys, args):
            return None
        return Delivery(pending.entry_id, pending.upload_id, pending.deliveries + 1)

    async def depth(self) -> Depth:
        """How many wait and run, and how long the oldest waits."""
        waiting, running, age_ms = await self._redis.script(_DEPTH, self._keys, [])
        return Depth(waiting, running, max(0, age_ms) / 1000)

    async def _read(self, block_seconds: float) -> list[tuple[str, dict[str, str]]]:
        block_ms = round(block_seconds * 1000) or None
        while True:
            try:
                streams: Any = await self._redis.xreadgroup(
                    Keys.JOB_GROUP, self._consumer, {Keys.JOBS: ">"}, count=1, block=block_ms
                )
            except exceptions.ResponseError as error:
                if not str(error).startswith(_GROUP_GONE):
                    raise
                await self._make_group()
            else:
                return streams[0][1] if streams else []

    async def _make_group(self) -> None:
        try:
            # From 0: what was enqueued before there was a group is work, too.
            await self._redis.xgroup_create(Keys.JOBS, Keys.JOB_GROUP, id="0", mkstream=True)
        except exceptions.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        logger.info("job_group_made consumer=%s", self._consumer)

    def _token(self, delivery: Delivery) -> tuple[str, str, int]:
        return delivery.entry_id, self._consumer, delivery.deliveries
