"""The pages: what each of them shows, read from the store for this one request."""

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlencode

from webob import Request, Response

from pulse.model import FAILURES, Config, Outcome, Run, Task
from pulse.request import USER_AGENT
from pulse.runstores.base import PRESSES
from pulse.standing import State
from pulse.status import picture
from pulse.status.configuration import HIDDEN, settings_of, settings_of_task
from pulse.status.controls import Controls
from pulse.status.page import Frame, Printer
from pulse.status.survey import Moment, Survey
from pulse.status.view import attempts_of, dues_of, facts_of, line_of, row_of, workers_of
from pulse.status.why import explain
from pulse.status.words import seconds_words, text_of
from pulse.zone import instant_of

TASKS: Final = 25  # on a page
RUNS: Final = 50
PRESSES_SHOWN: Final = 50
RUNS_OF_TASK: Final = 20
DUES: Final = 10
SURVEY_SECONDS: Final = 0.1  # that a page takes to look at tasks that it does not show
WHOLE: Final = 40  # tasks, of which all runs are merged on one page; of more, only the newest ones
READ: Final = 16_000_000  # bytes of bodies that one page may have the store read, at the worst
DEEPEST: Final = 500  # records of a task on its page
SHALLOWEST: Final = 5
MOODS: Final = {
    State.RUNNING: "run", State.FAILING: "bad", State.LOST: "bad", State.LATE: "warn", State.PAUSED: "warn",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A number on top of a page, and where it leads to."""

    value: str
    word: str
    href: str = ""
    mood: str = ""
    is_chosen: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Pager:
    """Which page of how many, and where the others are."""

    number: int
    total: int
    previous: str
    next: str


class Pages:
    """Shows the tasks of one filter; each method answers one request.

    Each raises StoreUnavailableError when the store does not answer.
    """

    def __init__(self, survey: Survey, controls: Controls, printer: Printer) -> None:
        self._config = survey.config
        self._schedules = survey.schedules
        self._store = survey.store
        self._survey = survey
        self._controls = controls
        self._printer = printer

    def tasks(self, request: Request, frame: Frame) -> Response:
        """All tasks, with what happened and what will."""
        query, chosen = request.GET.get("q", ""), request.GET.get("state", "")
        moment = self._survey.moment()
        self._survey.refresh(moment, SURVEY_SECONDS)
        states = {task.name: self._survey.state(task, moment) for task in self._config.tasks.values()}
        found = [
            task
            for task in self._config.tasks.values()
            if (not chosen or is_in(states[task.name], chosen)) and (not query or fits(task, query))
        ]
        shown, pager = _paged(found, request, TASKS, f"{frame.base}/")
        depth = self._depth(TASKS, picture.BARS)
        records = self._store.brief([task.name for task in shown], depth)
        rows = [row_of(task, self._survey, records[task.name], moment, depth) for task in shown]
        counts = {state: sum(one is state for one in states.values()) for state in State}
        return self._printer.page(
            request,
            "tasks.html",
            frame,
            cards=self._cards(frame, counts, moment, chosen),
            rows=rows,
            pages=pager,
            q=query,
            chosen=chosen,
            states=[state.value for state in State],
            unread=self._survey.unread,
            with_tools=len(self._config.tasks) > 8 or bool(query or chosen),
        )

    def task(self, request: Request, frame: Frame, task: Task) -> Response:
        """One task."""
        moment = self._survey.moment()
        schedule, zone = self._schedules[task.name], task.zone
        depth = self._depth(1, DEEPEST)
        records = self._store.brief([task.name], depth)[task.name]
        row = row_of(task, self._survey, records, moment, depth)
        runs = [*reversed(moment.held.get(task.name, ())), *row.records]
        shown, pager = _paged(runs, request, RUNS_OF_TASK, f"{frame.base}/tasks/{task.name}")
        at = request.GET.get("at", "")
        answer = self._why(task, runs, at, moment.now) if at else None
        return self._printer.page(
            request,
            "task.html",
            frame,
            row=row,
            overdue=self._survey.overdue(task, moment),
            cards=self._cards_of(task, row.records, moment),
            dues=list(dues_of(task, schedule, moment.now, DUES)) if self._survey.rings_for(task) else [],
            durations=picture.duration_chart(row.records),
            latenesses=picture.lateness_chart(row.records),
            runs=[line_of(run, frame.base, zone, moment.now) for run in shown],
            pages=pager,
            at=at,
            answer=answer,
            nearest=[line_of(run, frame.base, zone, moment.now) for run in answer.nearest] if answer else [],
            settings=settings_of_task(self._config, task),
        )

    def run(self, request: Request, frame: Frame, task: Task, run_id: str) -> Response | None:
        """One run; None if it is not kept."""
        attempts = attempts_of(self._store, task, run_id)
        found = which_of(attempts, request.GET.get("attempt", ""))
        if found is None:
            return None
        zone = task.zone
        return self._printer.page(
            request,
            "run.html",
            frame,
            run=found,
            line=line_of(found, frame.base, zone, frame.now),
            facts=list(facts_of(found, zone, frame.now)),
            attempts=[line_of(one, frame.base, zone, frame.now) for one in attempts] if len(attempts) > 1 else [],
            press=_press(which_of(attempts, "") or found),
            was_sent=bool(found.request),
            sent=list(request_of(found, task, self._config)),
            headers=found.headers,
            log=text_of(found.log),
            body=text_of(found.body),
            errors=text_of(found.errors),
            no_body=_no_body(found, self._config),
        )

    def runs(self, request: Request, frame: Frame) -> Response:
        """Runs of all tasks, or of one."""
        name, outcome = request.GET.get("task", "").strip(), request.GET.get("outcome", "")
        query = request.GET.get("q", "").casefold().strip()
        moment = self._survey.moment()
        found, words = self._records(name, moment)
        fitting = [run for run in found if (not outcome or _ended_as(run, outcome)) and _mentions(run, query)]
        shown, pager = _paged(fitting, request, RUNS, f"{frame.base}/runs")
        zones = {run.task: self._config.tasks[run.task].zone for run in shown}
        return self._printer.page(
            request,
            "runs.html",
            frame,
            runs=[line_of(run, frame.base, zones[run.task], moment.now) for run in shown],
            pages=pager,
            scope_words=words,
            task_name=name,
            outcome=outcome,
            q=request.GET.get("q", ""),
            names=list(self._config.tasks)[:500],
            outcomes=["running", *(one.value for one in Outcome)],
        )

    def workers(self, request: Request, frame: Frame) -> Response:
        """The processes that ring."""
        moment = self._survey.moment()
        workers = workers_of(moment, self._survey.digest)
        ringing = self._controls.ringing()
        facts = [
            ("Scheduler", f"{ringing.state}: {ringing.reason}" if ringing.reason else ringing.state),
            ("Runs", str(ringing.busy)),
            ("Threads left behind", str(ringing.abandoned)),
        ]
        return self._printer.page(
            request,
            "workers.html",
            frame,
            workers=workers,
            digest=self._survey.digest,
            any_differs=any(worker.differs and worker.is_alive for worker in workers),
            here_facts=facts,
        )

    def configuration(self, request: Request, frame: Frame) -> Response:
        """The options of the filter."""
        return self._printer.page(
            request,
            "configuration.html",
            frame,
            settings=settings_of(self._config),
            origin=self._config.origin or "built in Python",
            digest=self._survey.digest,
        )

    def audit(self, request: Request, frame: Frame) -> Response:
        """Who pressed what."""
        presses, pager = _paged(self._store.presses(PRESSES), request, PRESSES_SHOWN, f"{frame.base}/audit")
        return self._printer.page(request, "audit.html", frame, presses=presses, pages=pager, kept=PRESSES)

    def place(self) -> str:
        """Where this is, for the top of every page."""
        origin = Path(self._config.origin).name if self._config.origin else self._config.name
        return " · ".join(filter(None, (origin, socket.gethostname())))

    # What is read

    def _depth(self, tasks: int, most: int) -> int:
        """How many records of each of so many *tasks* can be read: each may come with what it wrote."""
        return max(SHALLOWEST, min(most, READ // max(1, 2 * self._config.capture * tasks)))

    def _records(self, name: str, moment: Moment) -> tuple[list[Run], str]:
        """What is known of the task *name*, or of all, the newest first; and in words what that is."""
        held = [run for name_, runs in moment.held.items() for run in runs if name in ("", name_)]
        if name:
            depth = self._depth(1, DEEPEST)
            kept = self._store.brief([name], depth)[name] if name in self._config.tasks else []
            words = f"the newest {depth} of {name}" if depth < self._config.history else f"what is kept of {name}"
        elif len(self._config.tasks) <= WHOLE:
            depth = self._depth(len(self._config.tasks), RUNS)
            kept = [run for runs in self._store.brief(self._config.tasks, depth).values() for run in runs]
            words = f"the newest {depth} of each task" if depth < self._config.history else "all that is kept"
        else:
            self._survey.refresh(moment, SURVEY_SECONDS)
            kept = [run for task in self._config.tasks for run in self._survey.records(task)]
            words = "the newest of each task; give a task for all that is kept of it"
        return sorted([*held, *kept], key=lambda run: run.started or run.due, reverse=True), words

    def _why(self, task: Task, runs: Sequence[Run], at: str, now: datetime) -> Any:
        try:
            instant = instant_of(datetime.fromisoformat(at), task.zone)
        except ValueError:
            return None
        return explain(task, self._schedules[task.name], runs, instant, now)

    # Cards

    def _cards(self, frame: Frame, counts: Mapping[State, int], moment: Moment, chosen: str) -> list[Card]:
        cards = [Card(value=f"{len(self._config.tasks):,}", word="tasks", href=f"{frame.base}/")]
        for state in (State.RUNNING, State.FAILING, State.LATE, State.LOST, State.PAUSED):
            if counts[state] or state in (State.RUNNING, State.FAILING) or chosen == state.value:
                mood = MOODS[state] if counts[state] else ""
                href = _address(f"{frame.base}/", {"state": state.value})
                is_chosen = chosen == state.value
                cards.append(
                    Card(value=f"{counts[state]:,}", word=state.value, href=href, mood=mood, is_chosen=is_chosen)
                )
        mood = "bad" if self._survey.misses_ringing(moment) else ""
        workers = "worker" if len(moment.alive) == 1 else "workers"
        today = "runs today" if str(self._config.timezone) == "UTC" else "runs today (UTC)"
        cards.append(Card(value=f"{self._store.ran(moment.now.date()):,}", word=today, href=f"{frame.base}/runs"))
        cards.append(Card(value=str(len(moment.alive)), word=workers, href=f"{frame.base}/workers", mood=mood))
        late = self._lateness()
        return [*cards, Card(value=late, word="late at the start")] if late else cards

    def _lateness(self) -> str:
        """The median lateness of the newest runs."""
        newest = [self._survey.records(name)[:1] for name in self._config.tasks]
        late = [run.lateness.total_seconds() for records in newest for run in records if run.started]
        return seconds_words(median(late)) if late else ""

    def _cards_of(self, task: Task, records: Sequence[Run], moment: Moment) -> list[Card]:
        totals = self._store.totals(task.name)
        counts = [
            Card(value=f"{totals.counts[outcome]:,}", word=outcome.value, mood=_mood(outcome))
            for outcome in Outcome
            if totals.counts.get(outcome)
        ]
        last = totals.last_success
        cards = [Card(value=seconds_words(picture.typical(records)), word="median")]
        if last:
            # Without the seconds of a clock that goes on: the cards are news when a run has ended.
            at = f"{last.astimezone(task.zone):%H:%M:%S}"
            cards.append(Card(value=at, word=f"last success, {_day(last, moment, task)}"))
        return [*cards, *counts]


def which_of(attempts: Sequence[Run], attempt: str) -> Run | None:
    """The one of *attempts* with the number *attempt*; when none is given, the last one that was begun."""
    if attempt:
        return next((run for run in attempts if attempt == str(run.attempt)), None)
    return next(iter(sorted(attempts, key=lambda run: run.is_waiting)), None)


def is_in(state: State | None, word: str) -> bool:
    """Whether *state* is the one that is called *word*."""
    return state is not None and state.value == word


def fits(task: Task, query: str) -> bool:
    """Whether *query* is in the name, the path or the description of *task*."""
    word = query.casefold().strip()
    return any(word in text.casefold() for text in (task.name, task.action, task.description))


def _day(instant: datetime, moment: Moment, task: Task) -> str:
    zone = task.zone
    local = instant.astimezone(zone)
    return "today" if local.date() == moment.now.astimezone(zone).date() else f"{local:%d %b}"


def _mood(outcome: Outcome) -> str:
    if outcome in FAILURES:
        return "bad"
    return "warn" if outcome is Outcome.MISSED else ""


def _ended_as(run: Run, word: str) -> bool:
    return run.outcome.value == word if run.outcome else word == "running"


def _mentions(run: Run, query: str) -> bool:
    return not query or any(query in text.casefold() for text in (run.task, run.reason, run.owner, run.id, run.result))


def _paged(found: Sequence[Any], request: Request, size: int, path: str) -> Any:
    """The part of *found* that the request asks for, and the pager of the page at *path*."""
    total = max(1, -(-len(found) // size))
    written = request.GET.get("page", "1")
    number = min(total, max(1, int(written))) if written.isascii() and written.isdigit() and len(written) < 7 else 1
    said = {name: value for name, value in request.GET.items() if name not in ("page", "part", "did", "of")}
    pager = Pager(
        number=number,
        total=total,
        previous=_address(path, {**said, "page": str(number - 1)}) if number > 1 else "",
        next=_address(path, {**said, "page": str(number + 1)}) if number < total else "",
    )
    return found[(number - 1) * size : number * size], pager


def _address(path: str, said: Mapping[str, str]) -> str:
    query = urlencode({name: value for name, value in said.items() if value})
    return f"{path}?{query}" if query else path


def request_of(run: Run, task: Task, config: Config) -> Iterable[tuple[str, str]]:
    """The request of *run*: what is recorded of it, and what follows from the configuration."""
    yield "Request", run.request or f"{task.method} {task.action}"
    yield "Host", f"{config.host} ({config.scheme})"
    yield "User-Agent", USER_AGENT
    yield "X-Pulse-Task", task.name
    yield "X-Pulse-Run", run.id
    yield "X-Pulse-Due", run.due.isoformat()
    yield "X-Pulse-Attempt", str(run.attempt)
    yield "X-Pulse-Trigger", run.trigger.value
    if task.content_type:
        yield "Content-Type", task.content_type
    for name, _ in task.headers:
        yield name, HIDDEN
    for name, _ in task.environ:
        yield f"environ {name}", HIDDEN
    if task.body:
        yield "Body", text_of(task.body)


def _press(run: Run) -> str:
    """The button of *run*, its last attempt that was begun; empty when there is nothing to be done."""
    if run.outcome is None:
        return "Cancel" if run.started else ""
    return "Retry" if run.outcome is not Outcome.SUCCESS else ""


def _no_body(run: Run, config: Config) -> str:
    if run.outcome is None:
        return "It has not ended yet."
    if not run.started:
        return "There was no request."
    if run.status is None:
        return "There was none."
    return "Its body was empty." if config.capture else "Nothing is kept of it (pulse.config.capture = 0)."
