import hashlib
import logging
import pickle
import string
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import Signer, URLSafeTimedSerializer
from itsdangerous.encoding import base64_encode

from pulse import codec
from pulse.sessions import CookieSessionStore, SessionTooLarge
from pulse.sessions.cookie import _packed
from pulse.testing import ManualClock

COOKIE_SAFE = set(string.ascii_letters + string.digits + "-_.")


@pytest.fixture
def store():
    return CookieSessionStore(secret="a secret")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("PULSE_SECRET", "PULSE_ENV", "PULSE_DEPLOY_MODE", "PULSE_DEPLOY__STATE_BACKEND"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"nested": {"list": [1, 2.5, None, True, {"deep": "er"}]}},
        {"ünïcödé": "☃ \U0001f600 \x00 \ud800"},
        {"when": datetime(2027, 3, 28, 2, 30, tzinfo=UTC), "day": date(2027, 3, 28), "span": timedelta(hours=1)},
        {"bytes": b"\x00\xff", "set": {1, 2}, "tuple": (1, (2, 3))},
        {"long": "abc" * 1000},
    ],
    ids=lambda data: next(iter(data), "empty"),
)
def test_what_is_encoded_is_decoded(store, data):
    cookie = store.encode("sid", data)

    assert store.decode(cookie) == ("sid", data)
    assert set(cookie) <= COOKIE_SAFE
    assert len(cookie) <= 3800


def test_encoding_leaves_the_session_as_it_is(store):
    data = {"list": [1], "when": datetime(2027, 1, 1)}

    store.encode("sid", data)

    assert data == {"list": [1], "when": datetime(2027, 1, 1)}


def test_every_change_of_a_character_is_refused(store):
    cookie = store.encode("sid", {"user": "anna", "n": 1})
    letters = string.printable + "é\x00"

    changed = [cookie[:at] + letter + cookie[at + 1 :] for at in range(len(cookie)) for letter in letters]
    inserted = [cookie[:at] + letter + cookie[at:] for at in range(len(cookie) + 1) for letter in letters]
    cut = [cookie[:at] for at in range(len(cookie))]

    accepted = [text for text in (*changed, *inserted, *cut) if text != cookie and store.decode(text) is not None]
    assert accepted == []


@given(st.text())
def test_junk_is_none_and_no_error(junk):
    assert CookieSessionStore("a secret").decode(junk) is None


@pytest.mark.parametrize("junk", ["", ".", "..", "...", ".a.b.c", "a.b", "\ud800.a.b", None, b"bytes", 7, "a" * 10**6])
def test_what_is_no_cookie_is_none(store, junk):
    assert store.decode(junk) is None


@pytest.mark.parametrize(
    "other",
    [
        CookieSessionStore("another secret"),
        CookieSessionStore("a secret", salt="other"),
        CookieSessionStore("a secret", digestmod="sha512"),
        CookieSessionStore("a secret\x00"),
    ],
    ids=["secret", "salt", "digest", "zero byte"],
)
def test_cookies_of_other_settings_are_refused(store, other):
    assert store.decode(other.encode("sid", {})) is None
    assert other.decode(store.encode("sid", {})) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a|b", "c"), ("a", "b|c")), (("ab", "c"), ("a", "bc")), (("c", "asignerb"), ("bsignerc", "a"))],
)
def test_a_secret_and_a_salt_cannot_borrow_letters_from_each_other(one, other):
    first = CookieSessionStore(one[0], salt=one[1])
    second = CookieSessionStore(other[0], salt=other[1])

    assert second.decode(first.encode("sid", {})) is None


def test_a_session_that_does_not_fit_is_refused_and_kept_as_it_is(store):
    data = {"text": hashlib.shake_256(b"").hexdigest(4000)}
    before = dict(data)

    with pytest.raises(SessionTooLarge) as caught:
        store.encode("sid", data)

    assert data == before
    assert isinstance(caught.value, ValueError)
    assert caught.value.limit == 3800
    assert caught.value.size > 3800
    assert str(caught.value.size) in str(caught.value)


def test_even_an_empty_session_may_be_too_large():
    with pytest.raises(SessionTooLarge):
        CookieSessionStore("s", max_cookie_bytes=1).encode("sid", {})


