"""Readers: what people write about time, as the value that the house works with."""

from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulse import reader
from pulse.model import YEAR

DURATION = reader.duration(0.1, YEAR)
UNHURRIED = settings(derandomize=True, deadline=None, database=None)


def naive(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC).replace(tzinfo=None)


# What was read before


@pytest.mark.parametrize(("read", "written"), [(DURATION, "1.5h"), (DURATION, 300), (reader.statuses, "200-299 304")])
def test_what_many_tasks_say_is_read_once_and_shared(read, written):
    assert read(written) is read(written)


@pytest.mark.parametrize(("read", "good", "equal"), [(DURATION, 1, True), (reader.statuses, 200, 200.0)])
def test_a_value_that_equals_one_that_was_read_is_judged_by_its_own_kind(read, good, equal):
    read(good)

    with pytest.raises(ValueError, match="want"):
        read(equal)


def test_a_long_text_is_read_and_not_kept():
    zeros = "0" * 1000

    assert DURATION(f"{zeros}5") == timedelta(seconds=5)
    assert DURATION(f"{zeros}5") is not DURATION(f"{zeros}5")


# Durations


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("300", 300),
        (" 300 ", 300),
        ("0.25", 0.25),
        ("90s", 90),
        ("5m", 300),
        ("5M", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1d", 86_400),
        ("1d2h3m4.5s", 93_784.5),
        ("366d", 366 * 86_400),
        (300, 300),
        (0.1, 0.1),
        (timedelta(minutes=5), 300),
    ],
)
def test_a_duration_is_seconds_or_has_units(written, seconds):
    assert DURATION(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written",
    [
        "", " ", "5 m", "5min", "m5", "1m1h", "1h1h", "-5", "+5", "1e3", ".5", "5.", "1,5", "0", "0.09", "367d",
        "9" * 400, "inf", "nan", "٣", "0x10", float("nan"), float("inf"), -1, 10**400, True, None, b"300", [300],
        timedelta(0), timedelta(days=367), timedelta.max,
    ],
)  # fmt: skip
def test_what_is_no_duration_or_out_of_range_is_refused(written):
    with pytest.raises(ValueError, match=r"want 0\.1s to 366d, as seconds"):
        DURATION(written)


@settings(UNHURRIED)
@given(span=st.timedeltas(timedelta(milliseconds=100), YEAR))
def test_a_duration_that_was_spelt_reads_as_itself(span):
    assert DURATION(reader.spell(span)) == span
    assert DURATION(DURATION(span)) == span


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(0), "0s"),
        (timedelta(minutes=90), "1h30m"),
        (timedelta(microseconds=1), "0.000001s"),
        (timedelta(seconds=10), "10s"),
        (timedelta(days=366), "366d"),
    ],
)
def test_a_duration_is_spelt_as_it_would_be_written(span, words):
    assert reader.spell(span) == words


def test_no_limit_no_grace_and_an_offset_by_hash_have_their_words():
    assert reader.limit(YEAR)("0") is reader.limit(YEAR)("0s") is reader.limit(YEAR)(None) is None
    assert reader.limit(YEAR)("5m") == timedelta(minutes=5)
    assert reader.grace(YEAR)(" None ") is reader.grace(YEAR)(None) is None
    assert reader.grace(YEAR)("AUTO") == "auto"
    assert reader.grace(YEAR)("5m") == timedelta(minutes=5)
    assert reader.phase(YEAR)("Hash") == "hash"
    assert reader.phase(YEAR)("0") == timedelta(0)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (reader.limit(YEAR), "or 0 for no limit"),
        (reader.grace(YEAR), "or auto, or none"),
        (reader.phase(YEAR), "or hash"),
    ],
)
def test_what_has_a_word_instead_of_a_duration_says_so(read, message):
    with pytest.raises(ValueError, match=f"want .*{message}"):
        read("soon")


