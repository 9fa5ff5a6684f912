import logging

import pytest

from pulse.evidence import BYTES, LINES, RunLog, headers_shown, listen, reset_current, set_current

log = logging.getLogger("shop.sync")


@pytest.fixture(autouse=True)
def levels():
    listen()
    before, factory = log.level, logging.getLogRecordFactory()
    log.setLevel(logging.INFO)
    yield
    log.setLevel(before)
    logging.setLogRecordFactory(factory)


@pytest.fixture
def run_log():
    taken = RunLog(BYTES)
    token = set_current(taken)
    yield taken
    reset_current(token)


def lines(taken: RunLog) -> list[str]:
    """What was taken, without the times."""
    return [line[13:] if line[2:3] == ":" else line for line in taken.close().decode().split("\n")]


def test_what_is_logged_inside_a_run_is_taken_with_its_level_and_logger(run_log):
    log.info("pages %d/%d", 310, 500)
    log.warning("the feed is slow")

    assert lines(run_log) == ["INFO shop.sync pages 310/500", "WARNING shop.sync the feed is slow"]


def test_what_its_logger_does_not_want_is_not_taken(run_log):
    log.debug("noise")

    assert run_log.close() == b""


def test_what_is_no_record_of_a_logger_is_not_taken(run_log):
    logging.makeLogRecord({"msg": "unpickled", "name": "elsewhere"})

    assert run_log.close() == b""


def test_what_is_logged_outside_of_runs_and_behind_one_is_not_taken(run_log):
    log.info("inside")
    said = run_log.close()

    log.info("behind")

    assert said.endswith(b"inside")
    assert run_log.close() == b""


def test_a_traceback_stands_below_its_line(run_log):
    try:
        raise ValueError("bad feed")
    except ValueError:
        log.exception("it failed")

    taken = lines(run_log)

    assert taken[:2] == ["ERROR shop.sync it failed", "Traceback (most recent call last):"]
    assert taken[-1] == "ValueError: bad feed"


def test_what_a_filter_of_the_application_removes_is_not_kept(run_log):
    def redact(record: logging.LogRecord) -> bool:
        record.msg = record.msg.replace("s3cret", "***")
        return True

    log.addFilter(redact)
    try:
        log.info("the token is s3cret")
        log.info("and again: s3cret")
    finally:
        log.removeFilter(redact)

    assert b"s3cret" not in run_log.close()


def test_the_last_lines_are_kept_and_the_others_counted(run_log):
    for number in range(LINES + 5):
        log.info("line %d", number)

    taken = lines(run_log)

    assert len(taken) == LINES + 1
    assert taken[0] == "(5 earlier lines are not kept)"
    assert taken[-1].endswith(f"line {LINES + 4}")


def test_long_lines_are_bounded_in_bytes():
    taken = RunLog(1000)
    token = set_current(taken)
    for number in range(5):
        log.info("%d %s", number, "\N{EURO SIGN}" * 100)
    reset_current(token)

    said = taken.close()

    assert len(said) < 1100
    assert said.startswith(b"(2 earlier lines are not kept)")


def test_no_line_is_kept_that_came_before_one_that_is_not():
    taken = RunLog(100)
    token = set_current(taken)
    log.info("first\n\n%s\nlast", "x" * 200)
    reset_current(token)

    assert taken.close() == b"(3 earlier lines are not kept)\nlast"


def test_of_one_line_that_is_too_long_the_beginning_is_kept():
    taken = RunLog(100)
    token = set_current(taken)
    log.info("x" * 1_000_000)
    reset_current(token)

    said = taken.close()

    assert len(said) == 100
    assert said.endswith(b"xxx")


def test_where_nothing_is_to_be_kept_nothing_is_taken():
    taken = RunLog(0)
    token = set_current(taken)
    log.info("said")
    reset_current(token)

    assert taken.close() == b""


def test_a_record_that_cannot_be_put_into_words_harms_nobody(run_log, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)

    log.info("%d of %d", 1)  # noqa: PLE1206 - on purpose
    log.info("half \ud800 and nul \0")

    taken = run_log.close().decode()
    assert "cannot be shown: TypeError" in taken
    assert "half \\ud800" in taken


def test_logging_can_still_be_set_up_and_warns_of_itself_as_before():
    listen()

    assert not any("evidence" in type(handler).__module__ for handler in logging.getLogger().handlers)


def test_a_factory_of_somebody_else_around_ours_takes_each_record_once(run_log):
    inner = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *said: inner(*said))  # noqa: PLW0108 - around it, not it
    listen()

    log.info("once")

    assert lines(run_log) == ["INFO shop.sync once"]


def test_headers_are_shown_a_line_each_with_secrets_masked():
    shown = headers_shown([
        ("Content-Type", "text/plain"), ("Set-Cookie", "session=abc"), ("X-Api-Key", "k"), ("X-Name", "m\xe4rz"),
    ])  # fmt: skip

    assert shown == "Content-Type: text/plain\nSet-Cookie: ••••••\nX-Api-Key: ••••••\nX-Name: m\xe4rz"


@pytest.mark.parametrize("changed", [[(b"X-Name", b"x")], [("X-Name", "x"), None], [([], "x")]])
def test_headers_that_an_endpoint_has_changed_beyond_showing_break_nothing(changed):
    assert headers_shown(changed) == "(headers that cannot be shown: TypeError)"


def test_very_many_headers_are_cut():
    shown = headers_shown([("X-Long", "x" * 1000)] * 100)

    assert len(shown) < 5000
    assert shown.endswith("\n...")
