import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulse.codec import dumps, loads

OFFSETS = st.timezones() | st.just(UTC) | st.just(timezone(timedelta(hours=-3, minutes=-30)))
HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary()
    | st.dates()
    | st.timedeltas()
    | st.datetimes()
    | st.uuids()
    | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
KEYS = st.text(max_size=4) | st.sampled_from(["~", "~t", "~s", "~~t", "~~~", "~d"])
VALUES = st.recursive(
    HASHABLE | st.floats(allow_nan=False) | st.sets(HASHABLE, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=15,
)


def types_of(value):
    """The types in *value*, all the way down: `True == 1`, but is not the same to a program."""
    match value:
        case dict():
            return dict, {key: types_of(item) for key, item in value.items()}
        case list() | tuple():
            return type(value), [types_of(item) for item in value]
        case _:
            return type(value)


@given(VALUES)
def test_a_value_comes_back_equal_and_of_the_same_types(value):
    back = loads(dumps(value))

    assert back == value
    assert types_of(back) == types_of(value)


@given(VALUES)
def test_what_is_written_is_json_that_can_be_sent(value):
    text = dumps(value)

    assert "\n" not in text
    text.encode()
    json.loads(text, parse_constant=pytest.fail)


@given(st.datetimes(timezones=OFFSETS))
def test_an_aware_datetime_keeps_its_instant_and_offset(value):
    back = loads(dumps(value))

    assert back.utcoffset() == value.utcoffset()
    assert back.replace(tzinfo=None) == value.replace(tzinfo=None)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_is_kept(value):
    assert loads(dumps({"limit": value})) == {"limit": value}


def test_what_is_no_number_is_kept():
    assert math.isnan(loads(dumps(math.nan)))
    assert loads(dumps(Decimal("NaN"))).is_qnan()


def test_a_decimal_keeps_its_places():
    assert str(loads(dumps(Decimal("12.50")))) == "12.50"


@pytest.mark.parametrize(
    "value", [{"~t": [1]}, {"~~t": [1]}, {"~": 1}, {"~x": {"~b": "QQ=="}}, [{"~d": "2027-01-01"}], ({"~s": {1}},)]
)
def test_a_dict_of_the_user_that_looks_like_a_tag_stays_a_dict(value):
    assert loads(dumps(value)) == value


def test_text_that_no_encoding_has_is_kept():
    value = {"name": "lone \ud800 half", "other": "grüße 🎉"}

    assert loads(dumps(value)) == value
    dumps(value).encode()


def test_equal_sets_are_written_alike():
    assert dumps({"b", "a", ("c", 1)}) == dumps({("c", 1), "a", "b"})
    assert dumps(frozenset(["b", "a"])) == dumps(frozenset(["a", "b"])) != dumps({"a", "b"})


def test_what_is_written_is_short():
    assert dumps({"a": [1, "ü"], "b": (None,)}) == '{"a":[1,"ü"],"b":{"~t":[null]}}'


def test_subclasses_come_back_as_what_they_stand_for():
    class Size(tuple):
        __slots__ = ()

    assert loads(dumps(Size([1, 2]))) == (1, 2)


@pytest.mark.parametrize("value", [object(), Fraction(1, 2), 1j, bytearray(b"x"), range(2), len, datetime.min.time()])
def test_anything_else_is_refused_with_its_place_and_type(value):
    with pytest.raises(TypeError) as refused:
        dumps({"cart": [1, value]})

    assert str(refused.value) == f"value['cart'][1] is of type {type(value).__name__}, which cannot be kept"


@pytest.mark.parametrize("key", [1, None, True, b"x", ("a",), uuid4(), Decimal(1)])
def test_a_key_that_is_not_text_is_refused(key):
    with pytest.raises(TypeError, match=r"value\['by'\] has the key .*; want text as keys"):
        dumps({"by": {key: 1}})


def test_a_value_that_holds_itself_is_refused():
    value: list = []
    value.append(value)

    with pytest.raises(ValueError, match="holds itself"):
        dumps(value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "nonsense", "NaN", "Infinity", '{"~y":1}', '{"~z":1}', '{"~d":5}', '{"~d":"soon"}', '{"~b":"*"}', '{"~t":1}',
     '{"~s":[[1]]}', '{"~z":[[1]]}', '{"~u":5}', '{"~u":"x"}', '{"~n":"x"}', '{"~n":[1]}',
     '{"~i":["x"]}', '{"~i":[1e300]}', '{"~f":"x"}', "[" * 200_000],
)  # fmt: skip
def test_text_that_was_not_written_here_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the texts of the standard library vary
        loads(text)


def test_dates_and_datetimes_are_told_apart():
    assert type(loads(dumps(date(2027, 1, 2)))) is date
    assert loads(dumps(datetime(2027, 1, 2))) == datetime(2027, 1, 2)
