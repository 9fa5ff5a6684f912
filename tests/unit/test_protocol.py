"""What a parent and its child say to each other arrives as it was said."""

import pickle
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pulse.dispatch import Reply
from pulse.model import Outcome, Progress, Run, Trigger
from pulse.workers.protocol import Answer, Ready, Request, Startup, Told, receive, send

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)


class Pipe:
    """What is sent can be received."""

    def __init__(self) -> None:
        self.said: list[bytes] = []

    def send_bytes(self, said: bytes) -> None:
        self.said.append(said)

    def recv_bytes(self) -> bytes:
        return self.said.pop(0)


RUN = Run(
    id="f00d", task="a", due=NOON, trigger=Trigger.RETRY, attempt=2, owner="here:1",
    started=NOON + timedelta(microseconds=1), expires=NOON + timedelta(seconds=30), finished=NOON, outcome=Outcome.FAILED,
    reason="no", status=500, duration=0.5, body=b"\0", errors=b"x", first_due=NOON, count=3, place="host:1",
    recovers=True, lock="word", stop="by ada", progress=Progress(done=1, total=2, text="z"), result="r", again_at=NOON,
    request="GET /a", headers="A: b", log=b"line",
)  # fmt: skip
REPLY = Reply(
    outcome=Outcome.SKIPPED, reason="not now", status=423, duration=0.25, body=b"body", errors=b"errors",
    traceback="Traceback", retry_after=timedelta(seconds=7), result="said", request="GET /a", headers="A: b",
    log=b"line",
)  # fmt: skip


@pytest.mark.parametrize("one", [RUN, REPLY], ids=lambda one: type(one).__name__)
def test_the_examples_leave_no_field_as_it_is_by_default(one):
    defaults: dict[str, Any] = (
        one._field_defaults if isinstance(one, Reply) else {field.name: field.default for field in fields(one)}
    )

    assert [name for name, default in defaults.items() if getattr(one, name) == default] == []


@pytest.mark.parametrize(
    "message",
    [
        Request(run=RUN),
        Request(run=Run(id="f00d", task="a", due=NOON)),
        Answer(run_id="f00d", attempt=2, reply=REPLY),
        Answer(run_id="f00d", attempt=1, reply=Reply(outcome=Outcome.SUCCESS)),
        Told(run_id="f00d", attempt=1, progress=Progress(done=1)),
        Startup(sys_path=("/a",), argv=("b",), python_path=None, body=b"x"),
        Ready(problem="no"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_arrives_as_it_was_sent(message):
    pipe: Any = Pipe()

    send(pipe, message)

    assert receive(pipe) == message


@pytest.mark.parametrize("junk", [b"", b"junk", pickle.dumps(["run", []]), pickle.dumps(["reply", ["x"] * 9, "a", 1])])
def test_what_is_no_message_is_refused(junk):
    pipe: Any = Pipe()
    pipe.send_bytes(junk)

    with pytest.raises((pickle.PickleError, EOFError, ValueError, IndexError, KeyError)):
        receive(pipe)