# Moments


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2027-03-28T02:30", naive(2027, 3, 28, 2, 30)),
        (" 2027-03-28 02:30:15.5 ", naive(2027, 3, 28, 2, 30, 15, 500_000)),
        ("20270328T0230", naive(2027, 3, 28, 2, 30)),
        ("2027-03-28T02:30Z", datetime(2027, 3, 28, 2, 30, tzinfo=UTC)),
        ("2027-03-28T02:30+05:45", datetime(2027, 3, 28, 2, 30, tzinfo=timezone(timedelta(hours=5, minutes=45)))),
        (datetime(2027, 3, 28, 2, 30, tzinfo=UTC), datetime(2027, 3, 28, 2, 30, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_date_and_time_with_or_without_an_offset(written, moment):
    assert reader.moment(written) == reader.last_moment(written) == moment
    assert reader.moment(written).tzinfo == moment.tzinfo


@pytest.mark.parametrize("written", ["2027-03-28", " 2027-03-28 ", "20270328", "2027-W12-7", date(2027, 3, 28)])
def test_a_date_alone_begins_at_midnight_and_ends_with_its_last_microsecond(written):
    assert reader.moment(written) == naive(2027, 3, 28)
    assert reader.last_moment(written) == datetime.combine(date(2027, 3, 28), time.max)


@pytest.mark.parametrize(
    "written",
    ["", "soon", "2027-02-29", "2027-13-01", "28.03.2027", "2027-03-28T25:00", "02:30", "1806200000", 0, None],
)
def test_what_is_no_moment_is_refused(written):
    with pytest.raises(ValueError, match="want a date and time as 2027-03-28T02:30"):
        reader.moment(written)


# Cron expressions


@pytest.mark.parametrize(
    ("written", "expression"),
    [
        ("*/5 * * * *", "*/5 * * * *"),
        ("  0\t2  * *  1-5 ", "0 2 * * 1-5"),
        ("*/10 * * * * *", "*/10 * * * * *"),
        ("@daily", "0 0 * * *"),
        (" @Midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@MANUALLY", "@manually"),
        ("0 0 * * 5-5/2", "0 0 * * 5"),  # a range of one, whatever its step
        ("5-15/5 1-1/3,7 * Mar-MAR/2 *", "5-15/5 1,7 * Mar *"),
    ],
)
def test_a_cron_expression_is_tidied_and_its_nickname_spelt_out(written, expression):
    assert reader.cron(written) == expression
    assert reader.cron(expression) == expression


@pytest.mark.parametrize(
    "expression",
    [
        "0 0 * * 0", "0 0 * * 7", "0 0 * * sun-TUE", "0 0 13 * 5", "0 0 L * *", "0 0 LW * *", "0 0 * * 5#2",
        "0 0 * * 5L", "0 0 31 * *", "0 0 29 2 *", "0 0 31 1-2 *", "0 0 30 2 1", "0 0 */2 * 1#5", "0 0 LW * */2",
        "0 0 29 2 */7",
    ],
)  # fmt: skip
def test_expressions_that_some_date_matches_are_accepted(expression):
    assert reader.cron(expression) == expression


@pytest.mark.parametrize(
    "expression",
    [
        "0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 31 feb *", "0 0 LW * */7", "0 0 */31 * 1#2", "0 0 */10 4 1#5",
        "0 0 0 30 2 *",
    ],
)  # fmt: skip
def test_expressions_that_no_date_matches_are_refused(expression):
    with pytest.raises(ValueError, match="day"):
        reader.cron(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "", "*", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *",
        "* * * 13 *", "* * * * 8", "* * * * mom", "*/0 * * * *", "1-1/0 * * * *", "5-1 * * * *", "-1 * * * *",
        "1.5 * * * *", "1, * * * *", "/5 * * * *", "* * * * 5#0", "* * * * 5#6", "* * * * L", "* * L-3 * *",
        "* * 15W * *", "? * * * *", "² * * * *", f"{'9' * 5000} * * * *", "* * * * 5L/2", 300, None, b"* * * * *",
    ],
)  # fmt: skip
def test_what_is_no_cron_expression_is_refused(expression):
    with pytest.raises(ValueError, match="want 5 cron fields, or 6 with the seconds first"):
        reader.cron(expression)


@pytest.mark.parametrize("expression", ["@reboot", "@dayly", "@", "@every 5m"])
def test_a_nickname_that_nobody_knows_is_refused_with_those_that_there_are(expression):
    with pytest.raises(ValueError, match=r"want one of @yearly .*@hourly @manually, or 5 or 6 fields"):
        reader.cron(expression)


@settings(UNHURRIED, max_examples=500)
@given(expression=st.lists(st.text("0123456789*/-,#LWsunja", min_size=1, max_size=6), min_size=5, max_size=6))
def test_an_expression_is_refused_with_a_wish_or_reads_as_itself(expression):
    refusal = ""

    try:
        tidied = reader.cron(" ".join(expression))
    except ValueError as error:
        refusal = str(error)

    assert refusal.startswith("want ") if refusal else reader.cron(tidied) == tidied
