"""Progress: the status document in the words of the old fourth endpoint.

Knows: which of our steps was which of the old ones.
Must not know: where the document comes from.

| old word | ours |
|---|---|
| uploading | receiving |
| merging | queued; running at `assemble` or `verify` |
| loading | running at `load` or `build` |
| pushing | running at `push` or `cleanup` |
| done, failed, canceled, expired | the same |
"""

from __future__ import annotations

from typing import Any, Final

from hooks.record import Record, Status, StepRecord, StepState

# The old steps, in order, and ours that each stands for.
_STEPS: Final = {
    "merge": ("assemble", "verify"),
    "load": ("load", "build"),
    "push": ("push",),
}
_WORDS: Final = {"merge": "merging", "load": "loading", "push": "pushing"}
_WHOLE_PERCENT: Final = 100


def word(record: Record) -> str:
    """The old word for where the upload is."""
    match record.status:
        case Status.RECEIVING:
            return "uploading"
        case Status.QUEUED:
            return _WORDS["merge"]
        case Status.RUNNING:
            return _WORDS[_old_step(record)]
    return record.status.value


def _old_step(record: Record) -> str:
    """The step that runs; between two steps, the one that comes."""
    going = (StepState.RUNNING, StepState.WAITING)
    current = next((step.name for step in record.steps if step.state in going), "cleanup")
    return next((old for old, ours in _STEPS.items() if current in ours), "push")


def progress(record: Record) -> dict[str, Any]:
    """The whole answer."""
    running = [step for step in record.steps if step.state is StepState.RUNNING]
    done, total = record.offset, record.length or 0
    if record.status is not Status.RECEIVING:
        done, total = (running[0].bytes_done, running[0].bytes_total) if running else (0, 0)
    percent = _WHOLE_PERCENT * done // total if total else 0
    finished = record.status is Status.DONE
    return {
        "taskId": record.id,
        "uploadId": record.id,
        "fileName": record.filename,
        "status": word(record),
        "progress": _WHOLE_PERCENT if finished else percent,
        "bytesDone": done,
        "bytesTotal": total,
        "steps": {old: _state(record, ours) for old, ours in _STEPS.items()},
        "message": running[0].message if running else "",
        "image": record.image,
        "images": [result.to_json() for result in record.results],
        "error": record.error.to_json() if record.error else None,
    }


def _state(record: Record, ours: tuple[str, ...]) -> str:
    """One state for several of our steps: of the first that is not over, else of the last."""
    steps = [step for step in record.steps if step.name in ours]
    if not steps:
        return StepState.WAITING.value
    return next((step for step in steps if not _over(step)), steps[-1]).state.value


def _over(step: StepRecord) -> bool:
    return step.state in (StepState.DONE, StepState.SKIPPED)
