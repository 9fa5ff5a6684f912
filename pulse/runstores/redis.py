"""The run store of a fleet: a Redis or Valkey server that all hosts share.

Each step is a script that the server executes in one go (`redis_scripts`), so a claim is
one way there and back, and the finish of a run another one; so are those of several tasks
that are due at once. All keys of an application begin with `pulse:{<name>}:`, and lie in one
slot of a cluster.

A server may forget: it is restarted without its data, or with older ones, another server
takes its place, somebody empties it. What it knows carries the identity of the server that
knew it; where that is another one, all that was due before is recorded as missed.

A command whose answer was lost may have been executed. No claim is ever sent twice because
of that: if it was won, its lease ends, and the run is recorded as lost.
"""

import json
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import cache
from secrets import token_urlsafe
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import parse_qsl

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as missing:
    raise ImportError(
        "a run store at redis://, rediss:// or unix:// needs redis-py: pip install pulse[redis]", name="redis"
    ) from missing

from pulse.address import REDIS, SOCKET, masked, require_redis
from pulse.errors import ConfigError, Fault, StoreUnavailableError
from pulse.instance import is_gone
from pulse.model import Claim, Claimed, Fire, Instance, Limits, Outcome, Pause, Press, Progress, Run, Trigger
from pulse.runstores import redis_scripts
from pulse.runstores.base import (
    FORGET_HOST_AFTER,
    FORGET_INSTANCE_AFTER,
    FORGET_PROCESS_AFTER,
    FORGOTTEN_AT_ONCE,
    PRESSES,
    PURGED_AT_ONCE,
    SPENT_FOR,
    Bid,
    Passed,
    RunStore,
    Totals,
)
from pulse.runstores.instants import MICROSECOND
from pulse.runstores.ledger import PASSED_OVER, losses, unclaimed, why_lost, won
from pulse.runstores.legible import MISREAD, Legible, UnreadableError
from pulse.runstores.redis_records import (
    TOTALS,
    fire_fields,
    instance_fields,
    instance_from,
    instant_from,
    json_of,
    limit_fields,
    name_in,
    pause_fields,
    pause_from,
    plain_json_of,
    press_fields,
    press_from,
    progress_text,
    run_fields,
    run_from,
    stamp,
    text_of,
    totals_from,
)
from pulse.runstores.redis_rules import FORMAT, LATER, WON
from pulse.runstores.redis_scripts import Script
from pulse.zone import EPOCH

T = TypeVar("T")
_Answer: TypeAlias = dict[str, Any]  # of a script to a bid: a `Claim`, and what goes with it

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 1.0  # how long a call waits for a connection
ANSWER_SECONDS: Final = 2.0  # and how long for an answer
AT_ONCE: Final = 50  # claims, or ends of runs, in one script: while it runs, nobody else is served
RECORDS_AT_ONCE: Final = 500  # that one script reads, or leases: it takes the server a few milliseconds
TRIES: Final = 20  # a claim that finds another state than expected is repeated; each time somebody else was faster


