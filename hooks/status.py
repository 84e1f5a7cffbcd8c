"""What is going on: the current status document of every upload, and the publishing of events.

Knows: how a document is kept, and how an event gets one id in two streams.
Must not know: who may see an upload, who listens (`feed.py`), or what the steps do.

Everybody's stream and the upload's own hold each event under the same id, so a `Last-Event-ID`
means the same wherever it is taken up again. What the steps said is in a stream of its own as well,
where progress does not push it out. A document and its upload's streams are forgotten after a
while; what ended is on disk.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from hooks.record import Record, Status
from hooks.redis import Client, Keys

logger = logging.getLogger(__name__)

DAY_SECONDS = 24 * 60 * 60
KEPT_SECONDS = 30 * DAY_SECONDS
# Long enough for every open page to hear that the upload is gone.
_REMOVED_SECONDS = 60 * 60
_MAX_EVENTS = 20_000
_MAX_UPLOAD_EVENTS = 2_000
_MAX_LINES = 5_000
_DOCUMENTS_PER_READ = 500

# publish(events, own, kept, upload_id, owner, type, data): one event, the same id in both streams;
# answers with the id. Redis keeps ids rising within a stream when the clock steps back. A stream
# that begins again after a loss begins a millisecond ahead, so its ids are above all that were
# given in this one. An upload's own streams can only be ahead when the other was lost alone, and
# then they start afresh.
_PUBLISH = f"""
local function append(stream, most, kept, entry, fields)
  local added = redis.pcall('XADD', stream, 'MAXLEN', '~', most, entry, unpack(fields))
  if type(added) == 'table' and added.err then
    redis.call('DEL', stream)
    redis.call('XADD', stream, entry, unpack(fields))
  end
  redis.call('EXPIRE', stream, kept)
end
local function publish(events, own, kept, ...)
  local id, owner, kind, data = ...
  local fields = {{'id', id, 'owner', owner, 'type', kind, 'data', data}}
  local next_id = '*'
  if redis.call('EXISTS', events) == 0 then
    local time = redis.call('TIME')
    local milliseconds = time[1] * 1000 + math.floor(time[2] / 1000)
    next_id = string.format('%.0f-%d', milliseconds + 1, time[2] % 1000)
  end
  local entry = redis.call('XADD', events, 'MAXLEN', '~', {_MAX_EVENTS}, next_id, unpack(fields))
  append(own, {_MAX_UPLOAD_EVENTS}, kept, entry, fields)
  return entry
end
"""
_LOG = f"""{_PUBLISH}
local entry = publish(KEYS[1], KEYS[2], unpack(ARGV, 1, 5))
append(KEYS[3], {_MAX_LINES}, ARGV[1], entry, {{'step', ARGV[6], 'line', ARGV[7]}})
"""
_REMOVE = f"""{_PUBLISH}
redis.call('DEL', KEYS[3], KEYS[4])
publish(KEYS[1], KEYS[2], unpack(ARGV))
"""

# put(keys, args): keep the document and publish, in the shapes of `Publication`. Answers 0 when the
# upload has ended and this is the late word of one who thinks that it goes on: after an end comes
# only another end, or `queued` for a retry.
_ENDED = ", ".join(f"{status.value} = true" for status in Status if status.terminal)
PUT = f"""{_PUBLISH}
local function put(keys, args)
  local document, kept, status = unpack(args)
  if status == '{Status.RECEIVING}' or status == '{Status.RUNNING}' then
    local readable, current = pcall(cjson.decode, redis.call('GET', keys[1]) or '{{}}')
    local ended = {{ {_ENDED} }}
    if readable and type(current) == 'table' and ended[current.status or ''] then return 0 end
  end
  redis.call('SET', keys[1], document, 'EX', kept)
  publish(keys[2], keys[3], kept, unpack(args, 4))
  return 1
