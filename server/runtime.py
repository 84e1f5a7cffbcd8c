"""Runtime: every part of one process, made from the settings and wired together.

Knows: which part needs which. With `app.py` and `cli.py` it is the composition root, the only place
where the rooms meet.
Must not know: how a part does its work.
"""

from __future__ import annotations

import logging
import os
import socket

import anyio

from buildah.bases import BaseImages
from buildah.build import BuildOptions
from buildah.engine import ENGINES
from buildah.errors import OverlayNotPermitted, StorageUnsuitable
from buildah.place import require_suitable
from buildah.pushed import LayerCompression
from buildah.registry import Registries, Registry
from hooks.admission import Admission
from hooks.attempt import Desk
from hooks.budget import Budget
from hooks.errors import CoordinationLost
from hooks.feed import EventFeed
from hooks.following import Following
from hooks.lifecycle import Lifecycle
from hooks.pipeline import Pipeline
from hooks.queue import JobQueue
from hooks.redis import Client, Leases, Signal, Signals, connect, masked
from hooks.retention import Retention
from hooks.status import DAY_SECONDS, StatusStore
from hooks.steps import image_steps
from hooks.worker import Worker
from server.admittance import Limits
from server.chunk_reception import ChunkReception
from server.expiry import Expiry, Times
from server.final_uploads import FinalUploads
from server.finder import Finder
from server.finished import StoredUploads
from server.intake import Intake
from server.kernel_locks import probe_locks
from server.locker import Locker
from server.reception import Reception
from server.relay import Relay
from server.settings import Settings, SettingsError
from server.store import UploadStore
from server.termination import Termination

logger = logging.getLogger(__name__)

# A contender asks again every few milliseconds; a slow Redis must not hold it up.
_ASK_SECONDS = 0.2
# A server is gone within seconds, so a job inside it cannot have more.
SERVER_GRACE_SECONDS = 5.0
# Below the data directory.
UPLOADS = "uploads"
JOBS = "jobs"


class Runtime:
    """The parts of one server or worker process."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        """Make every part; nothing runs yet.

        Raises:
            SettingsError: the data directory cannot be used.
        """
        self.settings = settings
        prepare(settings)
        self.jobs_dir = settings.data_dir / JOBS
        uploads_dir = settings.data_dir / UPLOADS
        name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        redis = _connect(redis_url)
        self._redis = redis
        self.signals = Signals(redis)
        self.leases = Leases(redis, name)
        self.status = StatusStore(
            redis, kept_seconds=max(60, int(settings.history_days * DAY_SECONDS))
        )
        self.queue = JobQueue(redis, name)
        self.feed = EventFeed(redis)
        self.budget = Budget(settings.storage_driver, ENGINES[settings.engine].loads)
        self.admission = admission(settings, self.budget)
        self.lifecycle = Lifecycle(self.status, self.queue, self.signals)
        self.relay = Relay(self.lifecycle.handle)
        durable = settings.durability == "patch"
        self.locker = Locker(
            uploads_dir,
            idle_seconds=settings.idle_release_ms / 1000,
            wait_seconds=settings.lock_wait_seconds,
            ask=self._ask,
        )
        self.store = UploadStore(uploads_dir, self.locker, durable=durable)
        self.intake = Intake(body_idle_seconds=settings.body_idle_seconds, durable=durable)
        finder = Finder(self.store, unfinished_ttl_hours=settings.unfinished_ttl_hours)
        self.reception = Reception(
            self.store,
            finder,
            self.locker,
            self.intake,
            self.admission,
            self.relay.emit,
            limits=Limits(settings.max_size, self.jobs_dir, settings.run_worker),
        )
        self.finals = FinalUploads(self.reception, self.relay.emit)
        self.chunks = ChunkReception(self.reception, self.relay.emit)
        self.termination = Termination(self.store, self.locker, self.lifecycle, self.relay.emit)
        times = Times(settings.finished_ttl_hours, settings.history_days)
        expiry = Expiry(self.store, self.locker, finder, self.relay.emit, times)
        self.uploads = StoredUploads(self.store, self.locker, finder, expiry)
        self.retention = Retention(
            self.uploads,
            self.leases,
            jobs_dir=self.jobs_dir,
            interval_seconds=settings.sweep_minutes * 60,
        )

    async def _ask(self, upload_id: str, force: bool) -> None:
        """Ask the other processes to release; without Redis it is simply not heard."""
        signal = Signal.EVICT if force else Signal.RELEASE
        with anyio.move_on_after(_ASK_SECONDS):
            try:
                await self.signals.send(signal, upload_id)
            except CoordinationLost:
                return

    async def serve_signals(self) -> None:
        """Hear what other processes ask of this one's locks, for ever."""
        await self.signals.run(
            {
                Signal.RELEASE: lambda upload_id: self.locker.asked(upload_id, force=False),
                Signal.EVICT: lambda upload_id: self.locker.asked(upload_id, force=True),
            }
        )

    def _worker(self, grace_seconds: float) -> Worker:
        steps = image_steps(
            self.uploads,
            self.leases,
            self.admission,
            jobs_dir=self.jobs_dir,
            budget=self.budget,
            engine=self.settings.engine,
            compression=LayerCompression(
                self.settings.compression, self.settings.compression_level
            ),
            builds=builds(self.settings),
        )
        return Worker(
            Desk(self.uploads, self.queue, self.status, self.signals, Pipeline(steps)),
            Following(self.uploads, self.leases),
            jobs_dir=self.jobs_dir,
            concurrency=self.settings.job_concurrency,
            grace_seconds=grace_seconds,
        )

    async def work(self, stop: anyio.Event, *, grace_seconds: float | None = None) -> None:
        """Run jobs, follow uploads and sweep, until `stop` is set.

        Running jobs then get `grace_seconds` (None: what a server can wait for).
        """
        if grace_seconds is None:
            grace_seconds = min(SERVER_GRACE_SECONDS, self.settings.worker_grace_seconds)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.retention.run)
            await self._worker(grace_seconds).run(stop)
            tasks.cancel_scope.cancel()

    async def redis_answers(self) -> bool:
        """Whether Redis answers within a second."""
        with anyio.move_on_after(1):
            try:
                await self._redis.ping()
            except CoordinationLost:
                return False
            return True
        return False

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._redis.aclose()


