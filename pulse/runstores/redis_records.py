"""What Pulse keeps on a Redis server: runs, fires, pauses and processes as JSON, and JSON as these; and totals.

Instants are texts, since the numbers of scripts are floats.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

from pulse.model import Fire, Instance, Limits, Outcome, Pause, Press, Progress, Run, Trigger
from pulse.runstores.base import Totals
from pulse.runstores.instants import MICROSECOND, number_of
from pulse.runstores.legible import MISREAD, understood
from pulse.zone import EPOCH

TOTALS: Final = (
    *("last_finished", "last_success", "timed", "seconds", "seconds_late"),
    *(outcome.value for outcome in Outcome),
)
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_PRESS: Final = tuple(field.name for field in fields(Press))
_RUN: Final = tuple(field.name for field in fields(Run))
_OUTPUTS: Final = ("body", "errors", "log")
_INSTANTS: Final = ("due", "started", "expires", "finished", "first_due", "again_at")


def json_of(value: Mapping[str, Any]) -> bytes:
    """*value* without what is None."""
    return plain_json_of({name: one for name, one in value.items() if one is not None})


def plain_json_of(value: Mapping[str, Any]) -> bytes:
    """*value* as it is."""
    # Any text survives: what is no character came from bytes that were none.
    return _encode(value).encode("utf-8", "surrogatepass")


def text_of(text: bytes) -> str:
    """The text in what the server has sent."""
    return text.decode("utf-8", "surrogatepass")


def stamp(instant: datetime | None) -> str | None:
    """*instant* as the server has it."""
    return None if instant is None else str(number_of(instant))


def instant_from(text: str | bytes) -> datetime:
    """The reverse of `stamp`."""
    return EPOCH + int(text) * MICROSECOND


def instant_or_none(text: str | bytes | None) -> datetime | None:
    """The same; None for nothing."""
    return None if text is None else instant_from(text)


def limit_fields(limits: Limits) -> dict[str, Any]:
    """What a script is told of *limits*."""
    said: dict[str, Any] = {}
    if limits.instances is not None:
        said["instances"] = limits.instances
    if limits.lock:
        said |= {"lock": limits.lock, "lock_shown": repr(limits.lock)}
    for name in ("waits", "replaces", "recovers"):
        if getattr(limits, name):
            said[name] = True
    return said


def fire_fields(fire: Fire) -> dict[str, Any]:
    """The record of *fire*, as far as it goes before anyone has claimed it."""
    said = {
        "id": fire.run_id,
        "task": fire.task,
        "due": stamp(fire.due),
        "trigger": fire.trigger.value,
        "attempt": fire.attempt,
        "count": 1,
    }
    if fire.place:
        said["place"] = fire.place
    return said


def run_fields(run: Run) -> dict[str, Any]:
    """The record of *run*, without what is empty."""
    return {
        name: write(value) if write else value
        for name, write, value in zip(_RUN, _WRITERS, _values_of(run), strict=True)
        if value or type(value) in (int, float)
    }


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def progress_text(value: Progress) -> str:
    """*value* as text: scripts would round its numbers."""
    return json.dumps([value.done, value.total, value.text])


@understood
def run_from(said: Mapping[str, Any]) -> Run:
    """What `run_fields` has written, here or in another release."""
    return Run(**{name: _READERS.get(name, _as_it_is)(value) for name, value in said.items() if name in _RUN})


def _as_it_is(value: Any) -> Any:
    return value


def _progress_of(text: str) -> Progress:
    done, total, said = json.loads(text)
    return Progress(done=done, total=total, text=said)


_values_of: Final = attrgetter(*_RUN)
_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_INSTANTS, instant_from),
    **dict.fromkeys(_OUTPUTS, b64decode),
    "trigger": Trigger,
    "outcome": Outcome,
    "progress": _progress_of,
}
_WRITES: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_INSTANTS, stamp),
    **dict.fromkeys(_OUTPUTS, _base64),
    "trigger": attrgetter("value"),
    "outcome": attrgetter("value"),
    "progress": progress_text,
}
_WRITERS: Final = tuple(_WRITES.get(name) for name in _RUN)  # None: as it is


def name_in(text: bytes) -> tuple[str, str]:
    """The task and the id in what `run_fields` has written, whatever else it says."""
    try:
        said = json.loads(text_of(text))
        return str(said["task"]), str(said["id"])
    except MISREAD:
        return "?", repr(text[:80])


@understood
def totals_from(
    finished: bytes | None,
    success: bytes | None,
    timed: bytes | None,
    seconds: bytes | None,
    seconds_late: bytes | None,
    *counts: bytes | None,
) -> Totals:
    """What the fields `TOTALS` of a task say; a task has only those that something was added to."""
    return Totals(
        counts={outcome: int(count) for outcome, count in zip(Outcome, counts, strict=True) if count},
        last_finished=instant_or_none(finished),
        last_success=instant_or_none(success),
        timed=int(timed or 0),
        seconds=float(seconds or 0),
        seconds_late=float(seconds_late or 0),
    )


def pause_fields(pause: Pause) -> dict[str, Any]:
    """*pause*, and what scripts write into the records of what it keeps from running."""
    return {
        "since": stamp(pause.since),
        "until": stamp(pause.until),
        "note": pause.note,
        "by": pause.by,
        "reason": pause.reason,
    }


def pause_from(said: Mapping[str, Any]) -> Pause:
    """What `pause_fields` has written."""
    return Pause(
        since=instant_from(said["since"]), until=instant_or_none(said.get("until")), note=said["note"], by=said["by"]
    )


def press_fields(press: Press) -> dict[str, Any]:
    """*press*, whole."""
    return {**{name: getattr(press, name) for name in _PRESS}, "at": stamp(press.at)}


def press_from(said: Mapping[str, Any]) -> Press:
    """What `press_fields` has written."""
    return Press(at=instant_from(said["at"]), **{name: said[name] for name in _PRESS if name != "at"})


def instance_fields(instance: Instance) -> dict[str, Any]:
    """What the others are told of *instance*."""
    return {
        "owner": instance.owner,
        "started": stamp(instance.started),
        "seen": stamp(instance.seen),
        "digest": instance.digest,
        "server": instance.server,
        "version": instance.version,
        "refused": instance.refused,
        "store_errors": instance.store_errors,
    }


def instance_from(said: Mapping[str, Any]) -> Instance:
    """What `instance_fields` has written, here or in an earlier release."""
    return Instance(
        owner=said["owner"],
        started=instant_from(said["started"]),
        seen=instant_from(said["seen"]),
        digest=said["digest"],
        server=said["server"],
        version=said["version"],
        refused=said.get("refused", 0),
        store_errors=said.get("store_errors", 0),
    )
