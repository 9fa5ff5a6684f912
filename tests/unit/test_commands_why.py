"""`pulse why`, as a function of what is known."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pulse.commands.record import outcome_words
from pulse.commands.why import Facts, Verdict, explain
from pulse.fleet import digest_of
from pulse.instance import this_instance
from pulse.model import QUEUE, Config, Instance, Outcome, Pause, Run, Task, Trigger
from pulse.runstores.base import Totals
from pulse.runstores.ledger import PASSED_OVER, RUNNING

NOW = datetime(2027, 1, 1, 12, 2, tzinfo=UTC)
NOON = NOW.replace(minute=0)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def config_of(task, **options):
    return Config(tasks={task.name: task}, **options)


def ran(due, outcome=Outcome.SUCCESS, **more):
    facts = {
        "id": due.strftime("%H%M%S") + "0" * 26,
        "owner": "web1:4711",
        "started": due + SECOND,
        "finished": due + 3 * SECOND,
        "status": 200 if outcome is Outcome.SUCCESS else None,
        "duration": 2.0,
        "outcome": outcome,
        **more,
    }
    return Run(task="cleanup", due=due, **facts)


def unrun(due, outcome, reason, **more):
    return Run(id="u", task="cleanup", due=due, finished=due + SECOND, outcome=outcome, reason=reason, **more)


def totals_of(*history, gone=0):
    counts = {}
    for run in history:
        counts[run.outcome] = counts.get(run.outcome, 0) + run.count
    if gone:
        counts[Outcome.SUCCESS] = counts.get(Outcome.SUCCESS, 0) + gone
    return Totals(counts=counts)


def rings(since=NOON - timedelta(days=1), seen=NOW, owner="web1:4711", digest=None):
    return Instance(owner=owner, started=since, seen=seen, digest=digest or digest_of(config_of(TASK)))


TASK = Task(name="cleanup", interval="5m")


def facts(*history, task=TASK, config=None, gone=0, instances=None, **more):
    """A task that is due each five minutes; one process rings."""
    known = {"now": NOW, "instances": [rings()] if instances is None else instances, **more}
    digests = frozenset([digest_of(config_of(TASK))])
    return Facts(
        task=task,
        config=config or config_of(task),
        history=sorted(history, key=lambda run: run.due, reverse=True),
        totals=totals_of(*history, gone=gone),
        digests=digests,
        **known,
    )


def verdict(known, at=NOON):
    answer = explain(known, at)
    return answer.verdict, answer.sentence


def test_what_was_not_due_says_when_it_was():
    answer = explain(facts(), NOON + MINUTE)

    assert (answer.verdict, answer.due) == (Verdict.NOT_DUE, None)
    assert answer.sentence == (
        "cleanup was not due at Fri 01 Jan 2027 12:01 UTC: every 5 min; "
        "before it Fri 01 Jan 2027 12:00 UTC, next Fri 01 Jan 2027 12:05 UTC."
    )


def test_what_will_not_be_due_is_said_in_the_future():
    assert "will not be due at Fri 01 Jan 2027 12:06 UTC" in verdict(facts(), NOON + 6 * MINUTE)[1]


def test_the_zone_of_the_task_is_the_one_that_is_spoken():
    task = Task(name="cleanup", cron="30 2 * * *", timezone="Europe/Berlin")

    answer = explain(facts(task=task), datetime(2027, 1, 1, 2, 0, tzinfo=UTC))

    assert "not due at Fri 01 Jan 2027 03:00 CET" in answer.sentence
    assert "before it Fri 01 Jan 2027 02:30 CET, next Sat 02 Jan 2027 02:30 CET" in answer.sentence


def test_a_task_that_is_called_by_hand_is_never_due():
    assert verdict(facts(task=Task(name="cleanup", cron="@manually"))) == (
        Verdict.NOT_DUE,
        "cleanup is never due: by hand only.",
    )


def test_a_run_that_is_under_way_between_two_instants_is_evidence():
    held = ran(NOON, outcome=None, finished=None, status=None, duration=None, expires=NOW + MINUTE)

    answer = explain(facts(held=[held]), NOON + MINUTE)

    assert any("under way then: due Fri 01 Jan 2027 12:00 UTC, running" in line for line in answer.evidence)


@pytest.mark.parametrize(
    ("at", "due"),
    [
        (NOON, NOON + timedelta(seconds=12.5)),
        (NOON + 12 * SECOND, NOON + timedelta(seconds=12.5)),
        (NOON + timedelta(seconds=12.5), NOON + timedelta(seconds=12.5)),
        (NOON + 13 * SECOND, None),
        (NOON + timedelta(seconds=12.4), None),
        (NOON + MINUTE, None),
    ],
)
def test_a_whole_minute_or_second_stands_for_all_of_it(at, due):
    task = Task(name="cleanup", interval="5m", offset="12.5s")

    assert explain(facts(task=task), at).due == due


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (ran(NOON), (Verdict.RAN, "cleanup ran at Fri 01 Jan 2027 12:00 UTC: success 200 in 2.0 s, "
                     "begun Fri 01 Jan 2027 12:00:01 UTC, 1.0 s late, by web1:4711.")),
        (ran(NOON, Outcome.FAILED, status=500, reason="answered 500", duration=0.25),
         (Verdict.RAN, "cleanup ran at Fri 01 Jan 2027 12:00 UTC: failed 500 in 0.250 s, "
          "begun Fri 01 Jan 2027 12:00:01 UTC, 1.0 s late, by web1:4711.")),
        (ran(NOON, Outcome.LOST, reason="its process has ended"),
         (Verdict.DIED, "cleanup was begun at Fri 01 Jan 2027 12:00 UTC by web1:4711, and was lost: "
          "its process has ended.")),
        (unrun(NOON, Outcome.SKIPPED, "the task is paused: feed is down"),
         (Verdict.SKIPPED, "cleanup was skipped at Fri 01 Jan 2027 12:00 UTC: the task is paused: feed is down.")),
        (unrun(NOON, Outcome.MISSED, PASSED_OVER),
         (Verdict.MISSED, f"cleanup was missed at Fri 01 Jan 2027 12:00 UTC: {PASSED_OVER}.")),
    ],
)  # fmt: skip
def test_a_record_tells_what_became_of_it(run, said):
    assert verdict(facts(run)) == said


def test_a_span_covers_the_instants_within_it():
    span = unrun(NOON, Outcome.MISSED, PASSED_OVER, first_due=NOON - 20 * MINUTE, count=5)

    assert verdict(facts(span), NOON - 10 * MINUTE) == (
        Verdict.MISSED,
        "cleanup was missed at Fri 01 Jan 2027 11:50 UTC (one of 5 instants, "
        f"Fri 01 Jan 2027 11:40 UTC to 12:00): {PASSED_OVER}.",
    )
    assert verdict(facts(span), NOON - 25 * MINUTE)[0] is Verdict.NOT_KNOWN_YET


def test_what_was_skipped_shows_the_run_that_was_in_the_way():
    long = ran(NOON - 5 * MINUTE, finished=NOON + MINUTE, duration=360.0)

    answer = explain(facts(long, unrun(NOON, Outcome.SKIPPED, RUNNING)), NOON)

    assert answer.verdict is Verdict.SKIPPED
    assert any("under way then: due Fri 01 Jan 2027 11:55 UTC" in line for line in answer.evidence)


def test_of_several_attempts_the_last_counts_and_all_are_evidence():
    first = ran(NOON, Outcome.FAILED, status=503, finished=NOON + 2 * SECOND)
    second = ran(NOON, attempt=2, trigger=Trigger.RETRY)
    known = facts(first, second)
    known = replace(known, history=[second, first])

    answer = explain(known, NOON)

    assert "success 200" in answer.sentence
    assert "(attempt 2)" in answer.sentence
    assert len([line for line in answer.evidence if line.startswith("record: ")]) == 2


def test_a_call_by_hand_is_no_run_of_the_instant():
    by_hand = ran(NOON, trigger=Trigger.MANUAL)

    assert verdict(facts(by_hand))[0] is not Verdict.RAN


def test_a_run_that_is_under_way_says_since_when():
    held = ran(NOON, outcome=None, finished=None, expires=NOW + MINUTE)

    assert verdict(facts(held=[held])) == (
        Verdict.RUNNING,
        "cleanup is still running for Fri 01 Jan 2027 12:00 UTC: since 1 min 59 s, by web1:4711.",
    )


def test_a_run_that_waits_in_the_queue_says_how_long_it_may():
    held = ran(NOON, outcome=None, finished=None, expires=NOW + MINUTE, owner=QUEUE)

    assert outcome_words(held) == "queued"
    assert verdict(facts(held=[held])) == (
        Verdict.WAITS,
        "cleanup waits for a worker of Celery to take the run of Fri 01 Jan 2027 12:00 UTC, "
        "which is missed if none does by Fri 01 Jan 2027 12:03 UTC.",
    )


@pytest.mark.parametrize(
    ("expires", "owner", "reason"),
    [
        (NOW - SECOND, "web1:4711", "its lease was not renewed"),
        (NOW + MINUTE, "dead", "its process has ended"),
    ],
)
def test_a_run_whose_process_died_says_so_before_it_is_recorded(expires, owner, reason):
    owner = another_start_of_this_process() if owner == "dead" else owner
    held = ran(NOON, outcome=None, finished=None, expires=expires, owner=owner)

    said = verdict(facts(held=[held]))

    assert said[0] is Verdict.DIED
    assert f"which then died or froze: {reason}" in said[1]


def another_start_of_this_process():
    """An owner with the pid of this process, and another start: certainly gone."""
    name, _, rest = this_instance().partition("/")
    if not rest:
        pytest.skip("this system does not tell when a process was started")
    return f"{name}/1.{rest.partition('.')[2]}"


def test_an_attempt_that_waits_says_from_when_it_may_begin():
    waiting = Run(id="w", task="cleanup", due=NOON, attempt=2, trigger=Trigger.RETRY, expires=NOW + MINUTE)

    said = verdict(facts(held=[waiting]))

    assert said == (
        Verdict.WAITS,
        "cleanup waits for attempt 2 of Fri 01 Jan 2027 12:00 UTC, which may begin from Fri 01 Jan 2027 12:03 UTC.",
    )


def test_what_is_older_than_the_kept_history_is_not_guessed():
    said = verdict(facts(ran(NOON), gone=100), NOON - 60 * MINUTE)

    assert said == (
        Verdict.NOT_KEPT,
        "What became of cleanup at Fri 01 Jan 2027 11:00 UTC is not known any more: "
        "the kept history goes back to Fri 01 Jan 2027 12:00 UTC (50 records).",
    )


def test_what_is_still_to_come_was_never_trimmed():
    assert verdict(facts(gone=100), NOON + 5 * MINUTE)[0] is Verdict.TO_COME


def test_what_was_before_the_first_record_of_a_whole_history_was_not_known_yet():
    said = verdict(facts(ran(NOON)), NOON - 60 * MINUTE)

    assert said[0] is Verdict.NOT_KNOWN_YET
    assert "the first instant that was recorded is Fri 01 Jan 2027 12:00 UTC" in said[1]


@pytest.mark.parametrize(
    ("task", "options", "option"),
    [
        (Task(name="cleanup", interval="5m", enabled=False), {}, "pulse.task.cleanup.enabled"),
        (TASK, {"enabled": False}, "pulse.config.enabled"),
    ],
)
def test_what_is_switched_off_names_the_switch(task, options, option):
    known = facts(task=task, config=config_of(task, **options))

    assert verdict(known) == (
        Verdict.DISABLED,
        f"cleanup did not run at Fri 01 Jan 2027 12:00 UTC: {option} is false, nothing runs it by itself.",
    )
    assert verdict(known, NOON + 5 * MINUTE)[1].startswith("cleanup will not run at Fri 01 Jan 2027 12:05 UTC")


def test_a_pause_is_told_with_its_author_and_its_reason():
    pause = Pause(since=NOON - MINUTE, until=NOON + 20 * MINUTE, note="feed is down", by="ada@web1")

    before, within = verdict(facts(pause=pause)), verdict(facts(pause=pause), NOON + 15 * MINUTE)
    after = verdict(facts(pause=pause), NOON + 20 * MINUTE)

    assert before[0] is within[0] is Verdict.PAUSED
    assert "paused until Fri 01 Jan 2027 12:20 UTC (21 min), by ada@web1" in before[1]
    assert ": feed is down." in before[1]
    assert after[0] is Verdict.TO_COME


def test_a_pause_explains_nothing_that_was_due_before_it():
    pause = Pause(since=NOON + MINUTE)

    assert verdict(facts(ran(NOON - 5 * MINUTE), pause=pause))[0] is not Verdict.PAUSED


def test_what_is_still_to_come_says_when():
    assert verdict(facts(), NOON + 5 * MINUTE) == (
        Verdict.TO_COME,
        "cleanup is still to come: it starts Fri 01 Jan 2027 12:05 UTC, in 3 min.",
    )


def test_what_waits_for_its_jitter_is_still_to_come():
    task = Task(name="cleanup", interval="5m", jitter="4m59s")
    known = facts(task=task, now=NOON)

    said = verdict(known)

    assert said[0] is Verdict.TO_COME
    assert "later by its jitter" in said[1]


@pytest.mark.parametrize(("start", "why"), [("auto", ""), ("manual", " (start = manual: none does by itself)")])
def test_nothing_comes_as_long_as_no_process_rings(start, why):
    known = facts(config=config_of(TASK, start=start), instances=[])

    assert verdict(known, NOON + 5 * MINUTE)[1].endswith(f"in 3 min; but no process rings{why}.")
    assert verdict(known) == (
        Verdict.NOBODY_RINGS,
        f"cleanup did not run at Fri 01 Jan 2027 12:00 UTC: nothing is recorded of it, and no process rings{why}.",
    )


def test_a_process_that_is_not_heard_of_does_not_ring():
    silent = rings(seen=NOW - MINUTE)
    known = facts(ran(NOON - 5 * MINUTE), instances=[silent])

    answer = explain(known, NOON)

    assert answer.verdict is Verdict.NOBODY_RINGS
    assert "process: web1:4711 gone, not heard of for 1 min" in answer.evidence


@pytest.mark.parametrize("history", [[], [ran(NOON - 5 * MINUTE)]])
def test_processes_that_began_later_could_not_run_it(history):
    known = facts(*history, instances=[rings(since=NOON + MINUTE)])

    said = verdict(known)

    assert said[0] in (Verdict.NOBODY_RINGS, Verdict.NOT_KNOWN_YET)
    assert "no process rang then, the first of those that do began Fri 01 Jan 2027 12:01 UTC" in said[1]


def test_another_configuration_may_be_why():
    known = facts(ran(NOON - 5 * MINUTE), instances=[rings(digest="0123456789abcdef")])

    assert verdict(known)[0] is Verdict.OTHER_CONFIGURATION


def test_a_queued_instant_waits_for_its_turn():
    task = Task(name="cleanup", interval="5m", overlap="queue", misfire_grace_time="none")
    held = ran(NOON - 5 * MINUTE, outcome=None, finished=None, expires=NOW + MINUTE)

    assert verdict(facts(task=task, held=[held]))[0] is Verdict.WAITS


def test_what_left_no_trace_says_so():
    later = verdict(facts(ran(NOON - 10 * MINUTE), ran(NOON)), NOON - 5 * MINUTE)
    newest = verdict(facts(ran(NOON - 5 * MINUTE)))

    assert later[0] is newest[0] is Verdict.NO_TRACE
    assert "though there are later ones" in later[1]
    assert "though processes ring" in newest[1]


def test_the_evidence_tells_what_the_answer_rests_on():
    known = facts(ran(NOON), gone=7, pause=Pause(since=NOON + MINUTE, note="why not"))

    assert explain(known, NOON).evidence == (
        "record: 12000000 success 200 in 2.0 s, begun Fri 01 Jan 2027 12:00:01 UTC, 1.0 s late, by web1:4711",
        "schedule: every 5 min (before Fri 01 Jan 2027 11:55 UTC, after Fri 01 Jan 2027 12:05 UTC)",
        "pause: paused until somebody resumes it since Fri 01 Jan 2027 12:01 UTC: why not",
        "totals: 8 success; last success never",
        "history: 1 record, back to Fri 01 Jan 2027 12:00 UTC, older ones are gone",
        "process: web1:4711 rings since Thu 31 Dec 2026 12:00 UTC",
    )