def admission(settings: Settings, budget: Budget) -> Admission:
    """What the settings let in.

    Raises:
        SettingsError: its registries or its `default_repository` make no sense.
    """
    try:
        return Admission(
            registries(settings),
            budget=budget,
            overwrite=settings.overwrite == "allow",
            default_repository=settings.default_repository,
            preflight=settings.preflight,
        )
    except ValueError as error:
        raise SettingsError(f"settings: {error}") from error


def builds(settings: Settings) -> BuildOptions | None:
    """What a build may use, if there may be one."""
    if not settings.builds:
        return None
    return BuildOptions(
        BaseImages(settings.build_base_images, registries(settings)),
        network=settings.build_network,
        jobs=settings.build_jobs,
        timeout_seconds=settings.build_timeout_minutes * 60,
        size_bytes=settings.build_max_size,
    )


def registries(settings: Settings) -> Registries:
    """The allow-list of the settings, as the lower rooms know it.

    Raises:
        SettingsError: a row's host is none, or is there twice.
    """
    rows = (
        Registry(
            host=row.host,
            plain_http=row.plain_http,
            tls_verify=row.tls_verify,
            ca_file=row.ca_file,
            authfile=row.authfile,
            repositories=row.repositories,
            trusted_hosts=row.trusted_hosts,
        )
        for row in settings.registries
    )
    try:
        return Registries(rows)
    except ValueError as error:
        raise SettingsError(f"registries: {error}") from error


def _connect(redis_url: str) -> Client:
    try:
        return connect(redis_url)
    except ValueError as error:
        raise SettingsError(f"redis_url {masked(redis_url)}: {error}") from error


def prepare(settings: Settings) -> None:
    """Make the data directory; refuse a mount on which writers would not exclude each other.

    Raises:
        SettingsError: it cannot be used.
    """
    uploads_dir = settings.data_dir / UPLOADS
    try:
        for directory in (uploads_dir, settings.data_dir / JOBS):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        locks = probe_locks(uploads_dir)
    except OSError as error:
        raise SettingsError(
            f"data_dir {settings.data_dir}: {error.strerror}; choose one that can be written"
        ) from error
    if not locks:
        raise SettingsError(
            f"data_dir {settings.data_dir}: its file system has no working file locks, so "
            "two requests could write one upload; use a local disk or NFS 4, no object storage"
        )


def require_storage(settings: Settings) -> None:
    """Refuse a file system that cannot hold what jobs unpack, before anybody sends 20 GB for them.

    A missing right to mount is only told of: whoever sends no images needs none.

    Raises:
        SettingsError: it cannot; its name is in the words.
    """
    driver = settings.storage_driver if ENGINES[settings.engine].loads else None
    try:
        require_suitable(settings.data_dir / JOBS, driver)
    except OverlayNotPermitted as error:
        logger.warning("no image can be loaded here: %s %s", error.message, error.hint)
    except StorageUnsuitable as error:
        raise SettingsError(
            f"data_dir {settings.data_dir}: {error.message} {error.hint}"
        ) from error
    except OSError as error:
        raise SettingsError(f"data_dir {settings.data_dir}: {error.strerror}") from error
