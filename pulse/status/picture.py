"""Where the marks of pictures stand: numbers only, which the templates draw as SVG."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Final

from pulse.model import Outcome, Run
from pulse.schedule import Schedule
from pulse.status.words import outcome_words, seconds_words

BARS: Final = 30
_BAR_WIDTH, _BAR_STEP, _BAR_HEIGHT, _STUB = 4, 6, 26, 3  # pixels
_WIDTH: Final = 1000  # of a lane, in units of its own: it is stretched to the room that there is
SPAN: Final = timedelta(hours=1)  # to each side of now
STEP: Final = timedelta(seconds=15)  # by which the timeline moves on: more often nobody sees it
MOST_DOTS: Final = 90  # of one lane to one side; more would run into a band


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One record: where its bar stands, its kind (an outcome), and what it says."""

    x: int
    y: float
    height: float
    width: int
    kind: str
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Bars beside each other, the oldest first.

    Attributes:
        most: What the highest bar stands for; empty for no bars.
        middle: The median.
    """

    bars: Sequence[Bar]
    width: int
    height: int
    most: str = ""
    middle: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """The hour before and after now of one task.

    Attributes:
        marks: SVG path data by kind: an outcome, `running`, or `planned`.
        is_band: The instants to come stand too close to be told from each other.
        band: Where they begin and end.
    """

    marks: Sequence[tuple[str, str]]
    is_band: bool = False
    band: tuple[float, float] = (0, 0)


def bars(records: Sequence[Run]) -> Chart:
    """The durations of *records*, newest first, as small bars; what did not run is a stub."""
    shown = list(reversed(records[:BARS]))
    most = max((run.duration or 0 for run in shown), default=0)
    drawn = [
        _bar(place, _share(run.duration, most), _kind(run), _title(run), height=_BAR_HEIGHT, first=BARS - len(shown))
        for place, run in enumerate(shown)
    ]
    return Chart(bars=drawn, width=BARS * _BAR_STEP, height=_BAR_HEIGHT)


def duration_chart(records: Sequence[Run]) -> Chart:
    """How long each of *records*, newest first, took."""
    return _chart([(run, run.duration) for run in records if run.duration is not None])


def lateness_chart(records: Sequence[Run]) -> Chart:
    """How long after it was due each of *records*, newest first, began."""
    return _chart([(run, run.lateness.total_seconds()) for run in records if run.started])


def typical(records: Iterable[Run]) -> float | None:
    """The median duration of the runs that succeeded; None if there are none."""
    took = [run.duration for run in records if run.duration is not None and run.outcome is Outcome.SUCCESS]
    return median(took) if took else None


def minute(now: datetime) -> datetime:
    """The middle of the timeline: *now*, at rest for `STEP`."""
    return now - timedelta(seconds=now.timestamp() % STEP.total_seconds())


def lane(schedule: Schedule | None, records: Sequence[Run], running: Sequence[Run], middle: datetime) -> Lane:
    """What happened in the hour before *middle*, and what is due in the hour after it.

    Args:
        schedule: None if nothing is due by itself.
        records: Newest first.
        running: What is under way.
        middle: Now.
    """
    marks: dict[str, list[str]] = {}
    for run in reversed(records):
        begin, end = run.first_due or run.started or run.due, run.finished if run.started else run.due
        if end is not None and end > middle - SPAN and begin <= middle:
            marks.setdefault(_kind(run), []).append(_line(max(begin, middle - SPAN), min(end, middle), middle))
    for run in running:
        if run.started:
            marks.setdefault("running", []).append(_line(max(run.started, middle - SPAN), middle, middle))
    dues = _dues(schedule, middle) if schedule else []
    drawn = [(kind, "".join(lines)) for kind, lines in marks.items()]
    if len(dues) >= MOST_DOTS:
        return Lane(marks=drawn, is_band=True, band=(_x(dues[0], middle), _WIDTH - _x(dues[0], middle)))
    if dues:
        drawn.append(("planned", "".join(_line(due, due, middle) for due in dues)))
    return Lane(marks=drawn)


def _dues(schedule: Schedule, middle: datetime) -> list[datetime]:
    dues: list[datetime] = []
    due = schedule.next_due(middle)
    while due is not None and due <= middle + SPAN and len(dues) < MOST_DOTS:
        dues.append(due)
        due = schedule.next_due(due)
    return dues


def _chart(values: Sequence[tuple[Run, float | None]]) -> Chart:
    known = [value for _, value in values if value is not None]
    if not known:
        return Chart(bars=(), width=0, height=0)
    most, height = max(known), 72
    drawn = [
        _bar(place, _share(value, most), _kind(run), _title(run), height=height)
        for place, (run, value) in enumerate(reversed(values))
    ]
    return Chart(
        bars=drawn,
        width=len(drawn) * _BAR_STEP,
        height=height,
        most=seconds_words(most),
        middle=seconds_words(median(known)),
    )


def _bar(place: int, share: float, kind: str, title: str, *, height: int, first: int = 0) -> Bar:
    tall = round(max(_STUB, share * height), 1)
    x = (first + place) * _BAR_STEP
    return Bar(x=x, y=round(height - tall, 1), height=tall, width=_BAR_WIDTH, kind=kind, title=title)


def _share(value: float | None, most: float) -> float:
    return max(0.0, value) / most if value and most else 0.0


def _kind(run: Run) -> str:
    return run.outcome.value if run.outcome else "running"


def _title(run: Run) -> str:
    took = f" in {seconds_words(run.duration)}" if run.duration is not None else ""
    status = f" {run.status}" if run.status is not None else ""
    return f"{run.due:%d %b %H:%M:%S} UTC: {outcome_words(run)}{status}{took}"


def _x(instant: datetime, middle: datetime) -> float:
    return round((instant - middle + SPAN) / (2 * SPAN) * _WIDTH, 1)


def _line(begin: datetime, end: datetime, middle: datetime) -> str:
    """A line with round ends; one without length is a dot, whatever the picture is stretched to."""
    return f"M{_x(begin, middle)} 6h{max(0.1, round(_x(end, middle) - _x(begin, middle), 1))}"
