"""The status API: list, one, events, retry, cancel, and the question before sending.

Knows: JSON over HTTP, server-sent events, who may see what.
Must not know: how a status came about. Disk says what exists and how it ended, Redis says what is
going on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from hooks.admission import Admission
from hooks.errors import AdmissionRefused
from hooks.feed import Event, EventFeed
from hooks.record import Record, Status
from server.auth import Action, Caller, Callers
from server.errors import BadRequest, ServerError, Unavailable
from server.finder import Found
from server.protocols.headers import EVENT_STREAM, LAST_EVENT_ID, RETRY_AFTER, single
from server.question import Question, read_question
from server.reception import Reception
from server.records import Records
from server.termination import Termination

logger = logging.getLogger(__name__)

_KEEP_ALIVE_SECONDS: Final = 15
_PAGE_DEFAULT: Final = 50
_PAGE_LIMIT: Final = 500
_CHECKS_AT_ONCE: Final = 4
# Of an archive with more images, the rest is looked at before anything is loaded.
_TAGS_ASKED: Final = 20
# For all of them together, so that who waits for the answer hears it: clients give up after 60.
_TAGS_SECONDS: Final = 10
_REDIS_SECONDS: Final = 2


class UploadsApi:
    """Routes under `/api`."""

    def __init__(
        self,
        reception: Reception,
        termination: Termination,
        callers: Callers,
        admission: Admission,
        records: Records,
        feed: EventFeed,
        stopping: Callable[[], bool],
    ) -> None:
        """Wire the parts; `stopping()` ends the event streams."""
        self._reception = reception
        self._termination = termination
        self._callers = callers
        self._admission = admission
        self._records = records
        self._feed = feed
        self._stopping = stopping
        # Each question is a process of its own.
        self._asking = CapacityLimiter(_CHECKS_AT_ONCE)

    async def listing(self, request: Request) -> Response:
        """`GET /api/uploads?status=&image=&q=&limit=&cursor=`: the caller's, newest first."""
        caller = self._callers.identify(request.headers)
        wanted = _filters(request)
        limit = _limit(request.query_params.get("limit"))
        found = await to_thread.run_sync(self._visible, caller)
        records = await self._records.of(found)
        matching = [record for record in records if wanted(record)]
        start = _after(matching, request.query_params.get("cursor"))
        page = matching[start : start + limit]
        more = start + limit < len(matching)
        return JSONResponse(
            {
                "uploads": [record.to_json() for record in page],
                "next": page[-1].id if more else None,
                "total": len(matching),
            }
        )

    async def one(self, request: Request) -> Response:
        """`GET /api/uploads/ID`: the status document, and what the archive holds."""
        found = await self._found(request, Action.READ)
        document = (await self._record(found)).to_json()
        contents = await to_thread.run_sync(self._reception.store.contents, found.upload.id)
        # In ASCII: names in an archive may be no text that UTF-8 has.
        text = json.dumps({**document, "archive": contents})
        return Response(text, media_type="application/json")

    async def cancel(self, request: Request) -> Response:
        """`POST /api/uploads/ID/cancel`: stop it, wherever it is; answers with how it ended."""
        found = await self._found(request, Action.ACT)
        outcome = await self._termination.cancel(found)
        return JSONResponse(outcome.to_json())

    async def retry(self, request: Request) -> Response:
        """`POST /api/uploads/ID/retry`: run what follows a failed upload once more."""
        found = await self._found(request, Action.ACT)
        reopened = await self._reception.reopen(found)
        return JSONResponse(reopened.record().to_json(), HTTPStatus.ACCEPTED)

    async def check(self, request: Request) -> Response:
        """`POST /api/check {image, length, ...}`: would it be taken, and is the tag there already.

        `ref`, `compression`, `allow_partial` and `platforms` are judged as in an upload's metadata;
        `images` says what the archive's images are called, since that may decide where they go.
        """
        caller = self._callers.identify(request.headers)
        question = await read_question(request)
        answer: dict[str, Any] = {"allowed": True, "exists": None, "reason": "", "hint": ""}
        try:
            await self._admit(question, caller)
            wanted = self._admission.destinations(question.metadata, question.images)
            there = await self._digests_there(wanted[:_TAGS_ASKED])
            answer["exists"] = _any_exists(there.values())
            for image, digest in there.items():
                self._admission.check_free(image, digest or None)
        except (ServerError, AdmissionRefused) as refusal:
            answer |= {
                "allowed": False,
                "code": refusal.code,
                "reason": refusal.message,
                "hint": refusal.hint,
            }
        return JSONResponse(answer)

    async def _admit(self, question: Question, caller: Caller) -> None:
        self._reception.check_size(question.length)
        await self._reception.admit(question.metadata, caller)
        await to_thread.run_sync(self._reception.check_space, question.length, question.metadata)

    async def _digests_there(self, images: Sequence[str]) -> Mapping[str, str | None]:
        """What each tag is now (empty: nothing; None: nobody can tell), in that order."""
        there: dict[str, str | None] = dict.fromkeys(images)

        async def ask(image: str) -> None:
            try:
                async with self._asking:
                    there[image] = await self._admission.exists(image) or ""
            except Exception as error:
                logger.warning("registry not asked", extra={"cause": str(error)})

        with anyio.move_on_after(_TAGS_SECONDS):
            async with anyio.create_task_group() as asking:
                for image in images:
                    asking.start_soon(ask, image)
        return there

    async def events(self, request: Request) -> Response:
        """`GET /api/events`: everything this caller may see, as it happens."""
        caller = self._callers.identify(request.headers)
        return await self._stream(request, caller, None)

    async def upload_events(self, request: Request) -> Response:
        """`GET /api/uploads/ID/events`: one upload; begins with its document."""
        caller = self._callers.identify(request.headers)
        found = await self._found(request, Action.READ)
        return await self._stream(request, caller, found)

    async def log(self, request: Request) -> Response:
        """`GET /api/uploads/ID/log`: what its steps said, as far as it is remembered.

        Each line has the id of its event, by which one knows it again in a stream.
        """
        found = await self._found(request, Action.READ)
        lines = await self._records.log(found.upload.id)
        return JSONResponse({"lines": [asdict(line) for line in lines]})

    async def _stream(self, request: Request, caller: Caller, found: Found | None) -> Response:
        with anyio.move_on_after(_REDIS_SECONDS) as waiting:
            await self._feed.newest_id()
        if waiting.cancelled_caught:
            raise Unavailable(
                "events: Redis does not answer",
                "ask the status instead, and come back later",
                headers={RETRY_AFTER: "5"},
            )
        after = single(request.headers, LAST_EVENT_ID)
        return StreamingResponse(
            self._lines(caller, found, after),
            media_type=EVENT_STREAM,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _lines(
        self, caller: Caller, found: Found | None, after: str | None
    ) -> AsyncIterator[str]:
        """The stream's text.

        Spec: HTML, section 9.2, Server-sent events.
        """
        upload_id = found.upload.id if found else None
        async with AsyncExitStack() as stack:
            subscription = await stack.enter_async_context(self._feed.subscribe(after, upload_id))
            yield ": connected\n\n"
            if found is not None:
                yield _event_text(None, "status", (await self._record(found)).to_json())
            silent_seconds = 0
            while not self._stopping():
                event: Event | None = None
                with anyio.move_on_after(1):
                    event = await anext(subscription)
                silent_seconds = 0 if event else silent_seconds + 1
                if event and caller.sees(event.owner):
                    yield _event_text(event.id, event.type, event.data)
                elif silent_seconds >= _KEEP_ALIVE_SECONDS:
                    silent_seconds = 0
                    yield ": keep-alive\n\n"

    async def _found(self, request: Request, action: Action) -> Found:
        caller = self._callers.identify(request.headers)
        return await self._reception.find(request.path_params["id"], caller, action)

    def _visible(self, caller: Caller) -> list[Found]:
        store = self._reception.store
        uploads = (store.find(upload_id) for upload_id in store.ids())
        mine = [upload for upload in uploads if upload and caller.sees(upload.owner)]
        mine.sort(key=lambda upload: (upload.created_at, upload.id), reverse=True)
        finder = self._reception.finder
        # Parts are told of by their final upload.
        found = (finder.glance(upload) for upload in mine if finder.final_of(upload) is None)
        return [one for one in found if one]

    async def _record(self, found: Found) -> Record:
        [record] = await self._records.of([found])
        return record


def _any_exists(digests: Collection[str | None]) -> bool | None:
    """Whether one of the tags is there; None where nobody can tell."""
    if any(digests):
        return True
    return None if not digests or None in digests else False


def _filters(request: Request) -> Callable[[Record], bool]:
    statuses = [one for one in (request.query_params.get("status") or "").split(",") if one]
    image = request.query_params.get("image")
    text = (request.query_params.get("q") or "").lower()
    for status in statuses:
        if status not in list(Status):
            raise BadRequest(f"status {status!r} is none", "one or more of " + ",".join(Status))

    def matches(record: Record) -> bool:
        images = [record.image or "", *(result.image for result in record.results)]
        haystack = " ".join([record.id, record.filename, *images]).lower()
        return (
            (not statuses or record.status in statuses)
            and (not image or image in images)
            and text in haystack
        )

    return matches


def _limit(text: str | None) -> int:
    if text is None:
        return _PAGE_DEFAULT
    if (
        not text.isdecimal()
        or len(text) > len(str(_PAGE_LIMIT))
        or not 1 <= int(text) <= _PAGE_LIMIT
    ):
        raise BadRequest(f"limit {text!r} is not a number from 1 to {_PAGE_LIMIT}")
    return int(text)


def _after(records: list[Record], cursor: str | None) -> int:
    if cursor is None:
        return 0
    for index, record in enumerate(records):
        if record.id == cursor:
            return index + 1
    raise BadRequest(f"cursor {cursor!r} is not on this list", "begin without a cursor")


def _event_text(event_id: str | None, kind: str, data: Any) -> str:
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n"
