"""The window in a real browser, in front of a real middleware on waitress with a SQLite store."""

import os
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from servers import wait_until
from status_site import NASTY, TASKS, TOKEN, Site, in_front, served, window

from pulse import PulseMiddleware
from pulse.model import Outcome
from pulse.runstores.sqlite import SqliteRunStore

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-extensions", "--disable-sync", "--no-first-run", "--mute-audio",
]  # fmt: skip
PATIENCE = 30_000  # milliseconds; the machine may have other work
# A page asks every three seconds whether there is something new; such a one ten times as often.
HASTY = "const every = window.setInterval; window.setInterval = (turn, pause) => every(turn, pause / 10)"


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    if not os.access(CHROMIUM, os.X_OK):
        reason = f"no {CHROMIUM} (apt install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site():
    return Site()


@pytest.fixture(scope="module")
def middleware(site, tmp_path_factory):
    store = SqliteRunStore(tmp_path_factory.mktemp("status") / "state.db")
    middleware = PulseMiddleware(
        site, task=TASKS, token=TOKEN, start="manual", run_store=store, shutdown_timeout=1, capture=4096
    )
    middleware.start()
    yield middleware
    site.release.set()
    middleware.close()
    store.close()


@pytest.fixture(scope="module")
def address(middleware):
    with served(in_front(window(middleware), middleware)) as address:
        yield f"{address}/_pulse/"


@contextmanager
def opened(context):
    """A new page; it must not have anything to complain of."""
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    yield page
    context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def cookies(chromium, address):
    """Those of a browser that is logged in."""
    context = chromium.new_context()
    with opened(context) as page:
        log_in(page, address)
        page.locator("table.tasks").wait_for()
        return context.storage_state()


@pytest.fixture
def page(chromium, address, cookies):
    """A page of a browser that is logged in."""
    with opened(chromium.new_context(storage_state=cookies)) as page:
        page.goto(address)
        page.locator("table.tasks").wait_for()
        yield page


@pytest.fixture
def plain_page(chromium, address):
    """A page of a browser that runs no scripts, logged in."""
    context = chromium.new_context(java_script_enabled=False)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    log_in(page, address)
    page.locator("table.tasks").wait_for()
    yield page
    context.close()


def log_in(page, address, token=TOKEN):
    page.goto(address)
    page.get_by_label("Token").fill(token)
    page.get_by_label("Your name").fill("mara")
    page.get_by_role("button", name="Log in").click()


def hurry(page):
    """Load the page anew, for what waits for it to ask for news twice."""
    page.add_init_script(HASTY)
    page.reload()


def is_said(page, words):
    """Wait for the page that follows a press: what comes next must not cut it off."""
    page.get_by_role("status").get_by_text(words).wait_for()


def row(page, task):
    return page.locator(f"#task-{task}")


def test_run_now_is_seen_to_run_without_loading_the_page_again(page, middleware):
    hurry(page)
    page.get_by_role("button", name="Run slow now").click()

    row(page, "slow").get_by_text("running", exact=True).wait_for()
    page.evaluate("window.mark = 'the same document'")
    page.get_by_role("button", name="Cancel slow").focus()
    middleware.app.release.set()
    row(page, "slow").get_by_text("ok", exact=True).wait_for()

    assert page.evaluate("window.mark") == "the same document"
    assert page.locator(":focus").get_attribute("aria-label") == "Run slow now"
    assert "did=" not in page.url
    assert page.get_by_role("status").inner_text() == "slow was started."


def test_a_task_that_is_paused_shows_it_and_can_be_resumed(page, middleware):
    cleanup = row(page, "cleanup")
    cleanup.get_by_label("Pause cleanup").click()
    cleanup.get_by_label("For").select_option("15 minutes")
    cleanup.get_by_label("Why").fill(NASTY)
    cleanup.get_by_role("button", name="Pause cleanup").click()
    cleanup.locator(".p-paused").wait_for()
    pause = middleware.run_store.pauses()["cleanup"]

    page.get_by_role("link", name="cleanup", exact=True).last.click()
    assert NASTY in page.locator("#paused").inner_text()
    page.get_by_role("button", name="Resume cleanup").click()
    page.get_by_role("button", name="Run cleanup now").wait_for()

    assert (pause.note, pause.by) == (NASTY, "mara")
    assert pause.until is not None
    assert pause.until > datetime.now(UTC)
    assert middleware.run_store.pauses() == {}


