"""The events of all uploads, from one reader in this process to any number of subscribers.

Knows: how a subscriber takes up the stream again after an event id without gap or repetition, and
what happens to one that is slow.
Must not know: who publishes (`status.py`) or who may see an event (it carries its owner, for others
to decide).
"""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import anyio
from anyio.abc import TaskStatus

from hooks.errors import CoordinationLost
from hooks.redis import BLOCK_SECONDS, Client, Keys, backoff_seconds

logger = logging.getLogger(__name__)

# Events that one slow subscriber may have waiting before it has to read them from the stream again.
_MAX_BUFFERED = 1_000
_PAGE = 200
# Ids by which the feed knows a stream again that lost its end: seconds of the busiest time.
_MAX_REMEMBERED = 5_000

_BEGINNING = "0-0"
_EVENT_ID = re.compile(r"[0-9]{1,18}(-[0-9]{1,18})?", re.ASCII)


@dataclass(frozen=True)
class Event:
    """One thing that happened to one upload.

    `type` and `data`: `status` (the document), `step` (`id`, `step`), `log` (`id`, `step`, `line`),
    `removed` (`id`).
    """

    id: str
    upload_id: str
    owner: str
    type: str
    data: Mapping[str, Any]


class EventFeed:
    """One reader of everybody's stream in this process, and any number of subscribers.

    A subscriber that falls behind costs no memory: what it misses is read from the stream again.
    """

    def __init__(self, redis: Client) -> None:
        """Read through this client, once `run` runs."""
        self._redis = redis
        self._subscriptions: set[Subscription] = set()
        self._cursor: str | None = None
        self._seen: deque[str] = deque(maxlen=_MAX_REMEMBERED)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Read for ever, over every loss of Redis. `task_status` is told when reading began."""
        delays = backoff_seconds()
        while True:
            try:
                if self._cursor is None:
                    self._cursor = await self.newest_id()
                    self._seen.append(self._cursor)
                    # What came while nobody read: each finds it in the stream.
                    for subscription in self._subscriptions:
                        subscription.catch_up()
                task_status.started()
                task_status = anyio.TASK_STATUS_IGNORED
                while True:
                    self._cursor = await self._read(self._cursor)
                    delays = backoff_seconds()
            except CoordinationLost as error:
                logger.warning("events_lost cause=%s", error)
            await anyio.sleep(next(delays))

    @asynccontextmanager
    async def subscribe(
        self, after: str | None = None, upload_id: str | None = None
    ) -> AsyncIterator[Subscription]:
        """Iterate over events: new ones only, or all `after` an event id, then on without a gap.

        Waiting for the next event may be canceled and taken up again; nothing is lost by that.

        Args:
            after: a `Last-Event-ID`; what is no event id counts as None.
            upload_id: events of this upload only.

        Raises:
            CoordinationLost: Redis stayed away, on entering only.
        """
        subscription = Subscription(self, upload_id)
        self._subscriptions.add(subscription)
        try:
            newest = await self.newest_id()
            if after is None or not _EVENT_ID.fullmatch(after):
                subscription.begin(newest, replay=False)
            elif _order(after) > _order(newest):
                # The id is of a stream that was lost: all that is there now is new.
                subscription.begin(_BEGINNING, replay=True)
            else:
                subscription.begin(after, replay=True)
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def newest_id(self) -> str:
        """The id of the newest event; `0-0` when there is none."""
        newest: Any = await self._redis.xrevrange(Keys.EVENTS, count=1)
        return str(newest[0][0]) if newest else _BEGINNING

    async def page(self, upload_id: str | None, after: str) -> list[Event]:
        """The next events after an id, oldest first; fewer than a full page: there are no more."""
        key = Keys.EVENTS if upload_id is None else Keys.upload_events(upload_id)
        entries: Any = await self._redis.xrange(key, min=f"({after}", count=_PAGE)
        return [_event(entry_id, fields) for entry_id, fields in entries]

    async def _read(self, cursor: str) -> str:
        """Hand on what came after the cursor, if anything comes soon; the cursor to go on from."""
        block_ms = round(BLOCK_SECONDS * 1000)
        streams: Any = await self._redis.xread({Keys.EVENTS: cursor}, count=_PAGE, block=block_ms)
        for _, entries in streams:
            for entry_id, fields in entries:
                cursor = entry_id
                self._seen.append(cursor)
                event = _event(entry_id, fields)
                for subscription in self._subscriptions:
                    subscription.offer(event)
        return cursor if streams else await self._after_silence(cursor)

    async def _after_silence(self, cursor: str) -> str:
        """Go back when the stream does not reach as far as we had read: Redis lost some, or all."""
        newest = await self.newest_id()
        if _order(newest) >= _order(cursor):
            return cursor
        # A newest that is not known is new itself: another stream, and a clock that is behind.
        cursor = newest if newest in self._seen else _BEGINNING
        logger.warning("events_rewound to=%s", cursor)
        self._seen.clear()
        self._seen.append(cursor)
        for subscription in self._subscriptions:
            subscription.rewind(cursor)
        return cursor


class Subscription:
    """The events for one subscriber, as an async iterator that never ends by itself.

    It is either catching up, page by page from the stream, or live, from a bounded buffer that the
    feed fills. It goes live before it reads the last page, so nothing falls between, and passes
    over what it finds twice.
    """

    def __init__(self, feed: EventFeed, upload_id: str | None) -> None:
        """Belong to a feed; `begin` says where to start."""
        self._feed = feed
        self._upload_id = upload_id
        self._after = _BEGINNING
        self._catching_up = False
        self._ready: deque[Event] = deque()
        self._live: deque[Event] = deque()
        self._changed = anyio.Event()

    def begin(self, after: str, *, replay: bool) -> None:
        """Begin after this id, with what the stream has of it or only with what comes."""
        self._after = after
        if replay:
            self.catch_up()

    def rewind(self, cursor: str) -> None:
        """Go on from the cursor, unless not even that was reached: what came later is lost."""
        self._after = min(self._after, cursor, key=_order)
        self._ready.clear()
        self.catch_up()

    def catch_up(self) -> None:
        """Read from the stream what was missed."""
        self._live.clear()
        self._catching_up = True
        self._changed.set()

    def offer(self, event: Event) -> None:
        """Take a new event, if it is for this subscriber."""
        if self._catching_up or self._upload_id not in {None, event.upload_id}:
            return
        if len(self._live) >= _MAX_BUFFERED:
            self.catch_up()
            return
        self._live.append(event)
        self._changed.set()

    def __aiter__(self) -> Self:
        """An iterator over itself."""
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event."""
        while True:
            while self._ready:
                event = self._ready.popleft()
                if _order(event.id) > _order(self._after):
                    self._after = event.id
                    if event.type:
                        return event
            if self._catching_up:
                await self._read_page()
            elif self._live:
                self._ready, self._live = self._live, self._ready
            else:
                self._changed = anyio.Event()
                await self._changed.wait()

    async def _read_page(self) -> None:
        self._catching_up = False
        try:
            page = await self._feed.page(self._upload_id, self._after)
        except CoordinationLost:
            self.catch_up()
            await anyio.sleep(1)
            return
        except BaseException:
            self.catch_up()
            raise
        self._ready.extend(page)
        if len(page) == _PAGE:
            self.catch_up()


def _event(entry_id: str, fields: Mapping[str, str]) -> Event:
    try:
        return Event(
            entry_id, fields["id"], fields["owner"], fields["type"], json.loads(fields["data"])
        )
    except (KeyError, ValueError) as error:
        # It keeps its place in the order, but nobody gets it.
        logger.warning("event_unreadable entry_id=%s cause=%r", entry_id, error)
        return Event(entry_id, "", "", "", {})


def _order(event_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = event_id.partition("-")
    return int(milliseconds), int(sequence or 0)