def test_a_session_that_just_fits_is_kept(store):
    size = len(store.encode("sid", {"a": 1}))

    assert CookieSessionStore("s", max_cookie_bytes=size).encode("sid", {"a": 1})
    with pytest.raises(SessionTooLarge):
        CookieSessionStore("s", max_cookie_bytes=size - 1).encode("sid", {"a": 1})


def itself() -> dict:
    data: dict = {}
    data["me"] = data
    return data


@pytest.mark.parametrize("data", [{"o": object()}, {"f": print}, {1: "a"}, itself()], ids=["o", "f", "key", "itself"])
def test_what_cannot_be_kept_is_an_error_and_the_session_stays(store, data):
    before = list(data)

    with pytest.raises((TypeError, ValueError)):
        store.encode("sid", data)

    assert list(data) == before


@pytest.mark.parametrize(("sid", "data"), [("sid", [1]), ("sid", None), (None, {}), (7, {})])
def test_only_text_and_a_dict_are_encoded(store, sid, data):
    with pytest.raises(TypeError, match="want an id that is text and a dict"):
        store.encode(sid, data)


@pytest.mark.parametrize("payload", [None, 1, "text", {}, [], ["sid"], [1, {}], ["sid", []], ["sid", {}, 1]])
def test_a_well_signed_cookie_of_another_shape_is_none(store, payload):
    cookie = store._signer.sign(_packed(payload)).decode()

    assert store.decode(cookie) is None


@pytest.mark.parametrize(
    "packed",
    [b"{no json", b'["sid", {"~d": "no date"}]', b"\xff", b"", b".", b".bm8gemxpYg", b"a", b"." + b"x" * 1000],
)
def test_a_well_signed_cookie_of_another_writer_is_none(store, packed):
    for value in (packed, base64_encode(packed)):
        assert store.decode(store._signer.sign(value).decode("latin-1")) is None


def test_a_cookie_whose_date_is_none_is_none(store):
    signer = Signer(store._signer.secret_keys, key_derivation="none", digest_method="sha256")
    packed = _packed(["sid", {}])

    for stamp in (b"_" * 11, b"_" * 40):
        assert store.decode(signer.sign(packed + b"." + stamp).decode()) is None


@pytest.mark.parametrize("empty", [None, "", b"", "  ", b" \t", "\n"])
def test_the_secret_is_that_of_the_environment_when_none_is_given(monkeypatch, empty):
    monkeypatch.setenv("PULSE_SECRET", "from the environment")

    store = CookieSessionStore(empty)
    monkeypatch.setenv("PULSE_SECRET", "changed later")

    assert CookieSessionStore("from the environment").decode(store.encode("sid", {})) == ("sid", {})


@pytest.mark.parametrize("wrong", [5, 0, False, ["a secret"], object()])
def test_a_secret_is_a_text(wrong):
    with pytest.raises(TypeError, match=rf"^secret: want text or bytes, not {type(wrong).__name__}$"):
        CookieSessionStore(wrong)


def test_a_secret_of_blanks_in_the_environment_is_none(monkeypatch):
    monkeypatch.setenv("PULSE_SECRET", "  ")
    monkeypatch.setenv("PULSE_ENV", "production")

    for secret in (None, " "):
        with pytest.raises(RuntimeError, match="PULSE_SECRET"):
            CookieSessionStore(secret)


def test_a_store_pickles_and_its_copy_reads_the_same_cookies(store):
    copied = pickle.loads(pickle.dumps(store))

    assert copied.decode(store.encode("sid", {"a": 1})) == ("sid", {"a": 1})
    assert store.decode(copied.encode("sid", {"a": 1})) == ("sid", {"a": 1})


def test_a_given_secret_wins(monkeypatch):
    monkeypatch.setenv("PULSE_SECRET", "from the environment")

    store = CookieSessionStore("given")

    assert CookieSessionStore("given").decode(store.encode("sid", {})) == ("sid", {})
    assert CookieSessionStore().decode(store.encode("sid", {})) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PULSE_ENV", "prod"),
        ("PULSE_ENV", "production"),
        ("PULSE_ENV", " Production "),
        ("PULSE_DEPLOY_MODE", "1"),
        ("PULSE_DEPLOY__STATE_BACKEND", "redis"),
    ],
)
@pytest.mark.parametrize("secret", [None, ""])
def test_production_wants_a_secret(monkeypatch, name, value, secret):
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("PULSE_SECRET", "")

    with pytest.raises(RuntimeError, match="PULSE_SECRET"):
        CookieSessionStore(secret)
    assert CookieSessionStore("given").decode("") is None