def test_a_pause_until_a_time_lasts_until_then_though_the_list_above_it_was_left_alone(page, middleware):
    until = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=2)
    feed = row(page, "feed")

    feed.get_by_label("Pause feed").click()
    feed.get_by_role("textbox", name="Until").fill(f"{until:%Y-%m-%dT%H:%M}")
    feed.get_by_role("button", name="Pause feed").click()
    is_said(page, "feed is paused.")

    assert middleware.run_store.pauses()["feed"].until == until
    middleware.resume("feed")


def test_markup_that_tasks_and_endpoints_write_stays_text(page, middleware):
    page.get_by_role("button", name="Run broken now").click()
    is_said(page, "broken was started.")
    wait_until(lambda: middleware.run_store.history("broken"))

    page.get_by_role("link", name="broken", exact=True).last.click()
    page.locator("#runs tbody a").first.click()

    headers, body, errors = page.locator("pre").all_inner_texts()
    assert headers == "500\nContent-Type: text/html"
    assert body == f"<h1>broken</h1>{NASTY}"
    assert errors.strip() == f"bad feed {NASTY}"
    assert "owned" not in page.title()
    assert page.locator("img").count() == 0


def test_a_run_that_failed_is_tried_again_from_its_page(page, middleware):
    failed = middleware.run_now("broken")
    page.goto(page.url.partition("/_pulse/")[0] + f"/_pulse/tasks/broken/runs/{failed.id}?attempt=1")

    page.get_by_role("button", name="Retry this run of broken").click()
    is_said(page, "broken is tried again.")

    # The page follows what becomes of it by itself.
    page.get_by_role("region", name="Attempts").get_by_text("by hand, attempt 2").wait_for()
    assert page.get_by_role("heading", level=1).inner_text().startswith("broken")
    assert middleware.run_store.find("broken", failed.id)[0].attempt == 2


def test_what_a_press_did_is_said_until_somebody_leaves_the_page_though_it_loads_itself_again(page, middleware):
    page.add_init_script(HASTY)
    page.get_by_role("link", name="feed", exact=True).first.click()
    page.get_by_role("button", name="Run feed now").click()
    is_said(page, "feed was started.")

    for change, state in ((middleware.pause, "attached"), (middleware.resume, "detached")):
        change("feed")
        page.locator("#paused").wait_for(state=state)  # a part that has come or gone: the page has been loaded again

        is_said(page, "feed was started.")
        page.wait_for_url(lambda url: "did=" not in url)

    page.reload()
    page.get_by_role("button", name="Run feed now").wait_for()
    assert page.get_by_role("status").get_by_text("feed was started.").count() == 0


def test_a_history_is_cleared_by_somebody_who_is_sure(page, middleware):
    middleware.run_now("feed")
    page.get_by_role("link", name="feed", exact=True).last.click()
    page.get_by_label("Clear the history of feed").click()
    clear = page.get_by_role("button", name="Clear history")

    clear.click()  # the browser wants the box to be ticked
    assert page.get_by_label("I am sure").evaluate("box => !box.validity.valid")
    assert middleware.run_store.history("feed")
    page.get_by_label("I am sure").check()
    clear.click()
    is_said(page, "feed has no history any more.")

    assert middleware.run_store.history("feed") == []
    assert page.get_by_text("Nothing is recorded yet.").count() == 1


def test_a_menu_that_somebody_has_open_is_left_alone(page, middleware):
    hurry(page)
    feed = row(page, "feed")
    feed.get_by_label("Pause feed").click()
    feed.get_by_label("Why").fill("half a sen")

    with page.expect_response(lambda answer: "part=live" in answer.url and answer.status == 200):
        middleware.run_now("feed")
    page.wait_for_timeout(100)
    assert feed.get_by_label("Why").input_value() == "half a sen"

    page.keyboard.press("Escape")
    assert feed.locator("details[open]").count() == 0


def test_a_page_without_an_answer_says_that_it_is_of_old_until_there_is_one(chromium, address, cookies):
    context = chromium.new_context(storage_state=cookies)
    context.set_default_timeout(PATIENCE)
    try:
        page = context.new_page()
        page.add_init_script(HASTY)
        page.goto(address)
        shown = page.locator("main.stale")
        for refuse in (lambda route: route.abort(), lambda route: route.fulfill(status=503)):
            page.route("**/*part=live*", refuse)
            shown.wait_for()
            said = page.locator("main").evaluate("main => getComputedStyle(main, '::before').content")
            page.unroute("**/*part=live*")
            shown.wait_for(state="detached")

            assert "does not answer" in said
    finally:
        context.close()


