"""What visitors can have done to a task: run it, cancel or retry its runs, pause and resume it, clear its history."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from pulse import reader
from pulse.clock import Clock
from pulse.errors import UnknownRunError
from pulse.model import YEAR, Config, Outcome, Press
from pulse.runstores.base import RunStore
from pulse.status import audit
from pulse.status.controls import Controls
from pulse.status.view import attempts_of
from pulse.status.words import spoken
from pulse.zone import instant_of

# What each of them can be told.
ACTIONS: Final[Mapping[str, Sequence[str]]] = {
    "run": ["force"], "retry": ["run"], "cancel": ["run", "note"], "pause": ["for", "until", "note"], "resume": [],
    "clear": ["sure"],
}  # fmt: skip
NOTE_LENGTH: Final = 200

_FOREVER: Final = frozenset({"", "ever", "until"})
_SPAN: Final = reader.duration(1, YEAR)


class Actions:
    """Presses the buttons, and notes who did."""

    def __init__(self, config: Config, store: RunStore, controls: Controls, clock: Clock) -> None:
        self._config = config
        self._store = store
        self._controls = controls
        self._clock = clock

    def press(self, action: str, task: str, said: Mapping[str, str], *, by: str, address: str) -> dict[str, object]:
        """Do *action*, one of `ACTIONS`, to *task*; what came of it, for programs.

        Args:
            action: What to do.
            task: A task that there is.
            said: `force` of a run; `run`, which is to be tried again, or which alone is to be
                cancelled, and `note`; `for`, `until` and `note` of a pause; `sure` of what
                cannot be undone.
            by: Who presses.
            address: From where.

        Raises:
            ValueError: what was said is of no use; the message says what is wanted.
            UnknownRunError: that run is not kept.
            ClosedError: the process starts nothing now.
            StoreUnavailableError: the run store does not answer.
        """
        done, words, details = getattr(self, f"_{action}")(task, said, by)
        press = Press(at=self._clock.now(), by=by, address=address, action=words, task=task, details=details)
        audit.note(self._store, press)
        return {"task": task, **done}

    def _run(self, task: str, said: Mapping[str, str], by: str) -> tuple[dict[str, object], str, str]:
        force = reader.boolean(said.get("force", "false"))
        run = self._controls.start_run(task, force=force, by=by)
        return {"run": run}, "run now", "whatever was running" if force else ""

    def _retry(self, task: str, said: Mapping[str, str], by: str) -> tuple[dict[str, object], str, str]:
        run_id = said.get("run", "")
        attempts = attempts_of(self._store, self._config.tasks[task], run_id)
        run = next((one for one in attempts if not one.is_waiting), None)
        if run is None:
            raise UnknownRunError(task, run_id)
        if run.outcome in (None, Outcome.SUCCESS):
            state = "succeeded" if run.outcome else "has not ended"
            raise ValueError(f"run: {run_id} {state}: want one that failed; run the task now instead")
        self._controls.retry(run, by=by)
        done: dict[str, object] = {"run": run.id, "attempt": run.attempt + 1}
        return done, "retry", f"run {run.id[:8]}, attempt {run.attempt + 1}"

    def _clear(self, task: str, said: Mapping[str, str], _by: str) -> tuple[dict[str, object], str, str]:
        if not reader.boolean(said.get("sure", "false")):
            raise ValueError("sure: want true, since it cannot be undone")
        count = self._store.clear(task)
        return {"cleared": count}, "clear history", f"records: {count}"

    def _cancel(self, task: str, said: Mapping[str, str], by: str) -> tuple[dict[str, object], str, str]:
        wanted, note = said.get("run", ""), _note(said)
        running = [run.id for run in self._store.running() if run.task == task and wanted in ("", run.id)]
        reason = f"cancelled by {by}" + (f": {note}" if note else "")
        # Whichever process runs them is told by the store, and may be another one.
        asked = [run for run in running if self._store.ask_to_stop(run, reason)]
        return {"asked_to_stop": asked}, "cancel", f"runs: {len(asked)}" + (f"; {note}" if note else "")

    def _pause(self, task: str, said: Mapping[str, str], by: str) -> tuple[dict[str, object], str, str]:
        until = self._until(task, said)
        note = _note(said)
        self._controls.pause(task, until=until, note=note, by=by)
        end = f"until {spoken(until, self._config.tasks[task].zone)}" if until else "until it is resumed"
        done: dict[str, object] = {"paused": True, "until": until.isoformat() if until else None, "note": note}
        return done, "pause", f"{end}: {note}" if note else end

    def _resume(self, task: str, _said: Mapping[str, str], _by: str) -> tuple[dict[str, object], str, str]:
        was_paused = self._controls.resume(task)
        return {"was_paused": was_paused}, "resume", "" if was_paused else "it was not paused"

    def _until(self, task: str, said: Mapping[str, str]) -> datetime | None:
        """When the pause ends; None for never."""
        now, span, moment = self._clock.now(), said.get("for", ""), said.get("until", "")
        if span not in _FOREVER:
            try:
                return now + _SPAN(span)
            except ValueError as error:
                raise ValueError(f"for: {error}") from None
        if span == "ever" or not (span or moment):
            return None
        try:
            until = instant_of(datetime.fromisoformat(moment), self._config.tasks[task].zone)
        except ValueError:
            raise ValueError("until: want a date and time, 2027-01-31T08:00") from None
        if not now < until <= now + timedelta(days=3660):
            raise ValueError("until: want a time to come")
        return until


def note_of(written: str) -> str:
    """Why somebody presses, in one line.

    Raises:
        ValueError: it is too long; the message says what is wanted.
    """
    note = "".join(letter for letter in " ".join(written.split()) if letter.isprintable())
    if len(note) > NOTE_LENGTH:
        raise ValueError(f"want at most {NOTE_LENGTH} characters")
    return note


def _note(said: Mapping[str, str]) -> str:
    try:
        return note_of(said.get("note", ""))
    except ValueError as error:
        raise ValueError(f"note: {error}") from None
