"""The way to Redis: the client, every key, the signals between processes, and leases.

Knows: how to reach Redis, how long to wait for one that restarts, which keys and channels exist.
Must not know: what a job or a status document is, or who runs the server (when nobody else does,
`hooks/embedded.py`). Only commands of Redis 6.2 are used.

Redis is coordination, never truth: whatever is lost here is told again from disk. So there is one
error for all its troubles, `CoordinationLost`, and it is raised in one place, `Client`.
"""

from __future__ import annotations

import itertools
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio
import redis.asyncio as redis_asyncio
from anyio.abc import TaskStatus
from redis import exceptions
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from hooks.errors import CoordinationLost

logger = logging.getLogger(__name__)

# Longer than any block of our own (`BLOCK_SECONDS`): only a dead peer is silent for that long.
_SOCKET_TIMEOUT_SECONDS = 5.0
# One blocking read lasts no longer than this, so that a peer that vanished is noticed soon.
BLOCK_SECONDS = 2.0
_CONNECT_TIMEOUT_SECONDS = 3.0
_HEALTH_CHECK_SECONDS = 30
_MAX_CONNECTIONS = 64
_MAX_DELAY_SECONDS = 1.0
# A call that is tried again after a lost answer comes within the client's patience.
_ONCE_SECONDS = 120

_UNREACHABLE = (exceptions.ConnectionError, exceptions.TimeoutError)
_LOGIN_REFUSED = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.NoPermissionError,
)
# A Redis that is there but takes no writes: disk full, memory full, a replica. A script's error
# carries the word inside its text.
_WRITES_REFUSED = (exceptions.OutOfMemoryError, exceptions.ReadOnlyError)
_WRITES_REFUSED_WORDS = (
    "MISCONF",
    "OOM command",
    "READONLY",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
)


class Keys:
    """Every key and every channel in Redis."""

    PREFIX = "tusboat:"
    JOBS = PREFIX + "jobs"
    """Stream of what waits and runs."""
    JOB_IDS = PREFIX + "jobs:ids"
    """Hash: upload id → id of its entry in `JOBS`."""
    JOB_GROUP = "workers"
    EVENTS = PREFIX + "events"
    """Stream of everybody's events."""

    @classmethod
    def upload_events(cls, upload_id: str) -> str:
        """Stream of one upload's events; the same entry ids as in `EVENTS`."""
        return f"{cls.EVENTS}:{upload_id}"

    @classmethod
    def upload_log(cls, upload_id: str) -> str:
        """Stream of what one upload's steps said; the same entry ids as in `EVENTS`."""
        return f"{cls.PREFIX}log:{upload_id}"

    @classmethod
    def status(cls, upload_id: str) -> str:
        """String: the status document as JSON."""
        return f"{cls.PREFIX}status:{upload_id}"

    @classmethod
    def lease(cls, name: str) -> str:
        """String: who holds the lease."""
        return f"{cls.PREFIX}lease:{name}"

    @classmethod
    def once(cls, call: str) -> str:
        """String: what one call answered, for when the answer is lost on the way."""
        return f"{cls.PREFIX}once:{call}"

    @classmethod
    def signal(cls, signal: Signal) -> str:
        """Channel: one for each signal; the payload is an upload id."""
        return f"{cls.PREFIX}signal:{signal.value}"


class Signal(StrEnum):
    """What one process asks of, or tells, all others about one upload."""

    RELEASE = "release"
    EVICT = "evict"
    CANCEL = "cancel"
    GREW = "grew"


def masked(url: str) -> str:
    """The URL as a log may show it: without user name, password and secret parameters."""
    parts = urlsplit(url)
    _, _, place = parts.netloc.rpartition("@")
    query = [(name, "***" if "pass" in name else value) for name, value in parse_qsl(parts.query)]
    login = "***@" if "@" in parts.netloc else ""
    shown = f"?{urlencode(query, safe='*/')}" if query else ""
    return f"{parts.scheme}://{login}{place}{parts.path}{shown}"


def backoff_seconds() -> Iterator[float]:
    """Growing delays for ever: 0.05 s, doubled up to 1 s."""
    for attempt in itertools.count():
        yield min(_MAX_DELAY_SECONDS, 0.05 * 2 ** min(attempt, 10))