end
"""


@dataclass(frozen=True)
class Publication:
    """A document and the event that tells of it, as the Lua function `put` takes them."""

    keys: Sequence[str]
    args: Sequence[str | int]

    @classmethod
    def of(cls, record: Record, step: str | None, kept_seconds: int) -> Self:
        """Tell of the whole document, or only of one of its steps.

        Raises:
            KeyError: the record has no such step.
        """
        document = json.dumps(record.to_json())
        kind, data = "status", document
        if step is not None:
            kind = "step"
            data = json.dumps({"id": record.id, "step": record.step(step).to_json()})
        status = record.status.value
        return cls(
            (Keys.status(record.id), Keys.EVENTS, Keys.upload_events(record.id)),
            (document, kept_seconds, status, record.id, record.owner, kind, data),
        )


@dataclass(frozen=True)
class LogLine:
    """Something that a step said, and the id of the event that told of it."""

    event: str
    step: str
    line: str


class StatusStore:
    """The current document of each upload, and the place where events are published."""

    def __init__(self, redis: Client, *, kept_seconds: int = KEPT_SECONDS) -> None:
        """Forget a document and its events `kept_seconds` after its last change."""
        self._redis = redis
        self._kept_seconds = kept_seconds

    async def put(self, record: Record, *, step: str | None = None) -> bool:
        """Make this the current document and publish one event: of the step, or else of all.

        False: the upload has ended meanwhile, and a document that says `receiving` or `running`
        changes nothing any more.

        Raises:
            KeyError: the record has no such step.
            CoordinationLost: Redis stayed away.
        """
        publication = Publication.of(record, step, self._kept_seconds)
        text = PUT + "return put(KEYS, ARGV)"
        return bool(await self._redis.script(text, publication.keys, publication.args))

    async def get(self, upload_id: str) -> Record | None:
        """The current document, if Redis has one."""
        return (await self.get_many([upload_id])).get(upload_id)

    async def get_many(self, upload_ids: Iterable[str]) -> dict[str, Record]:
        """The current documents of those that Redis knows."""
        ids = list(upload_ids)
        records: dict[str, Record] = {}
        for start in range(0, len(ids), _DOCUMENTS_PER_READ):
            part = ids[start : start + _DOCUMENTS_PER_READ]
            documents: Any = await self._redis.mget([Keys.status(upload_id) for upload_id in part])
            for upload_id, document in zip(part, documents, strict=True):
                record = _parse(upload_id, document)
                if record is not None:
                    records[upload_id] = record
        return records

    async def log(self, upload_id: str, owner: str, step: str, line: str) -> None:
        """Publish one line of a step's output."""
        data = json.dumps({"id": upload_id, "step": step, "line": line})
        streams = (Keys.EVENTS, Keys.upload_events(upload_id), Keys.upload_log(upload_id))
        args = (self._kept_seconds, upload_id, owner, "log", data, step, line)
        await self._redis.script(_LOG, streams, args)

    async def lines(self, upload_id: str) -> list[LogLine]:
        """What the steps of an upload said, oldest first; the last few thousand lines.

        Raises:
            CoordinationLost: Redis stayed away.
        """
        entries: Any = await self._redis.xrange(Keys.upload_log(upload_id))
        return [LogLine(event, fields["step"], fields["line"]) for event, fields in entries]

    async def remove(self, upload_id: str, owner: str) -> None:
        """Forget the document and publish that the upload is gone."""
        gone = (Keys.status(upload_id), Keys.upload_log(upload_id))
        data = json.dumps({"id": upload_id})
        await self._redis.script(
            _REMOVE,
            (Keys.EVENTS, Keys.upload_events(upload_id), *gone),
            (_REMOVED_SECONDS, upload_id, owner, "removed", data),
        )


def _parse(upload_id: str, document: str | None) -> Record | None:
    """Read a document; one that another version wrote is as good as none, the disk has it."""
    if document is None:
        return None
    try:
        return Record.from_json(json.loads(document))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("status_unreadable upload_id=%s cause=%r", upload_id, error)
        return None
