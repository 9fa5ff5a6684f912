"""The reader of cron expressions; what is wrong with one is said of its field."""

import re
from datetime import UTC, datetime
from typing import Final

from cronsim import CronSim, CronSimError

from pulse.reader.base import remembering
from pulse.reader.spans import seconds_of

_NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MANUALLY: Final = "@manually"
_CRON: Final = "want 5 cron fields, or 6 with the seconds first"
_CRON_FIELDS: Final = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L or LW",
    "month": "1-12 or jan-dec",
    "day-of-week": "0-7 or sun-sat, 5#2 or 5L",
}
_DAYS: Final = "sun mon tue wed thu fri sat"
_MONTHS: Final = "jan feb mar apr may jun jul aug sep oct nov dec"
_ROUNDS: Final = {  # what a range may name, in its order
    "second": (range(60),),
    "minute": (range(60),),
    "hour": (range(24),),
    "day-of-month": (range(1, 32),),
    "month": (range(1, 13), _MONTHS.split()),
    "day-of-week": (range(7), _DAYS.split()),
}


@remembering
def cron(value: object) -> str:
    """A cron expression of 5 fields, or of 6 with the seconds first; nicknames are spelt out."""
    expression = " ".join(value.split()) if isinstance(value, str) else ""
    nickname = expression.lower()
    if nickname in _NICKNAMES:
        return _NICKNAMES[nickname]
    if nickname == MANUALLY:
        return MANUALLY
    if expression.startswith("@"):
        raise ValueError(f"want one of {' '.join([*_NICKNAMES, MANUALLY])}, or 5 or 6 fields")
    # cronsim reads `5-5/10` as `5/10`: a range of one is that one, whatever the step.
    expression = re.sub(r"\b(\w+)-\1/0*[1-9][0-9]*", r"\1", expression, flags=re.IGNORECASE)
    try:
        pattern = CronSim(expression, datetime(2001, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"{_CRON} ({_bad_field(expression, str(error).lower())})") from None
    # cronsim asserts, or takes min() of an empty set, for some malformed fields.
    except (AssertionError, ValueError, TypeError):
        raise ValueError(_CRON) from None
    # Two day fields may exclude each other (`LW` and a Sunday). The search for a date takes
    # up to 30 ms, so it is left out where a `*` makes it needless.
    if "*" not in expression.split()[-3::2] and next(pattern, None) is None:
        raise ValueError("want day fields that some date matches")
    return expression


def _bad_field(expression: str, problem: str) -> str:
    """*problem* of cronsim, with the field that it is about and what that may hold."""
    name, fields = problem.removeprefix("bad "), expression.split()
    if name not in _CRON_FIELDS:
        is_span = len(fields) == 1 and seconds_of(expression) > 0
        return f"{problem}; did you mean interval = {expression:.40}?" if is_span else problem
    place = list(_CRON_FIELDS).index(name) - len(_CRON_FIELDS)
    if name == "day-of-month" and _is_cron(" ".join([*fields[:-2], "*", fields[-1]])):
        return f"{problem}: no month of {fields[-2]!r:.40} has a day {fields[place]!r:.40}"
    meant = ",".join(_in_order(name, part) for part in fields[place].lower().split(","))
    hint = "" if meant == fields[place].lower() else f"; did you mean {meant:.40}?"
    return f"{problem} {fields[place]!r:.40}: want {_CRON_FIELDS[name]}{hint}"


def _in_order(name: str, part: str) -> str:
    """*part*, but what passes midnight, the end of the week and so on as two ranges: `22-6` as `22-23,0-6`."""
    low, dash, high = part.partition("-")
    for values in _ROUNDS[name] if dash else ():
        words = [str(value) for value in values]
        if low in words and high in words and words.index(low) > words.index(high):
            spans = (low, words[-1]), (words[0], high)
            return ",".join(first if first == last else f"{first}-{last}" for first, last in spans)
    return part


def _is_cron(expression: str) -> bool:
    try:
        CronSim(expression, datetime(2001, 1, 1, tzinfo=UTC))
    except (CronSimError, AssertionError, ValueError, TypeError):
        return False
    return True