class RedisRunStore(RunStore):
    """Keeps everything on the server at *address*; safe to use from many threads, and after a fork.

    The server's clock is that of the store. Every method raises StoreUnavailableError when
    the server does not answer in a few seconds, or not as it should; the next call tries anew.
    """

    def __init__(
        self, address: str, *, name: str, history: int = 50, tolerance: timedelta | None = timedelta(seconds=1)
    ) -> None:
        """Nothing is opened yet.

        Args:
            address: `redis://`, `rediss://` or `unix://`, as redis-py has it.
            name: Of the application.
            history: How many finished records are kept a task.
            tolerance: How long before its instant, by the server's clock, a fire may be
                claimed: hosts are never quite of one time. None if the instants are made up:
                then those that are given count, and the server's clock does not.

        Raises:
            ConfigError: (a ValueError) the address cannot be understood.
        """
        _require_address(address)
        self.address = masked(address)
        self._address = address
        self._space = f"pulse:{{{name}}}:"
        self._history = history
        self._settings = {"history": history, "tolerance": None if tolerance is None else tolerance // MICROSECOND}
        self._clients: dict[int, redis.Redis] = {}  # by process: a connection is not for two of them
        self._seen: dict[str, str] = {}  # the cursors as this process saw them last
        self._is_met = False
        self._legible = Legible()

    def __repr__(self) -> str:
        return f"<RedisRunStore {self.address}>"

    # Claims

    def register(
        self, tracks: Iterable[str], now: datetime, *, since: datetime | None = None
    ) -> Mapping[str, datetime]:
        """See `RunStore.register`; also forgets the tracks of hosts and processes that are long gone."""
        named = sorted(tracks)
        terms = {
            "tracks": named,
            "seen": max(self._seen.values(), key=int, default=None),
            "forget_process_after": FORGET_PROCESS_AFTER // MICROSECOND,
            "forget_host_after": FORGET_HOST_AFTER // MICROSECOND,
            "forgotten_at_once": FORGOTTEN_AT_ONCE,
            "now": stamp(now),
            "since": since and stamp(since),
        }
        cursors = self._step(redis_scripts.REGISTER, self._keys("ledger", "pauses", "held", "instances"), terms)
        self._seen.update(zip(named, map(bytes.decode, cursors), strict=True))
        return {track: instant_from(cursor) for track, cursor in zip(named, cursors, strict=True)}

    def claim(
        self, fire: Fire, *, owner: str, now: datetime, lease: timedelta, passed: Passed, limits: Limits
    ) -> Claimed:
        """See `RunStore.claim`."""
        bid = Bid(fire=fire, passed=passed, limits=limits)
        (claimed,) = self.claim_all([bid], owner=owner, now=now, lease=lease)
        return claimed

    def claim_all(self, bids: Sequence[Bid], *, owner: str, now: datetime, lease: timedelta) -> list[Claimed]:
        """See `RunStore.claim_all`; one way there and back, if the cursors are as this process saw them last.

        Each claim is atomic by itself. If the answer is lost, what was won is lost by its lease.
        """
        terms = {"owner": owner, "lease": lease // MICROSECOND}
        return [
            _claimed(answer, won(bid.fire, owner, answer["at"], lease, bid.limits) if "at" in answer else None)
            for some in _parts(bids, AT_ONCE)
            for bid, answer in zip(some, self._settle(redis_scripts.CLAIM, some, now, terms), strict=True)
        ]

    def dismiss(self, fire: Fire, *, outcome: Outcome, reason: str, now: datetime, passed: Passed) -> Claimed:
        """See `RunStore.dismiss`."""
        terms = {"outcome": outcome.value, "reason": reason}
        bid = Bid(fire=fire, passed=passed, limits=Limits())
        (answer,) = self._settle(redis_scripts.DISMISS, [bid], now, terms)
        return _claimed(answer)

    def renew(self, runs: Iterable[Run], until: datetime) -> list[Run]:
        """See `RunStore.renew`; by the server's clock the leases last as long as they did at first."""
        lost: list[Run] = []
        for some in _parts(list(runs), RECORDS_AT_ONCE):
            terms = {"runs": [_named(run) for run in some], "expires": stamp(until), "now": stamp(until)}
            lost += [some[number - 1] for number in self._step(redis_scripts.RENEW, self._keys("held"), terms)]
        return lost

    def finish(self, run: Run, *, again_at: datetime | None = None) -> bool:
        """See `RunStore.finish`."""
        (is_ours,) = self._finish([run], stamp(again_at))
        return is_ours

    def finish_all(self, runs: Sequence[Run]) -> list[bool]:
        """See `RunStore.finish_all`; one way there and back."""
        return [is_ours for some in _parts(runs, AT_ONCE) for is_ours in self._finish(some)]

    def _finish(self, runs: Sequence[Run], again_at: str | None = None) -> list[bool]:
        records = [run_fields(run) for run in runs]
        ended = [{name: record[name] for name in _ENDED if name in record} for record in records]
        terms = {"runs": ended, "again_at": again_at}
        keys = self._keys_of(*(run.task for run in runs))
        answers: bytes = self._step(redis_scripts.FINISH, keys, terms, *map(plain_json_of, records))
        return [answer == _YES for answer in answers]

    def reap(self, now: datetime) -> list[Run]:
        """See `RunStore.reap`."""
        at, held = self._step(redis_scripts.LOOK, self._keys("held"), {"now": stamp(now)})
        suspects = [run for run, _ in losses(self._runs_in(held), instant_from(at))]
        lost: list[Run] = []
        for some in _parts(suspects, AT_ONCE):
            try:
                found = self._reap(some, now)
            except StoreUnavailableError:
                if not lost:
                    raise
                break  # what is recorded has to be told; the rest is found by the next look
            lost += map(self._run_of, found)
        return lost

    def _reap(self, suspects: Sequence[Run], now: datetime) -> list[bytes]:
        """Record those of *suspects* that are lost; these records."""
        terms = {"suspects": [_named(run) for run in suspects], "now": stamp(now), **_judged(suspects)}
        records: list[bytes] = self._step(redis_scripts.REAP, self._keys_of(*(run.task for run in suspects)), terms)
        return records

    def waiting(self) -> list[Run]:
        """See `RunStore.waiting`."""
        return sorted((run for run in self._held() if run.is_waiting), key=lambda run: run.expires or run.due)

    def adopt(self, run: Run, *, owner: str, now: datetime, lease: timedelta, limits: Limits) -> Run | None:
        """See `RunStore.adopt`."""
        terms = {
            "run": _named(run),
            "task": run.task,
            "owner": owner,
            "lease": lease // MICROSECOND,
            **limit_fields(limits),
            "now": stamp(now),
        }
        begun = self._step(redis_scripts.ADOPT, self._keys_of(run.task), terms)
        return self._run_of(begun) if begun else None

    def ask_to_stop(self, run_id: str, reason: str) -> bool:
        """See `RunStore.ask_to_stop`."""
        terms = {"id": run_id, "reason": reason, "now": "0"}
        return bool(self._step(redis_scripts.ASK_TO_STOP, self._keys("held"), terms))

    def report(self, owner: str, progress: Mapping[str, Progress]) -> Mapping[str, str]:
        """See `RunStore.report`."""
        said = {run_id: progress_text(one) for run_id, one in progress.items()}
        terms = {"owner": owner, "progress": said, "now": "0"}
        stops = self._step(redis_scripts.REPORT, self._keys("held"), terms)
        return {run_id.decode(): text_of(reason) for run_id, reason in stops}

    def running(self) -> list[Run]:
        """See `RunStore.running`."""
        return sorted((run for run in self._held() if run.started), key=lambda run: run.started or run.due)

    def history(self, task: str, limit: int | None = None) -> list[Run]:
        """See `RunStore.history`."""
        wanted = self._history if limit is None else min(limit, self._history)
        if wanted < 1:
            return []
        return [self._run_of(record) for record in self._read("LRANGE", f"history:{task}", 0, wanted - 1)]

    def totals(self, task: str) -> Totals:
        """See `RunStore.totals`."""
        return totals_from(*self._read("HMGET", f"task:{task}", *TOTALS))

    def find(self, task: str, run_id: str) -> list[Run]:
        """See `RunStore.find`."""
        records = self._step(redis_scripts.FIND, self._keys(f"history:{task}"), {"id": run_id, "now": "0"})
        return [run for run in map(self._run_of, records) if run.id == run_id]

    def clear(self, task: str) -> int:
        """See `RunStore.clear`."""
        return int(self._step(redis_scripts.CLEAR, self._keys(f"history:{task}"), {"now": "0"}))

    def newest(self) -> Mapping[str, Run]:
        """See `RunStore.newest`."""
        return {task: runs[0] for task, runs in self.brief(self.tasks(), 1).items() if runs}

    def brief(self, tasks: Iterable[str], limit: int) -> Mapping[str, list[Run]]:
        """See `RunStore.brief`; a few tasks at a time, since nobody else is served meanwhile."""
        found: dict[str, list[Run]] = {}
        for some in _parts(list(tasks), max(1, RECORDS_AT_ONCE // max(1, limit))):
            terms = {"limit": min(limit, self._history), "now": "0"}
            histories = self._step(redis_scripts.BRIEF, self._keys(*(f"history:{task}" for task in some)), terms)
            for task, records in zip(some, histories, strict=True):
                found[task] = [self._run_of(record).without_output() for record in records]
        return found

    def all_totals(self) -> Mapping[str, Totals]:
        """See `RunStore.all_totals`."""
        found: dict[str, Totals] = {}
        for some in _parts(self.tasks(), RECORDS_AT_ONCE):
            keys = self._keys(*(f"task:{task}" for task in some))
            answers = self._step(redis_scripts.TOTALS, keys, {"fields": TOTALS, "now": "0"})
            known = {task: totals_from(*answer) for task, answer in zip(some, answers, strict=True)}
            found |= {task: totals for task, totals in known.items() if totals.counts}
        return found

    def ran(self, day: date) -> int:
        """See `RunStore.ran`."""
        last, count = self._read("HMGET", "ledger", "ran_on", "ran")
        return int(count) if last and int(last) == (day - EPOCH.date()).days else 0

    # What people say about tasks

    def pause(self, task: str, pause: Pause) -> None:
        """See `RunStore.pause`."""
        self._command("HSET", f"{self._space}pauses", task, json_of(pause_fields(pause)))

    def resume(self, task: str) -> bool:
        """See `RunStore.resume`."""
        return bool(self._command("HDEL", f"{self._space}pauses", task))

    def pauses(self) -> Mapping[str, Pause]:
        """See `RunStore.pauses`."""
        return {
            task.decode(): self._understood(pause_from, said) for task, said in self._read("HGETALL", "pauses").items()
        }

    def tasks(self) -> list[str]:
        """See `RunStore.tasks`."""
        paused = {field.decode() for field in self._read("HKEYS", "pauses")}
        return sorted({_task_of(track) for track in self._tracks()} | paused)

    def purge(self, keep: Iterable[str]) -> list[str]:
        """See `RunStore.purge`."""
        gone = sorted(set(self.tasks()) - set(keep))
        tracks: defaultdict[str, list[str]] = defaultdict(list)
        for track in self._tracks():
            tracks[_task_of(track)].append(track)
        for some in _parts(gone, PURGED_AT_ONCE):
            theirs = [track for task in some for track in tracks[task]]
            terms = {"tracks": theirs, "tasks": some, "now": "0"}
            self._step(redis_scripts.PURGE, self._keys_of(*some), terms)
            for track in theirs:
                self._seen.pop(track, None)
        return gone

    def _tracks(self) -> list[str]:
        fields = [field.decode() for field in self._read("HKEYS", "ledger")]
        return [field.removeprefix("cursor ") for field in fields if field.startswith("cursor ")]

    # Who is there

    def beat(self, instance: Instance, fingerprints: Mapping[str, str], alive: timedelta) -> Mapping[str, datetime]:
        """See `RunStore.beat`; also forgets processes and configurations that are long gone."""
        keys = self._keys("instances", "configurations", "fingerprints")
        terms = {
            "instance": instance_fields(instance),
            "alive": alive // MICROSECOND,
            "forget_instance_after": FORGET_INSTANCE_AFTER // MICROSECOND,
            "now": stamp(instance.seen),
        }
        living = self._step(redis_scripts.BEAT, keys, terms)
        if living is None:
            living = self._step(redis_scripts.BEAT, keys, terms, json_of(dict(fingerprints)))
        return {digest.decode(): instant_from(first_seen) for digest, first_seen in living}

    def fingerprints(self, digest: str) -> Mapping[str, str]:
        """See `RunStore.fingerprints`."""
        said = self._read("HGET", "fingerprints", digest)
        return self._understood(dict, said) if said else {}

    def leave(self, owner: str) -> None:
        """See `RunStore.leave`."""
        self._command("HDEL", f"{self._space}instances", owner)

    def instances(self) -> list[Instance]:
        """See `RunStore.instances`."""
        known = [self._understood(instance_from, said) for said in self._read("HVALS", "instances")]
        return sorted(known, key=lambda one: one.seen, reverse=True)

    # What the status page needs

    def secret(self) -> str:
        """See `RunStore.secret`."""
        self._command("SET", f"{self._space}secret", token_urlsafe(32), "NX")
        secret: bytes = self._read("GET", "secret")
        return secret.decode()

    def spend(self, code: str, until: datetime) -> bool:
        """See `RunStore.spend`; by the clock of the server, for a day at the least."""
        left = max(until - self.now(), timedelta(0)) + SPENT_FOR
        answer = self._command("SET", f"{self._space}spent:{code}", "1", "NX", "EX", left // timedelta(seconds=1))
        return answer is not None

    def keep_press(self, press: Press) -> None:
        """See `RunStore.keep_press`."""
        self._command("LPUSH", f"{self._space}presses", json_of(press_fields(press)))
        self._command("LTRIM", f"{self._space}presses", 0, PRESSES - 1)

    def presses(self, limit: int = PRESSES) -> list[Press]:
        """See `RunStore.presses`."""
        said = self._read("LRANGE", "presses", 0, limit - 1) if limit else []
        return [self._understood(press_from, one) for one in said]

    # The store itself

    def now(self) -> datetime:
        """The server's clock."""
        seconds, microseconds = self._read("TIME")
        return EPOCH + timedelta(seconds=int(seconds), microseconds=int(microseconds))

    def reach(self) -> None:
        """See `RunStore.reach`; a replica, and a server without room, refuse also what would write nothing."""
        self._command("SET", f"{self._space}reached", "", "XX")  # only if it is there, which it never is

    def after_fork(self) -> None:
        """See `RunStore.after_fork`; the next call connects anew."""
        _inherited.append(self._clients)
        self._clients = {}

    def close(self) -> None:
        """Close the connections that are idle; the next call opens one again."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            # Not under a thread that waits for a frozen server: what redis-py raises then looks like a fault of Pulse.
            client.connection_pool.disconnect(inuse_connections=False)

    # Steps

    def _settle(self, script: Script, bids: Sequence[Bid], now: datetime, terms: Mapping[str, Any]) -> list[_Answer]:
        """What *script* answers to *bids* when it has been told all that only this side knows."""
        answers = self._ask(script, bids, now, terms)
        try:
            self._look_again(script, bids, now, terms, answers)
        except StoreUnavailableError:
            places = _unsettled(answers)
            if len(places) == len(bids):
                raise
            # What was won has to begin: it would be lost together with those that were not settled. Whether
            # one of these was won, too, and the answer lost: asked for again, it is taken.
            for place in places:
                answers[place] = _LATER
        return answers

    def _look_again(
        self, script: Script, bids: Sequence[Bid], now: datetime, terms: Mapping[str, Any], answers: list[_Answer]
    ) -> None:
        """Ask once more where *script* has found another state than it was told of, until it settles all *bids*."""
        doubtful: list[Run] = []
        lost: list[dict[str, Any]] = []  # by one of *bids*, the only one: no other bid has a lock
        for _ in range(TRIES):
            places = _unsettled(answers)
            if not places:
                return
            doubtful += (run_from(held) for place in places for held in answers[place].get("held", ()))
            for holder in (answers[place]["lost_holder"] for place in places if "lost_holder" in answers[place]):
                lost += [self._understood(dict, record) for record in self._reap([run_from(holder)], now)]
            heard = self._ask(script, [bids[place] for place in places], now, {**terms, **_judged(doubtful)})
            for place, answer in zip(places, heard, strict=True):
                answers[place] = {**answer, "lost": [*lost, *answer.get("lost", ())]} if lost else answer
        raise self._unavailable("too many others claim the same task")

    def _ask(self, script: Script, bids: Sequence[Bid], now: datetime, terms: Mapping[str, Any]) -> list[_Answer]:
        """What *script* answers to *bids*, told what this process has seen; with what is won, `at` which instant."""
        tracks = [bid.fire.track for bid in bids]
        said = [_said_of(bid, self._seen.get(track), now) for bid, track in zip(bids, tracks, strict=True)]
        told = {**terms, "now": stamp(now), "bids": said}
        at, *lines = self._step(script, self._keys_of(*(bid.fire.task for bid in bids)), told).split(b"\n")
        begun = instant_from(at)
        answers: list[_Answer] = []
        for track, one, line in zip(tracks, said, lines, strict=True):
            answer = {"answer": WON, "cursor": one["fire"]["due"]} if line == _WON else self._understood(dict, line)
            if answer["answer"] == WON:
                answer["at"] = begun
            if "cursor" in answer:
                self._seen[track] = answer["cursor"]
            answers.append(answer)
        return answers

    def _held(self) -> list[Run]:
        return self._runs_in(self._read("HVALS", "held"))

    def _runs_in(self, held: Iterable[bytes]) -> list[Run]:
        return self._legible.runs(held, self._run_of, name_in)

    def _keys(self, *names: str) -> list[str]:
        return [self._space + name for name in names]

    def _keys_of(self, *tasks: str) -> list[str]:
        return self._keys(
            "ledger", "pauses", "held", *(f"{kind}:{task}" for task in tasks for kind in ("task", "history"))
        )

    # The server

    def _step(self, script: Script, keys: list[str], terms: Mapping[str, Any], *more: bytes) -> Any:
        """Have the server execute *script*."""
        told = json_of({**terms, **self._settings})
        try:
            return self._command("EVALSHA", script.digest, len(keys), *keys, told, *more)
        except redis.exceptions.NoScriptError:  # this server has not seen it yet, and has done nothing
            return self._command("EVAL", script.text, len(keys), *keys, told, *more)

    def _read(self, command: str, key: str = "", *values: object) -> Any:
        """The answer to a command that changes nothing, and so may be sent twice."""
        words = (command, self._space + key, *values) if key else (command,)
        try:
            return self._command(*words)
        except StoreUnavailableError as error:
            if not isinstance(error.__cause__, redis.exceptions.ConnectionError):
                raise
            return self._command(*words)  # that connection was cut; whether there is another is soon seen

    def _command(self, *words: Any) -> Any:
        client = self._clients.get(os.getpid())
        try:
            if client is None:
                # Of two threads that come first, both get the one that is kept; the other is never connected.
                client = self._clients.setdefault(os.getpid(), _client_of(self._address))
            if not self._is_met:
                self._meet(client)
            return client.execute_command(*words)  # type: ignore[no-untyped-call]
        except redis.exceptions.NoScriptError:
            raise
        except (redis.exceptions.RedisError, OSError) as error:
            # Whatever was wrong, the next call shall not inherit it: the address may lead elsewhere by now.
            if client is not None:
                client.connection_pool.disconnect(inuse_connections=False)
            raise self._unavailable(error) from error

    def _meet(self, client: "redis.Redis") -> None:
        """Look once at how the server is set up, and at who has made what it holds."""
        written: Any = client.hget(f"{self._space}ledger", "format")
        if written and int(written) > FORMAT:
            raise redis.RedisError(LATER % int(written))
        memory: Any = client.info("memory")
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            log.warning(
                "the run store %s may throw away what it has to remember: its maxmemory-policy is %s, and should be "
                "noeviction",
                self.address, policy,
                extra={"pulse_event": "store_may_evict"},
            )  # fmt: skip
        self._is_met = True

    def _unavailable(self, problem: object) -> StoreUnavailableError:
        return StoreUnavailableError(f"the run store {self.address} cannot be used: {problem}")

    # What the server has

    def _run_of(self, text: bytes) -> Run:
        return self._understood(run_from, text)

    def _understood(self, read: Callable[[Any], T], text: bytes) -> T:
        """What *read* makes of the JSON in *text*."""
        try:
            return read(json.loads(text_of(text)))
        except MISREAD as error:
            holds = "it holds what Pulse has not written, or a later release of it has"
            raise UnreadableError(str(self._unavailable(f"{holds} ({error!r})"))) from error


# Kept from the garbage collector, which could wait for a lock of the parent's threads.
_inherited: Final[list[Any]] = []


# The way to the server


def _client_of(address: str) -> "redis.Redis":
    settings: dict[str, Any] = {
        "socket_timeout": ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 0),  # by itself redis-py sends again what may have been executed
        "max_connections": 2**16,  # the threads of the process are the limit
        "protocol": 2,
    }
    if not address.startswith("unix:"):
        settings |= {
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_keepalive": True,
            "socket_keepalive_options": _KEEPALIVE,
        }
    pool = redis.ConnectionPool.from_url(address, **settings)
    pool.connection_kwargs["decode_responses"] = False  # whatever the address says
    return redis.Redis(connection_pool=pool)


# A connection that a firewall has forgotten is found out before a claim is sent into it.
_KEEPALIVE: Final = {
    getattr(socket, option): seconds
    for option, seconds in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, option)
}


def _require_address(address: str) -> None:
    try:
        require_redis(address)
        # Makes what would connect, but does not: only so are its settings read.
        redis.ConnectionPool.from_url(address).make_connection()
    # Whatever the library has against a setting; its error may show the password, and is not shown.
    except Exception as error:  # noqa: BLE001
        wanted = SOCKET if address.startswith("unix:") else REDIS
        problem = str(error) if str(error).startswith(wanted) else f"{wanted}: {_unread(address)}"
        fault = Fault(key="pulse.config.store", shown=repr(masked(address)), problem=problem)
        raise ConfigError([fault]) from None


def _unread(address: str) -> str:
    """What is said of settings behind the `?` that redis-py does not take, without their values."""
    names = [name for name, _ in parse_qsl(address.partition("?")[2], keep_blank_values=True)]
    return f"redis-py does not take what stands behind ? ({', '.join(names)})"


# What is written


def _parts(whole: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (whole[begin : begin + size] for begin in range(0, len(whole), size))


def _task_of(track: str) -> str:
    return track.partition("@")[0]


def _named(run: Run) -> dict[str, Any]:
    return {"id": run.id, "attempt": run.attempt}


def _judged(runs: Iterable[Run]) -> dict[str, dict[str, Any]]:
    """Which of *runs* have lost their process; whether a lease has ended, the server knows better."""
    judged: dict[str, dict[str, Any]] = {"living": {}, "gone": {}}
    has_ended = cache(is_gone)
    for run in runs:
        reason = why_lost(replace(run, expires=None), EPOCH, has_ended)
        judged["gone" if reason else "living"][f"{run.id}/{run.attempt}"] = reason or True
    return judged


def _said_of(bid: Bid, seen: str | None, now: datetime) -> dict[str, Any]:
    """What a script is told of *bid*, of whose track the cursor was *seen*."""
    said = {"fire": fire_fields(bid.fire), **limit_fields(bid.limits)}
    if bid.fire.latest is not None:
        said["latest"] = stamp(bid.fire.latest)
    if seen is not None:
        said["seen"] = seen
        if passed_over := _passed_over(bid, instant_from(seen), now):
            said["passed_over"] = passed_over
    return said


def _passed_over(bid: Bid, cursor: datetime, now: datetime) -> dict[str, Any] | None:
    """The record of what lies between *cursor* and the fire of *bid*, if anything does."""
    fire = bid.fire
    if fire.trigger is Trigger.MANUAL or cursor >= fire.due:
        return None
    span = bid.passed(cursor)
    if span is None:
        return None
    first = Fire(task=fire.task, due=span.first, place=fire.place)
    record = unclaimed(first, Outcome.MISSED, PASSED_OVER, now)
    return run_fields(replace(record, due=span.last, first_due=span.first, count=span.count))


# What a script looks at.
_ENDED: Final = ("id", "attempt", "due", "started", "finished", "outcome", "duration", "count")

_WON: Final = WON.encode()
_YES: Final = ord("1")
_LATER: Final[_Answer] = {"answer": Claim.WAIT.value}


def _unsettled(answers: Sequence[_Answer]) -> list[int]:
    return [place for place, answer in enumerate(answers) if answer["answer"] == "again"]


def _claimed(answer: _Answer, run: Run | None = None) -> Claimed:
    """What *answer* means; a *run* that was won is not in it."""
    return Claimed(
        answer=Claim(answer["answer"]),
        run=run_from(answer["run"]) if "run" in answer else run,
        missed=run_from(answer["missed"]) if "missed" in answer else None,
        lost=tuple(map(run_from, answer.get("lost", ()))),
    )
