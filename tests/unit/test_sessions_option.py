import re

import pytest

from pulse.errors import ConfigError
from pulse.option import options_of
from pulse.sessions import CookieSessionStore, InMemorySessionStore, StateSessionStore, session_filter_app_factory
from pulse.sessions.option import SessionOptions, read_session_options
from pulse.state.redis import RedisSessionStore

TOKEN = "0123456789abcdef"


def app(environ, start_response):
    start_response("200 OK", [])
    return [b""]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("store", "sqlite:x", "want memory:, cookie:, redis://host"),
        ("secret", "short", "want at least 16"),
        ("secret", "env:PULSE_NOT_SET", "want a token in the environment variable PULSE_NOT_SET, which is not set"),
        ("old_secrets", "short 0123456789abcdef", "want at least 16"),
        ("ttl", "5 minutes", "want 1s to 3650d"),
        ("ttl", "0", "want 1s to 3650d"),
        ("max_sessions", "many", "want a whole number"),
        ("key", "session", "want a key with a dot"),
        ("cookie_name", "a b", "want a cookie's name"),
        ("cookie_path", "app", "want a path that begins with a slash"),
        ("cookie_domain", "example.org:80", "without a port"),
        ("cookie_secure", "ture", "want auto, true or false"),
        ("cookie_http_only", "ture", "want true or false"),
        ("cookie_same_site", "lox", "want lax, strict or none"),
        ("cookie_same_site", "none", "want cookie_secure = true with it"),
        ("cookie_max_age", "-1", "want 1s to 400d"),
        ("cleanup", "sessions", "want a path that begins with a slash"),
        ("cleanup", "/", "want a path of its own"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_with_key_value_and_remedy(name, value, wanted):
    shown = "***" if "secret" in name else repr(value)

    with pytest.raises(ConfigError, match=f"^{name} = {re.escape(shown)}: .*{re.escape(wanted)}"):
        session_filter_app_factory(app, {}, **{name: value})


def test_what_browsers_refuse_for_the_name_of_a_cookie_is_refused_with_all_its_faults():
    with pytest.raises(ConfigError) as refused:
        SessionOptions(cookie_name="__Host-sid", cookie_secure="no", cookie_domain="example.org", cookie_path="/app")

    assert [fault.key for fault in refused.value.faults] == ["cookie_secure", "cookie_domain", "cookie_path"]
    assert SessionOptions(cookie_name="__Host-sid").cookie_secure == "auto"


def test_an_unknown_option_is_refused_with_the_nearest_right_name():
    with pytest.raises(ConfigError, match=r"^cookie_nam = 'a': unknown option; did you mean 'cookie_name'\?"):
        session_filter_app_factory(app, {}, cookie_nam="a")


def test_a_misspelt_secret_is_not_shown():
    with pytest.raises(ConfigError, match=r"^secrt = \*\*\*|^secret_ = \*\*\*") as caught:
        session_filter_app_factory(app, {}, secret_="hush")
    assert "hush" not in str(caught.value)


def test_all_faults_are_said_at_once_with_file_and_section(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "production.ini").write_text("[filter:sessions]\nttl = soon\nclean = /x\n")

    with pytest.raises(ConfigError) as caught:
        session_filter_app_factory(app, {"__file__": str(tmp_path / "production.ini")}, ttl="soon", clean="/x")

    assert sorted(line.strip().partition(":")[0] for line in str(caught.value).splitlines()[1:]) == [
        "production.ini [filter",
        "production.ini [filter",
    ]


@pytest.mark.parametrize("name", ["secret", "old_secrets"])
def test_a_secret_without_signed_cookies_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} = .*want it with store = cookie:"):
        read_session_options({"store": "memory:", name: TOKEN})


def test_keys_of_default_are_meant_for_others():
    made = session_filter_app_factory(app, {"here": "/", "debug": "true", "ttl": "1"}, secret=TOKEN)

    assert made.options.ttl.days == 14


def test_addresses_lead_to_stores():
    signed = session_filter_app_factory(app, {}, secret=TOKEN, old_secrets=f"{TOKEN}1 {TOKEN}2", ttl="1h").store
    memory = session_filter_app_factory(app, {}, store="memory:", max_sessions="5").store
    redis = session_filter_app_factory(app, {}, store="redis://127.0.0.1:1/0", prefix="mine").store

    assert isinstance(signed, CookieSessionStore)
    assert signed.max_age == 3600
    assert signed.decode(CookieSessionStore(f"{TOKEN}1").encode("sid", {})) == ("sid", {})
    assert isinstance(memory, InMemorySessionStore)
    assert isinstance(redis, StateSessionStore)
    assert isinstance(redis.store, RedisSessionStore)


def test_a_secret_is_read_from_the_environment_or_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_SECRET", TOKEN)
    (tmp_path / "secret").write_text(TOKEN + "\n")
    cookie = CookieSessionStore(TOKEN).encode("sid", {})

    for written in ("env:MY_SECRET", f"file:{tmp_path}/secret"):
        assert session_filter_app_factory(app, {}, secret=written).store.decode(cookie) == ("sid", {})


def test_the_address_of_the_store_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_SESSIONS", "redis://:s3cret@there/1")

    assert read_session_options({"store": "env:MY_SESSIONS"}).store == "redis://:s3cret@there/1"


def test_every_option_says_what_it_means():
    for option in options_of(SessionOptions).values():
        assert option.sentence.endswith(".")
        assert option.unit


def test_options_show_no_secret():
    assert TOKEN not in repr(read_session_options({"secret": TOKEN, "old_secrets": TOKEN}))
