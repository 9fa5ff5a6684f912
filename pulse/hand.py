"""What people have done to the tasks of one middleware by hand, from Python and on the status page."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import uuid4

from pulse.clock import Clock
from pulse.engine import Engine, EngineFactory
from pulse.errors import ClosedError, ConfigError, Fault, UnknownTaskError
from pulse.instance import this_place
from pulse.model import Config, Fire, Pause, Run, Trigger
from pulse.option import shown
from pulse.runstores.base import RunStore
from pulse.start import StartRule, StartState
from pulse.status.controls import Ringing

log = logging.getLogger(__name__)

ALONE: Final = 8  # calls by hand at once that are started in the background of a process that does not ring


class Hand:
    """Runs, pauses and resumes tasks; the `pulse.status.controls.Controls` of the status page. Safe from any thread."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock,
        store: RunStore,
        engines: EngineFactory,
        engine: Callable[[], Engine | None],
        rule: StartRule,
    ) -> None:
        """Wire it.

        Args:
            config: With the tasks.
            clock: For the instants of calls and pauses.
            store: Where pauses are kept.
            engines: What runs tasks where there is no engine.
            engine: Gives that of this process; None if it does not ring.
            rule: Tells why it rings, or not.
        """
        self._config = config
        self._clock = clock
        self._store = store
        self._engines = engines
        self._engine = engine
        self._rule = rule
        self._alone = threading.BoundedSemaphore(ALONE)

    def after_fork(self) -> None:
        """In a forked child: what its parent has started is not here."""
        self._alone = threading.BoundedSemaphore(ALONE)

    def run(self, name: str, *, force: bool, again: Run | None) -> Run | None:
        """See `PulseMiddleware.run_now`."""
        fire, engine = self._fire(name, force=force, again=again), self._engine()
        return self._engines.run_alone(fire) if engine is None else engine.workers.run_apart(fire).result()

    def start_run(self, name: str, *, force: bool, by: str) -> str:
        """See `Controls.start_run`."""
        return self._start(self._fire(name, force=force), by)

    def retry(self, run: Run, *, by: str) -> None:
        """See `Controls.retry`."""
        self._start(self._fire(run.task, again=run), by)

    def pause(self, name: str, *, until: datetime | None, note: str, by: str) -> None:
        """See `PulseMiddleware.pause`."""
        self._must_know(name)
        if until is not None and (not isinstance(until, datetime) or until.tzinfo is None):
            problem = "want an aware datetime, such as datetime.now(UTC) + timedelta(hours=1)"
            raise ConfigError([Fault(key="until", shown=shown(until), problem=problem)])
        pause = Pause(since=self._clock.now(), until=until, note=note, by=by)
        self._store.pause(name, pause)
        for announcer in self._engines.announcers:
            announcer.paused(name, pause)

    def resume(self, name: str) -> bool:
        """See `PulseMiddleware.resume`."""
        self._must_know(name)
        return self._store.resume(name)

    def ringing(self) -> Ringing:
        """See `Controls.ringing`."""
        state, reason, engine = self._rule.state.value, self._rule.reason, self._engine()
        if engine is None:
            return Ringing(state=state, reason=reason)
        return Ringing(
            state=state,
            reason=reason,
            busy=engine.workers.busy,
            abandoned=engine.workers.abandoned,
            next_ring=engine.scheduler.next_ring(),
            digest=engine.fleet.digest,
        )

    def _must_know(self, name: str) -> None:
        if name not in self._config.tasks:
            raise UnknownTaskError(name, self._config.tasks)

    def _fire(self, name: str, *, force: bool = False, again: Run | None = None) -> Fire:
        self._must_know(name)
        place = this_place(self._config.tasks[name].scope)
        first = Fire(
            task=name, due=self._clock.now(), trigger=Trigger.MANUAL, run_id=uuid4().hex, place=place, is_forced=force
        )
        return replace(first, run_id=again.id, due=again.due, attempt=again.attempt + 1) if again else first

    def _start(self, fire: Fire, by: str) -> str:
        """Run *fire* in the background; its id."""
        if self._rule.state is StartState.CLOSED:
            raise ClosedError("close() was called")
        engine = self._engine()
        if engine is not None:
            engine.workers.run_apart(fire)  # what goes wrong is its log's, and its record's
        elif self._alone.acquire(blocking=False):
            try:
                threading.Thread(target=self._run_alone, args=(fire,), name="pulse-alone", daemon=True).start()
            except RuntimeError:  # the machine has no thread left: the next one may have
                self._alone.release()
                raise
        else:
            raise ClosedError(f"{ALONE} calls by hand are under way in it, and it does not ring")
        log.info("task=%s run=%s is called by %r", fire.task, fire.run_id, by, extra={"pulse_event": "called_by_hand"})
        return fire.run_id

    def _run_alone(self, fire: Fire) -> None:
        try:
            self._engines.run_alone(fire)
        # The outermost frame of a thread: nobody else would ever say it.
        except Exception:
            log.exception("task=%s was not run", fire.task, extra={"pulse_event": "run_broke"})
        finally:
            self._alone.release()
