from datetime import timedelta

import pytest

from pulse.sessions.header import CookieForm, cookie_values


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("", []),
        ("sid", []),
        ("sid=", []),
        ('sid=""', []),
        ("sid=a", ["a"]),
        (' sid = "a" ', ["a"]),
        ("a=1;b;sid=x;c=3", ["x"]),
        ("a=1; b[x]=2; sid=x", ["x"]),
        ("sid=a; sid=b", ["a", "b"]),
        ("mysid=a; sidx=b; x=sid=c", []),
        ("sid=a=b==", ["a=b=="]),
        ("\tsid=a ;sid\t=b", ["a", "b"]),
        ("\x85sid=a; sid\xa0=b; \x1fsid=c; sid=\xa0d", []),
        ("sid=\xfc; sid=a\x00b; sid=a b; sid=a,b; sid=ok", ["ok"]),
    ],
)
def test_the_values_of_a_cookie_are_found_and_odd_ones_passed_over(header, values):
    assert list(cookie_values(header, "sid")) == values


def test_a_cookie_is_forgotten_with_the_attributes_that_it_was_set_with():
    form = CookieForm(name="sid", path="/app", domain="example.org", max_age=60)

    assert form.set_cookie("", is_https=True) == (
        "sid=; Domain=example.org; HttpOnly; Path=/app; SameSite=Lax; Secure; "
        "Max-Age=0; expires=Thu, 01 Jan 1970 00:00:00 GMT"
    )


@pytest.mark.parametrize("age", [0, -1, 0.5, timedelta(0), float("nan"), float("inf"), True, "60"])
def test_an_age_at_which_browsers_drop_the_cookie_at_once_is_refused(age):
    with pytest.raises(ValueError, match=r"^max_age = .*: want 1 second or more"):
        CookieForm(name="sid", max_age=age)


@pytest.mark.parametrize("expires", ["2030-01-01", 0, timedelta(days=1)])
def test_an_end_that_is_no_instant_is_refused(expires):
    with pytest.raises(ValueError, match=r"^expires = .*: want a datetime"):
        CookieForm(name="sid", expires=expires)


@pytest.mark.parametrize("path", ["", "app", b"app/"])
def test_a_path_that_browsers_would_replace_is_refused(path):
    with pytest.raises(ValueError, match=r"^path = .*: want it to begin with a slash"):
        CookieForm(name="sid", path=path)


def test_attributes_may_be_left_out():
    assert CookieForm(name="sid", path=None, http_only=False, same_site=None).set_cookie("a", is_https=False) == "sid=a"


@pytest.mark.parametrize("name", ["__Host-sid", "__Secure-sid", "__host-sid"])
def test_a_name_that_wants_https_is_always_sent_with_it(name):
    assert CookieForm(name=name).set_cookie("a", is_https=False).endswith("; Secure")
    assert "; Secure" in CookieForm(name=name).set_cookie("", is_https=False)


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("__Host-sid", "secure", False),
        ("__Host-sid", "domain", "example.org"),
        ("__Host-sid", "path", "/app"),
        ("__hOST-sid", "path", None),
        ("__Secure-sid", "secure", False),
    ],
)
def test_what_browsers_refuse_for_the_name_of_a_cookie_is_refused_here(name, attribute, value):
    with pytest.raises(ValueError, match=f"^{attribute} = .*{name}.*browsers drop"):
        CookieForm(name=name, **{attribute: value})


def test_other_attributes_are_free_for_a_name_that_wants_https_alone():
    assert CookieForm(name="__Secure-sid", domain="example.org", path="/app").set_cookie("a", is_https=True)