def test_while_developing_a_random_secret_is_used_and_said(monkeypatch, caplog):
    monkeypatch.setenv("PULSE_ENV", "dev")

    with caplog.at_level(logging.WARNING):
        store, sibling = CookieSessionStore(), CookieSessionStore()

    assert [record.pulse_event for record in caplog.records] == ["random_secret"] * 2
    assert sibling.decode(store.encode("sid", {"a": 1})) == ("sid", {"a": 1})
    assert CookieSessionStore("another").decode(store.encode("sid", {})) is None


@pytest.mark.parametrize("digest", ["sha257", "", None, 7, "shake_128"])
def test_an_unknown_digest_is_refused(digest):
    with pytest.raises(ValueError, match="digestmod"):
        CookieSessionStore("s", digestmod=digest)


@pytest.mark.parametrize("digest", ["sha1", "sha512", "blake2b"])
def test_other_digests_sign_too(digest):
    store = CookieSessionStore("s", digestmod=digest)

    assert store.decode(store.encode("sid", {"a": 1})) == ("sid", {"a": 1})


@pytest.mark.parametrize("size", [0, -1, True, None, 2.5])
def test_a_limit_below_one_is_refused(size):
    with pytest.raises(ValueError, match="max_cookie_bytes"):
        CookieSessionStore("s", max_cookie_bytes=size)


def test_the_secret_is_in_no_representation():
    store = CookieSessionStore("hush-hush", old_secrets=["hushed"])

    assert "hush" not in repr(store) + str(store) + repr(vars(store))


def test_a_cookie_ends_with_its_max_age():
    clock = ManualClock()
    store = CookieSessionStore("s", max_age=timedelta(minutes=1), clock=clock)
    cookie = store.encode("sid", {})

    clock.advance(60)
    assert store.decode(cookie) == ("sid", {})
    clock.advance(1)
    assert store.decode(cookie) is None
    assert CookieSessionStore("s", clock=clock).decode(cookie) == ("sid", {})


def test_the_clocks_of_two_hosts_may_differ_a_little():
    clock, ahead = ManualClock(), ManualClock()
    ahead.advance(50)
    store = CookieSessionStore("s", max_age=600, clock=clock)

    assert store.decode(CookieSessionStore("s", clock=ahead).encode("sid", {})) == ("sid", {})
    ahead.advance(50)
    assert store.decode(CookieSessionStore("s", clock=ahead).encode("sid", {})) is None


@pytest.mark.parametrize("age", [0, -1, float("nan"), float("inf"), True, "1h"])
def test_an_age_that_is_none_is_refused(age):
    with pytest.raises(ValueError, match="max_age"):
        CookieSessionStore("s", max_age=age)


def test_a_secret_is_changed_while_the_old_one_is_still_read():
    before = CookieSessionStore("old")
    between = CookieSessionStore("new", old_secrets=["old"])
    after = CookieSessionStore("new")

    assert between.decode(before.encode("sid", {"a": 1})) == ("sid", {"a": 1})
    assert after.decode(between.encode("sid", {"a": 1})) == ("sid", {"a": 1})
    assert after.decode(before.encode("sid", {})) is None


@pytest.mark.parametrize("old", ["", [""], [None], [7], [" "], 7])
def test_an_old_secret_is_a_text(old):
    if old == "":
        with pytest.raises(ValueError, match="old_secrets"):
            CookieSessionStore("s", old_secrets=[old])
    else:
        with pytest.raises(ValueError, match="old_secrets"):
            CookieSessionStore("s", old_secrets=old)


def test_one_old_secret_is_not_taken_for_its_letters():
    store = CookieSessionStore("new", old_secrets="old")

    assert store.decode(CookieSessionStore("old").encode("sid", {})) == ("sid", {})
    assert store.decode(CookieSessionStore("o").encode("sid", {})) is None


def test_the_cookie_of_plain_itsdangerous_with_the_same_secret_is_refused(store):
    foreign = URLSafeTimedSerializer("a secret", salt="pulse.session", serializer=codec).dumps(["sid", {}])

    assert store.decode(foreign) is None
