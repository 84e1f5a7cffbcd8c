"""An upload as a state machine: random requests over several protocols, cuts, kills, and a model.

The model is the bytes that an upload has and its length (None: not known yet). Whatever happens,
the data file equals it, and what is finished is worked on with just these bytes.
"""

from __future__ import annotations

import base64
import hashlib
import random
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.dialects import Ietf, Place, Speaker, Tus
from tests.live import LiveServer, wait_until
from tests.raw import TUS, ask, status
from tests.resumable import stored

KIB = 2**10
SPEAKERS: tuple[Speaker, ...] = (Tus(overridden=False), Tus(overridden=True), Ietf(6), Ietf(9))
TUS_ALONE = SPEAKERS[0]
NOISE = random.Random(1).randbytes(4096 * KIB)

speakers = st.sampled_from(SPEAKERS)
sizes = st.one_of(st.integers(0, 5000), st.integers(1, 5000), st.just(300 * KIB))
some_sizes = st.one_of(st.integers(1, 5000), st.just(300 * KIB))
lengths = st.one_of(st.none(), st.just(0), st.integers(1, 5000), st.just(500 * KIB))


@dataclass
class Model:
    """What an upload must be."""

    upload: str
    data: bytes
    length: int | None

    @property
    def finished(self) -> bool:
        return len(self.data) == self.length

    def next(self, size: int) -> bytes:
        """The bytes of an append of at most this size, other ones at each offset."""
        room = size if self.length is None else min(size, self.length - len(self.data))
        start = len(self.data) * 7 % 1000
        return NOISE[start : start + room]


@dataclass
class Ground:
    """The server of one run, and what was finished on it."""

    server: LiveServer
    finished: dict[str, str] = field(default_factory=dict)


def checksum(data: bytes, speaker: Speaker) -> Mapping[str, str]:
    """The header that proves these bytes, as the protocol calls it."""
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    if speaker.protocol == "tus":
        return {"Upload-Checksum": f"sha256 {digest}"}
    return {"Content-Digest": f"sha-256=:{digest}:"}