def test_nothing_new_is_answered_with_304(page):
    with page.expect_response(lambda answer: "part=live" in answer.url and answer.status == 304):
        hurry(page)


def test_every_page_can_be_used_by_keyboard_and_has_its_names(page):
    for name in ("Runs", "Workers", "Configuration", "Audit", "Tasks"):
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
        page.wait_for_url(f"**/{'' if name == 'Tasks' else name.lower()}")
        assert page.get_by_role("heading", level=1).count() == 1
        assert page.locator("[aria-current=page]").inner_text() == name

    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input:not([type=hidden]), select, a')].filter(one =>"
        " !one.textContent.trim() && !one.ariaLabel && !(one.labels && one.labels.length)).map(one => one.outerHTML)"
    )
    page.keyboard.press("Tab")
    assert unnamed == []
    assert page.locator(":focus").inner_text() == "Skip to the content"


def test_on_a_phone_nothing_has_to_be_scrolled_sideways(page, middleware):
    run = middleware.run_now("broken")
    page.set_viewport_size({"width": 360, "height": 740})
    for path in ("", "tasks/cleanup", f"tasks/broken/runs/{run.id}", "runs", "workers", "configuration", "audit"):
        page.goto(page.url.partition("/_pulse/")[0] + f"/_pulse/{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("width", [360, 768, 1024, 1100, 1280])
def test_all_buttons_and_menus_of_the_tasks_are_in_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    feed = row(page, "feed")
    feed.locator(".name a").evaluate("link => { link.textContent = 'nightly_billing_reconciliation_of_all_customers' }")

    feed.get_by_label("Pause feed").click()

    for one in (feed.get_by_role("button", name="Run feed now"), feed.locator("details[open] form")):
        box = one.bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 800])
def test_why_runs_failed_is_read_without_a_screen_for_each(page, middleware, width):
    middleware.run_now("broken")
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(page.url.partition("/_pulse/")[0] + "/_pulse/runs?task=broken")
    reason = page.locator("#runs td.reason").first

    reason.evaluate("cell => { cell.textContent = 'answered 500: could not connect to the server '.repeat(3) }")

    assert reason.bounding_box()["height"] < 200


def test_a_wrong_token_opens_nothing(chromium, address):
    context = chromium.new_context()
    try:
        page = context.new_page()
        log_in(page, address, "not-the-token-of-this-site")

        assert page.get_by_role("alert").inner_text(timeout=PATIENCE) == "That is not the token."
        page.goto(f"{address}runs")
        assert "/login" in page.url
    finally:
        context.close()


def test_everything_works_without_scripts(plain_page, middleware):
    page, feed = plain_page, row(plain_page, "feed")
    known = len(middleware.run_store.history("feed"))

    page.get_by_role("button", name="Run feed now").click()
    is_said(page, "feed was started.")
    wait_until(lambda: len(middleware.run_store.history("feed")) == known + 1)
    page.reload()
    assert feed.locator("rect.k-success").count() == known + 1
    feed.get_by_label("Pause feed").click()
    feed.get_by_role("button", name="Pause feed").click()
    is_said(page, "feed is paused.")
    assert "paused" in feed.locator(".pill").inner_text()
    feed.get_by_role("button", name="Resume feed").click()
    is_said(page, "feed runs by its schedule again.")
    page.get_by_role("link", name="Audit").click()
    page.wait_for_url("**/audit")
    assert page.locator("tbody tr").first.inner_text().split("\t")[1:4:2] == ["mara", "resume"]
    page.get_by_role("button", name="Log out mara").click()
    page.get_by_label("Token").wait_for()


def test_what_was_run_by_hand_is_recorded_as_such(page, middleware):
    known = len(middleware.run_store.history("feed"))
    page.get_by_role("button", name="Run feed now").click()
    is_said(page, "feed was started.")
    wait_until(lambda: len(middleware.run_store.history("feed")) > known)
    page.get_by_role("link", name="Runs", exact=True).click()

    page.get_by_text("by hand").first.wait_for()

    assert middleware.run_store.history("feed")[0].outcome is Outcome.SUCCESS
