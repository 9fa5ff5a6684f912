"""The same as the pages, for programs: JSON below `<status>/api/`.

    GET  api/                          these addresses
    GET  api/tasks                     all tasks; ?state=failing ?q=report ?page=2
    GET  api/tasks/<name>              one task, with its next instants
    GET  api/tasks/<name>/runs         its runs under way and its records; ?limit=20
    GET  api/tasks/<name>/runs/<id>    one of them, with what it answered and logged; ?attempt=1
    GET  api/workers                   the processes that ring
    GET  api/configuration             the options of the filter; secrets are never shown
    GET  api/audit                     who pressed what in the whole fleet, also on the command line
    POST api/tasks/<name>/run          {"force": false}
    POST api/tasks/<name>/retry        {"run": "<id>"}: another attempt of a run that failed
    POST api/tasks/<name>/cancel       {"run": "<id>", "note": "why"}, or {} for all that are under way
    POST api/tasks/<name>/pause        {"for": "1h", "note": "why"}, {"until": "2027-01-31T08:00"}, or {} for ever
    POST api/tasks/<name>/resume       {}
    POST api/tasks/<name>/clear        {"sure": true}: forget its records; its totals stay

Programs send `Authorization: Bearer <token>`. A page of a browser that is logged in sends
the `proof` of `GET api/` in the header `X-Status-Proof`. Instants are ISO 8601 in UTC,
durations are seconds. A fault is `{"error": "..."}` with a status that fits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from webob import Request, Response

from pulse.instance import short
from pulse.model import Run, Task
from pulse.runlog import document
from pulse.runstores.base import PRESSES
from pulse.standing import State, failures, next_due
from pulse.status.configuration import settings_of, settings_of_task
from pulse.status.form import RefusedError
from pulse.status.pages import DUES, SURVEY_SECONDS, TASKS, fits, is_in, which_of
from pulse.status.survey import Moment, Survey
from pulse.status.view import attempts_of, dues_of, workers_of
from pulse.status.words import text_of
from pulse.zone import iso_utc

MOST_RUNS: Final = 1000
FAILURES_COUNTED: Final = 30  # of those that a task has had one after the other
STATES: Final = tuple(state.value for state in State)


class Api:
    """Answers programs; each method raises StoreUnavailableError when the store does not answer."""

    def __init__(self, survey: Survey) -> None:
        self._config = survey.config
        self._schedules = survey.schedules
        self._store = survey.store
        self._survey = survey

    def index(self, proof: str) -> Response:
        """The addresses, and what a page has to send when it presses a button."""
        lines = [line.strip() for line in (__doc__ or "").splitlines() if line.startswith(("    GET", "    POST"))]
        return answer({"addresses": lines, "proof": proof})

    def read(self, request: Request, names: Sequence[str]) -> Response:
        """The answer to a GET of `api/<names>`.

        Raises:
            RefusedError: what was asked for makes no sense; the message says what is wanted.
        """
        return self._found(request, names) or fault(404, f"no such address: {'/'.join(names)}")

    def _found(self, request: Request, names: Sequence[str]) -> Response | None:
        match names:
            case ["tasks"]:
                return self._tasks(request)
            case ["tasks", name, *rest] if name in self._config.tasks:
                return self._of_task(request, self._config.tasks[name], rest)
            case ["workers" | "configuration" | "audit" as name]:
                return answer(getattr(self, f"_{name}")())
        return None

    def _of_task(self, request: Request, task: Task, names: Sequence[str]) -> Response | None:
        match names:
            case []:
                return self._task(task)
            case ["runs"]:
                return self._runs(request, task)
            case ["runs", run_id]:
                return self._run(request, task, run_id)
        return None

    def _tasks(self, request: Request) -> Response:
        state, query = request.GET.get("state", ""), request.GET.get("q", "")
        page = _number(request, "page", 1, 1_000_000)
        size = _number(request, "size", TASKS * 4, MOST_RUNS)
        if state and state not in STATES:
            raise RefusedError(400, f"state: want one of {', '.join(STATES)}")
        moment = self._survey.moment()
        self._survey.refresh(moment, SURVEY_SECONDS)
        found = [
            task
            for task in self._config.tasks.values()
            if (not state or is_in(self._survey.state(task, moment), state)) and (not query or fits(task, query))
        ]
        shown = [self._brief(task, moment) for task in found[(page - 1) * size : page * size]]
        return answer({"count": len(found), "page": page, "tasks": shown})

    def _task(self, task: Task) -> Response:
        moment = self._survey.moment()
        records = self._store.brief([task.name], FAILURES_COUNTED)[task.name]
        self._survey.note(task.name, records)
        totals = self._store.totals(task.name)
        said = self._brief(task, moment)
        said["consecutive_failures"] = failures(records)
        said["totals"] = {outcome.value: count for outcome, count in totals.counts.items()}
        said["last_finished"], said["last_success"] = iso_utc(totals.last_finished), iso_utc(totals.last_success)
        said["mean_duration"], said["mean_lateness"] = totals.mean_duration, totals.mean_lateness
        said["running"] = [run_document(run) for run in moment.running(task.name)]
        said["due"] = [
            {"due": iso_utc(due.instant), "local": due.words, "note": due.note}
            for due in dues_of(task, self._schedules[task.name], moment.now, DUES)
        ]
        said["options"] = [asdict(one) for one in settings_of_task(self._config, task)]
        return answer(said)

    def _runs(self, request: Request, task: Task) -> Response:
        limit = _number(request, "limit", 50, MOST_RUNS)
        held = [run for run in self._store.running() if run.task == task.name]
        kept = self._store.brief([task.name], limit)[task.name]
        return answer({"runs": [run_document(run) for run in (*held, *kept)][:limit]})

    def _run(self, request: Request, task: Task, run_id: str) -> Response:
        run = which_of(attempts_of(self._store, task, run_id), request.GET.get("attempt", ""))
        if run is None:
            return fault(404, f"no run {run_id} of {task.name} is kept")
        said = {"request": run.request, "headers": run.headers, "log": text_of(run.log)}
        return answer({**run_document(run), **said, "body": text_of(run.body), "errors": text_of(run.errors)})

    def _workers(self) -> dict[str, object]:
        workers = workers_of(self._survey.moment(), self._survey.digest)
        return {"workers": [_plain(asdict(one)) for one in workers]}

    def _configuration(self) -> dict[str, object]:
        return {"options": [asdict(one) for one in settings_of(self._config)]}

    def _audit(self) -> dict[str, object]:
        return {"presses": [{**asdict(press), "at": iso_utc(press.at)} for press in self._store.presses(PRESSES)]}

    def _brief(self, task: Task, moment: Moment) -> dict[str, object]:
        state, pause = self._survey.state(task, moment), moment.pauses.get(task.name)
        overdue = self._survey.overdue(task, moment)
        rings = self._survey.rings_for(task)
        schedule = self._schedules[task.name]
        return {
            "task": task.name,
            "state": state.value if state else None,
            "description": task.description,
            "schedule": schedule.describe(),
            "timezone": str(task.zone),
            "method": task.method,
            "action": task.action,
            "enabled": rings,
            "next_due": iso_utc(next_due(schedule, pause, moment.now)) if rings else None,
            "overdue_since": iso_utc(overdue),
            "pause": {"since": iso_utc(pause.since), "until": iso_utc(pause.until), "note": pause.note, "by": pause.by}
            if pause
            else None,
        }


def run_document(run: Run) -> dict[str, object]:
    """*run* for programs, without what it wrote."""
    return {
        **document(run),
        "lateness": run.lateness.total_seconds() if run.started else None,
        "worker": short(run.owner),
        "progress": asdict(run.progress) if run.progress else None,
        "again_at": iso_utc(run.again_at),
    }


def answer(document: Mapping[str, object], status: int = 200) -> Response:
    """*document* as JSON."""
    text = json.dumps(document, ensure_ascii=False) + "\n"
    response = Response(text, status=status, content_type="application/json", charset="UTF-8")
    response.headers.update({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
    return response


def fault(status: int, problem: str) -> Response:
    """What is wrong with a request."""
    return answer({"error": problem}, status)


def _plain(said: dict[str, Any]) -> dict[str, object]:
    return {name: iso_utc(value) if hasattr(value, "isoformat") else value for name, value in said.items()}


def _number(request: Request, name: str, otherwise: int, most: int) -> int:
    written = request.GET.get(name, "") or str(otherwise)
    if not (written.isascii() and written.isdigit() and written.strip("0")):
        raise RefusedError(400, f"{name}: want a whole number from 1 to {most}")
    return min(most, max(1, int(written[:20])))
