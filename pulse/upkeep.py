"""What is done beside the runs of a process: leases are renewed, deadlines watched, and its end is seen to.

Whoever executes runs calls this from a thread of its own, every second or so; nothing here
requests an endpoint.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from pulse.claims import Claims, not_begun
from pulse.clock import Clock
from pulse.fleet import Fleet
from pulse.model import Outcome, Run
from pulse.outage import Outage
from pulse.recorder import Recorder
from pulse.runstores.base import RunStore
from pulse.underway import Active, UnderWay
from pulse.within import within

log = logging.getLogger(__name__)

RENEWALS: Final = 3  # a lease is renewed this often in its time, so that one late beat loses nothing
LASTING: Final = 1.0  # seconds after which a run is reported to the store
ENDING: Final = "the process ends"


class Upkeep:
    """Keeps the runs of one process; safe to use from many threads at once."""

    def __init__(
        self,
        store: RunStore,
        *,
        clock: Clock,
        owner: str,
        lease: timedelta,
        fleet: Fleet | None,
        under_way: UnderWay,
        recorder: Recorder,
        claims: Claims,
        outage: Outage,
    ) -> None:
        """Wire it, with what the `Runner` has, too; it does nothing by itself."""
        self._store = store
        self._clock = clock
        self._owner = owner
        self._lease = lease
        self._fleet = fleet
        self._under_way = under_way
        self._recorder = recorder
        self._claims = claims
        self._outage = outage
        self._is_renewal_owed = False
        self._last_beat: datetime | None = None

    @property
    def beat(self) -> float:
        """Seconds from one call of `renew` to the next."""
        return self._lease.total_seconds() / RENEWALS

    def renew(self) -> None:
        """Extend the leases of all runs of this process in one batch, and see to what others left.

        Records what ended while the store did not answer, too.
        """
        now = self._clock.now()
        was_frozen = self._was_frozen(now)
        self._last_beat = None if was_frozen else now  # not twice in a row: then it is only slow
        with self._outage.endured("leases are not renewed"):
            self._renew_leases()
            # First: behind a long outage the leases of what has ended are over, and `reap` would call it lost.
            self._recorder.record_kept()
            if not (was_frozen or self._are_leases_spoilt()):
                for run in self._store.reap(now):
                    self._recorder.tell(run)
            self._claims.look_for_attempts(now)
            self._claims.give_back_unheard()
            if self._fleet:
                self._fleet.beat(self._outage.errors)
        if not self._outage.is_on:
            self.record_late()  # also what `give_back_unheard` has just given back

    def _renew_leases(self) -> None:
        self._is_renewal_owed = True
        self._claims.renew()
        self._is_renewal_owed = False

    def _was_frozen(self, now: datetime) -> bool:
        """Whether it is so long since the last beat that leases may have ended.

        If the whole machine was frozen, or its clock set ahead, others wake up at this moment, too. Whoever
        lives says so within a beat; to look for the dead at once would find lost who is a moment later.
        """
        return self._last_beat is not None and now - self._last_beat > self._lease - self._lease / RENEWALS

    def _are_leases_spoilt(self) -> bool:
        """Whether leases have ended because nobody could renew them: whoever lives has a lease's time to do so."""
        return self._outage.is_felt(self._lease.total_seconds())

    def report(self) -> None:
        """Tell the store how far the runs of this process have got, and stop those that are asked to.

        For runs that take their time: one that is over in a moment costs nothing here. What could
        not be recorded is, as soon as the store answers others: until then its task is not run. And so
        are leases renewed that could not be: at the next beat they may be over. And those that are over:
        of a machine that was suspended the monotonic clock stood still, and the next beat is to come.
        """
        if not self._outage.is_on:
            if self._is_renewal_owed or self._claims.are_leases_over:
                with self._outage.endured("leases are not renewed"):
                    self._renew_leases()
            self._recorder.catch_up()
            with self._outage.endured("what was won unheard is held until its lease has ended"):
                self._claims.give_back_unheard()
        lasting = self._under_way.lasting(LASTING)
        if not lasting:
            return
        told = {active.run.id: active.control.progress for active in lasting}
        news = {active.run.id: told[active.run.id] for active in lasting if told[active.run.id] is not active.told}
        with self._outage.endured("nobody is told how far runs have got"):
            asked = self._store.report(self._owner, {run_id: one for run_id, one in news.items() if one})
            for active in lasting:
                active.told = told[active.run.id]
                if active.run.id in asked:
                    self._under_way.stop(active, asked[active.run.id])

    def record_late(self) -> None:
        """Record what ended while the store did not answer, if it answers now."""
        self._recorder.catch_up()

    def give_up_overdue(self) -> list[Run]:
        """Record the runs that did not come back by their deadline; these records.

        Their threads cannot be ended: whoever executes them has to go on without.
        """
        overdue = self._under_way.overdue()
        asked = [one for one in overdue if one.control.reason]
        late = [one for one in overdue if not one.control.reason]
        return [
            *self._give_up(late, Outcome.TIMEOUT, "it did not come back by its deadline"),
            *self._give_up(asked, Outcome.ABANDONED, "it was asked to stop, and did not"),
        ]

    def cancel(self) -> None:
        """Ask every run of this process to stop, and all that are still to begin.

        Those that answer in chunks will, and those that look at `pulse.cancelled`.
        """
        self._under_way.stop_all(ENDING)

    def abandon(self) -> list[Run]:
        """Give up every run that is still under way; the records, which `record_last` makes."""
        left = self._under_way.everything()
        records = self._without(left, Outcome.ABANDONED, "it did not stop when the process ended")
        for record in records:
            self._recorder.keep(record)
        return records

    def record_last(self, seconds: float) -> None:
        """Record what has ended, within *seconds*, however long the store takes for its answer.

        The store may hang: what is left then is found lost by its lease, and is said in the log.
        """
        if not self._recorder.unrecorded:
            return
        within(seconds, self.record_late, self._clock)
        if left := self._recorder.unrecorded:
            with suppress(Exception):  # a handler of the log may be what is broken
                log.error(
                    "the run store does not answer: %d runs that have ended have no record yet, and are found "
                    "lost by their leases if it does not answer before this process ends",
                    left,
                    extra={"pulse_event": "unrecorded_at_end"},
                )

    def _give_up(self, overdue: Iterable[Active], outcome: Outcome, reason: str) -> list[Run]:
        records = self._without(overdue, outcome, reason)
        for record in records:
            self._recorder.settle(record)
        return records

    def _without(self, given_up: Iterable[Active], outcome: Outcome, reason: str) -> list[Run]:
        """Go on without these runs; what is to be their records, of those that did not come back meanwhile."""
        now = self._clock.now()

        def record_of(active: Active) -> Run:
            if active.began is None:  # it was claimed with others, and was to be the next one
                return not_begun(active.run, now, Outcome.MISSED, f"it had not begun: {reason}")
            duration = (now - (active.run.started or now)).total_seconds()
            return replace(active.run, finished=now, outcome=outcome, reason=reason, duration=duration)

        records = (self._under_way.give_up(active, record_of) for active in given_up)
        return [record for record in records if record is not None]