class Uploads(RuleBasedStateMachine):
    """Rules draw how much is sent, never from what an upload is: a cut leaves that open."""

    ground: Ground
    uploads = Bundle("uploads")

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[str, Model] = {}
        self.killed = False
        self.concatenations = 0

    @property
    def port(self) -> int:
        return self.ground.server.port

    # --- what a sender does ---

    @rule(target=uploads, speaker=speakers, length=lengths)
    def create(self, speaker: Speaker, length: int | None) -> Model:
        model = Model(speaker.create(self.port, length), b"", length)
        self.alive[model.upload] = model
        return model

    @rule(
        model=uploads,
        speaker=speakers,
        size=sizes,
        ends=st.booleans(),
        proven=st.booleans(),
        chunked=st.booleans(),
    )
    def append(
        self,
        model: Model,
        speaker: Speaker,
        size: int,
        *,
        ends: bool,
        proven: bool,
        chunked: bool,
    ) -> None:
        data = model.next(size)
        last = model.finished or (ends and model.length is None)
        send = speaker.append_chunked if chunked else speaker.append
        proof = checksum(data, speaker) if proven else {}
        answer = send(self.port, model.upload, len(model.data), data, last=last, headers=proof)
        self.took(model, data, last=last)
        assert answer.status == (speaker.finished if model.finished else speaker.appended), answer
        assert int(answer["Upload-Offset"]) == len(model.data)

    @rule(model=uploads, speaker=speakers, size=sizes, away=st.integers(1, 9), back=st.booleans())
    def append_elsewhere(
        self, model: Model, speaker: Speaker, size: int, away: int, *, back: bool
    ) -> None:
        there = len(model.data)
        wrong = there - away if back and there >= away else there + away
        answer = speaker.append(self.port, model.upload, wrong, NOISE[:size])
        assert (answer.status, int(answer["Upload-Offset"])) == (409, there)

    @rule(model=uploads, speaker=speakers, more=some_sizes)
    def append_too_much(self, model: Model, speaker: Speaker, more: int) -> None:
        """Refused by what it declares, before a byte counts."""
        if model.length is None:
            return
        room = model.length - len(model.data)
        answer = speaker.append(self.port, model.upload, len(model.data), NOISE[: room + more])
        assert answer.status == speaker.overlong, answer

    @rule(model=uploads, speaker=speakers, more=some_sizes)
    def append_too_many_chunks(self, model: Model, speaker: Speaker, more: int) -> None:
        """Nobody knew beforehand, so what fits may be kept."""
        if model.length is None:
            return
        data = model.next(500 * KIB)
        answer = speaker.append_chunked(
            self.port, model.upload, len(model.data), data + NOISE[:more]
        )
        assert answer.status in (speaker.overlong, 413), answer
        self.settle(model, speaker, data)

    @rule(model=uploads, speaker=speakers, size=some_sizes, chunked=st.booleans())
    def append_unproven(self, model: Model, speaker: Speaker, size: int, *, chunked: bool) -> None:
        """A wrong checksum: nothing is kept."""
        data = model.next(size)
        if not data:
            return
        send = speaker.append_chunked if chunked else speaker.append
        wrong = checksum(data + b"x", speaker)
        answer = send(self.port, model.upload, len(model.data), data, headers=wrong)
        assert answer.status == speaker.unproven, answer

    @rule(
        model=uploads,
        speaker=speakers,
        size=some_sizes,
        share=st.floats(0, 1),
        proven=st.booleans(),
        reset=st.booleans(),
    )
    def append_cut(
        self,
        model: Model,
        speaker: Speaker,
        size: int,
        share: float,
        *,
        proven: bool,
        reset: bool,
    ) -> None:
        """The line breaks in mid body; with a reset, also what is on its way may be lost."""
        data = model.next(size)
        sent = data[: int(share * len(data))]
        if len(sent) == len(data):
            return
        proof = checksum(data, speaker) if proven else {}
        place = len(model.data)
        with speaker.sender(self.port, model.upload, place, len(data), headers=proof) as raw:
            raw.send(sent)
            if reset:
                now = struct.pack("ii", 1, 0)
                raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        self.settle(model, speaker, b"" if proven else sent)

    @rule(model=uploads, old=speakers, new=speakers, size=some_sizes, proven=st.booleans())
    def take_over(
        self, model: Model, old: Speaker, new: Speaker, size: int, *, proven: bool
    ) -> None:
        """A sender stalls in mid body; another one, of any protocol, goes on in its place."""
        data = model.next(2 * size)
        half = data[: len(data) // 2]
        if len(data) < 2:
            return
        kept = b"" if proven else half
        proof = checksum(data, old) if proven else {}
        place = len(model.data)
        with old.sender(self.port, model.upload, place, len(data), headers=proof) as stalled:
            stalled.send(half)
            want = place + len(half)
            path = stored(self.ground.server, model.upload)
            wait_until(lambda: path.stat().st_size == want, what="half of it came")
            self.took(model, kept, last=False)
            rest = data[len(kept) :]
            answer = new.append(self.port, model.upload, len(model.data), rest)
            self.took(model, rest, last=False)
            assert answer.status == (new.finished if model.finished else new.appended), answer
            evicted = stalled.answer("PATCH")
            assert (evicted.status, int(evicted["Upload-Offset"])) == (409, place + len(kept))

    @rule(model=uploads, speaker=speakers)
    def head(self, model: Model, speaker: Speaker) -> None:
        found = speaker.head(self.port, model.upload)
        assert found == Place(len(model.data), model.length, complete=model.finished)

    @rule(model=consumes(uploads), speaker=speakers)
    def remove(self, model: Model, speaker: Speaker) -> None:
        assert speaker.remove(self.port, model.upload).status == 204
        assert not stored(self.ground.server, model.upload).exists()
        del self.alive[model.upload]
        self.ground.finished.pop(model.upload, None)
        gone = speaker.gone if model.finished else 404
        assert speaker.ask(self.port, model.upload).status == gone

    # --- what happens to the server ---

    @precondition(lambda self: not self.killed)
    @rule(model=uploads, speaker=speakers, size=some_sizes, proven=st.booleans())
    def kill(self, model: Model, speaker: Speaker, size: int, *, proven: bool) -> None:
        """SIGKILL in mid append, once in each example: to start again takes seconds."""
        self.killed = True
        data = model.next(size)
        sent = data[: len(data) // 2]
        proof = checksum(data, speaker) if proven else {}
        place = len(model.data)
        with speaker.sender(self.port, model.upload, place, len(data), headers=proof) as raw:
            raw.send(sent)
            self.ground.server.kill()
        self.ground.server.start()
        self.settle(model, speaker, b"" if proven else sent)

    # --- concatenation ---

    # It needs no upload to begin with, and would be chosen before anything else.
    @precondition(lambda self: self.concatenations < 3)
    @rule(
        sizes=st.lists(st.integers(0, 5000), min_size=2, max_size=3),
        late=st.booleans(),
        speaker=speakers,
        backwards=st.booleans(),
    )
    def concatenate(
        self, sizes: list[int], speaker: Speaker, *, late: bool, backwards: bool
    ) -> None:
        """Parts become one upload, in the order that is said; `late`: the last one comes after."""
        self.concatenations += 1
        pieces = [NOISE[size : 2 * size] for size in sizes]
        parts = [self.partial(len(piece)) for piece in pieces]
        for part, piece in list(zip(parts, pieces, strict=True))[: -1 if late else None]:
            self.fill(part, piece, speaker)
        order = list(range(len(parts)))[:: -1 if backwards else 1]
        whole = b"".join(pieces[number] for number in order)
        final = {**TUS, "Upload-Concat": "final;" + " ".join(parts[number] for number in order)}
        answer = ask(self.port, "POST", "/files/", final)
        assert answer.status == 201, answer
        if late:
            self.fill(parts[-1], pieces[-1], speaker)
        again = ask(self.port, "POST", "/files/", final)
        assert (again.status, again["Location"]) == (201, answer["Location"])
        head = ask(self.port, "HEAD", answer["Location"], TUS)
        assert head["Upload-Offset"] == head["Upload-Length"] == str(len(whole))
        self.ground.finished[answer["Location"]] = hashlib.sha256(whole).hexdigest()

    def partial(self, length: int) -> str:
        headers = {**TUS, "Upload-Length": str(length), "Upload-Concat": "partial"}
        answer = ask(self.port, "POST", "/files/", headers)
        assert answer.status == 201, answer
        return answer["Location"]

    def fill(self, part: str, piece: bytes, speaker: Speaker) -> None:
        if piece:
            assert speaker.append(self.port, part, 0, piece).status == speaker.finished

    # --- what the model says ---

    def took(self, model: Model, data: bytes, *, last: bool) -> None:
        model.data += data
        if last:
            model.length = len(model.data)
        if model.finished:
            self.ground.finished[model.upload] = hashlib.sha256(model.data).hexdigest()

    def settle(self, model: Model, speaker: Speaker, sent: bytes) -> None:
        """The model takes what HEAD says: what was acknowledged, and a beginning of what was sent.

        HEAD passes a sender whose end the server has not seen yet; an append waits for it, or
        evicts it.
        """
        before = len(model.data)

        def settled() -> bool:
            came = speaker.head(self.port, model.upload).offset - before
            assert 0 <= came <= len(sent)
            if model.length is not None and before + came == model.length:
                self.took(model, sent[:came], last=False)
                return True
            answer = TUS_ALONE.append(self.port, model.upload, before + came, b"")
            if answer.status == 204:
                self.took(model, sent[:came], last=False)
            return answer.status == 204

        if model.finished:
            return
        wait_until(settled, what="the cut sender is gone")

    @invariant()
    def the_files_are_the_model(self) -> None:
        for model in self.alive.values():
            found = stored(self.ground.server, model.upload).read_bytes()
            assert found == model.data, f"{len(found)} bytes, not {len(model.data)}"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """A server without a worker, so that what is finished stays to be looked at."""
    with LiveServer(tmp_path, run_worker=False, lock_wait_seconds=20) as server:
        yield Ground(server)


def explore(ground: Ground, *, examples: int, steps: int) -> None:
    """Run the machine; the same steps every time.

    Nothing is shrunk: each try would take as long as the failing example did.
    """
    machine = type("Machine", (Uploads,), {"ground": ground})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def all_done(ground: Ground, tmp_path: Path) -> None:
    """A worker that comes later takes up every finished upload, and finds the right bytes."""
    assert ground.finished
    ground.server.stop()
    with LiveServer(tmp_path, data_dir=ground.server.data_dir) as server:
        for upload, sha256 in ground.finished.items():
            wait_until(
                lambda upload=upload: status(server.port, upload)["status"] == "done",
                seconds=60,
                what=f"{upload} is done",
            )
            assert status(server.port, upload)["digests"]["sha256"] == sha256


def test_whatever_happens_an_upload_is_what_was_acknowledged(
    ground: Ground, tmp_path: Path
) -> None:
    explore(ground, examples=9, steps=45)
    all_done(ground, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_happens_for_minutes(ground: Ground, tmp_path: Path) -> None:
    explore(ground, examples=25, steps=70)
    all_done(ground, tmp_path)