class Client(redis_asyncio.Redis):
    """A Redis client that outlasts a restart of the server, and then raises one kind of error.

    The library's own retries are off: they nest (command, connect, health check), so their limits
    multiply. Here a command is tried again until `patience_seconds` after it was first sent.
    """

    def __init__(self, url: str, *, patience_seconds: float) -> None:
        """Prepare the pool; nothing is connected yet.

        Raises:
            ValueError: the URL is not one of redis://, rediss://, unix://.
        """
        pool = redis_asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=_SOCKET_TIMEOUT_SECONDS,
            decode_responses=True,
            protocol=2,
            driver_info=None,
            socket_timeout=_SOCKET_TIMEOUT_SECONDS,
            socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            health_check_interval=_HEALTH_CHECK_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self.place = masked(url)
        self._patience_seconds = patience_seconds

    def __repr__(self) -> str:
        """Where it points to, without secrets."""
        return f"<Client {self.place}>"

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; every command of the library comes through here.

        A command may reach Redis twice when its answer is lost; `once` is for what must not.

        Raises:
            CoordinationLost: Redis stayed away, refuses us, or takes no writes.
            redis.exceptions.ResponseError: Redis answered with any other error.
        """
        give_up_at = anyio.current_time() + self._patience_seconds
        for delay_seconds in backoff_seconds():
            try:
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except _LOGIN_REFUSED as error:
                raise self._lost(args[0], error) from error
            except _UNREACHABLE as error:
                if anyio.current_time() + delay_seconds > give_up_at:
                    raise self._lost(args[0], error) from error
            except exceptions.ResponseError as error:
                if isinstance(error, _WRITES_REFUSED) or any(
                    word in str(error) for word in _WRITES_REFUSED_WORDS
                ):
                    raise self._lost(args[0], error) from error
                raise
            await anyio.sleep(delay_seconds)
        raise AssertionError

    async def script(self, text: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Run a Lua script whose second run, after a lost answer, does no harm."""
        return await self.execute_command("EVAL", text, len(keys), *keys, *args)

    async def once(self, body: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Run a Lua function body exactly once, however often the command has to be sent.

        It sees `keys` and `args` as KEYS and ARGV; it returns a number, a string or a list of them.
        """
        text = _ONCE.replace("BODY", body)
        return await self.script(text, [*keys, Keys.once(uuid.uuid4().hex)], args)

    def _lost(self, command: str, error: Exception) -> CoordinationLost:
        operation = command.split(" ", maxsplit=1)[0]
        hint = "Redis must run and accept writes at that address (setting redis_url)."
        if isinstance(error, _LOGIN_REFUSED):
            hint = "Check user name and password in the setting redis_url."
        return CoordinationLost("coordination_lost", f"{operation} at {self.place}: {error}", hint)


_ONCE = f"""
local memo = table.remove(KEYS)
local answer = redis.call('GET', memo)
if answer then return cjson.decode(answer) end
local function act() BODY end
answer = act()
redis.call('SET', memo, cjson.encode(answer), 'EX', {_ONCE_SECONDS})
return answer
"""


def connect(url: str, *, patience_seconds: float = 15.0) -> Client:
    """A client for unix:///path, redis:// or rediss://; connects when first used.

    Args:
        url: where Redis is; may carry user name and password.
        patience_seconds: how long a command goes on trying to reach a Redis that is away.

    Raises:
        ValueError: the URL has another scheme.
    """
    return Client(url, patience_seconds=patience_seconds)


class Signals:
    """Short messages to every process, over pub/sub.

    A signal is a hint: one sent while a listener is away is lost, so whoever listens must come to
    the same end without it, later.
    """

    def __init__(self, redis: Client) -> None:
        """Send and listen through this client."""
        self._redis = redis

    async def send(self, signal: Signal, upload_id: str) -> None:
        """Tell every listening process.

        Raises:
            CoordinationLost: Redis stayed away.
        """
        await self._redis.publish(Keys.signal(signal), upload_id)

    async def run(
        self,
        handlers: Mapping[Signal, Callable[[str], None]],
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen for ever; each handler is called on the event loop with the upload id.

        Subscribes again after every loss. `task_status` is told once the first subscription stands.
        """
        delays: Iterator[float] | None = None
        while True:
            pubsub = self._redis.pubsub()
            try:
                await pubsub.subscribe(*(Keys.signal(signal) for signal in handlers))
                async for channel, payload in _messages(pubsub):
                    if channel is None:
                        delays = None
                        task_status.started()
                        task_status = anyio.TASK_STATUS_IGNORED
                    else:
                        handlers[Signal(channel.rpartition(":")[2])](payload)
            except _UNREACHABLE as error:
                if delays is None:
                    logger.warning("signals_lost place=%s cause=%s", self._redis.place, error)
            finally:
                with anyio.CancelScope(shield=True):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]
            delays = delays or backoff_seconds()
            await anyio.sleep(next(delays))


async def _messages(pubsub: PubSub) -> AsyncIterator[tuple[str | None, str]]:
    """Yield (channel, payload); the channel is None once, when every subscription stands."""
    heard_at = anyio.current_time()
    while anyio.current_time() - heard_at < _SOCKET_TIMEOUT_SECONDS + BLOCK_SECONDS:
        message = await pubsub.get_message(timeout=BLOCK_SECONDS)
        if message is None:
            await pubsub.ping("still there")
            continue
        heard_at = anyio.current_time()
        if message["type"] == "message":
            yield message["channel"], message["data"]
        elif message["type"] == "subscribe" and message["data"] == len(pubsub.channels):
            yield None, ""
    raise exceptions.TimeoutError("no answer to PING")


class Leases:
    """Who does a thing just now, by name. A lease is a courtesy, not a proof.

    It spares double work; what must not happen twice is protected by a kernel lock.
    """

    def __init__(self, redis: Client, owner: str) -> None:
        """Take leases as `owner`, a name that no other process has."""
        self._redis = redis
        self._owner = owner

    async def take(self, name: str, seconds: float) -> bool:
        """Take the lease for so long; False while anybody, we too, holds it."""
        taken = await self._redis.once(
            "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0",
            [Keys.lease(name)],
            [self._owner, _milliseconds(seconds)],
        )
        return bool(taken)

    async def renew(self, name: str, seconds: float) -> bool:
        """Hold it for so long from now; False when it is no longer ours."""
        return await self._owned(
            "return redis.call('PEXPIRE', KEYS[1], ARGV[2])", name, _milliseconds(seconds)
        )

    async def drop(self, name: str) -> bool:
        """Give it up; False when it was no longer ours."""
        return await self._owned("return redis.call('DEL', KEYS[1])", name, 0)

    async def held(self, name: str) -> bool:
        """Whether anybody holds it."""
        return bool(await self._redis.exists(Keys.lease(name)))

    async def _owned(self, action: str, name: str, milliseconds: int) -> bool:
        check = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
        args = (self._owner, milliseconds)
        return bool(await self._redis.script(check + action, [Keys.lease(name)], args))


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
