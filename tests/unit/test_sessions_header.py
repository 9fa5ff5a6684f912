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


def test_attributes_may_be_left_out():
    assert CookieForm(name="sid", path=None, http_only=False, same_site=None).set_cookie("a", is_https=False) == "sid=a"
