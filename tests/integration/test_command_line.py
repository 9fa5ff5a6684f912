"""The command `pulse` as a process, and everything of it that runs a task."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest
from servers import program, wait_until
from stories import Stories

from pulse.cli import main
from pulse.commands import reach
from pulse.runstores.sqlite import SqliteRunStore

# Block-buffered, as the output of a service is: what is not flushed is not there.
BUFFERED = {"PYTHONUNBUFFERED": "", "PYTHONPATH": ""}
story = Stories()

APPLICATION = """
    import sys, threading, time
    from pathlib import Path
    from wsgiref.simple_server import make_server

    NOTES = Path(__file__).with_name("notes.txt")

    def note(text):
        with NOTES.open("a") as file:
            file.write(text + "\\n")

    def application(environ, start_response):
        name = environ["PATH_INFO"].rpartition("/")[2]
        note("begun " + name)
        answer = getattr(sys.modules[__name__], name, tidy)
        body = answer(environ, start_response)
        note("ended " + name)
        return body

    def tidy(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return ["täglich\\r\\n".encode()]

    def slow(environ, start_response):
        time.sleep(float(environ["QUERY_STRING"] or 2))
        return tidy(environ, start_response)

    def chunks(environ, start_response):
        tidy(environ, start_response)
        return (time.sleep(0.05) or b"x" for _ in range(1200))

    def fails(environ, start_response):
        environ["wsgi.errors"].write("on my way\\n")
        raise ValueError("no such \\x1b[31m luck")

    def refuses(environ, start_response):
        start_response("503 Service Unavailable", [])
        return [b"later"]

    def binary(environ, start_response):
        start_response("200 OK", [])
        return [b"\\xff\\x00\\xfe"]

    def large(environ, start_response):
        start_response("200 OK", [])
        return ["ä".encode() * 4000 + b"end"]

    def chatty(environ, start_response):
        print("I print what I like")
        return tidy(environ, start_response)

    def deaf_server(global_conf, host, port):
        def serve(app):
            note("deaf")
            try:
                time.sleep(60)
            except SystemExit:
                time.sleep(60)
        return serve

    def make(global_conf):
        print("I print while I am built")
        return application

    def own_server(global_conf, host, port):
        def serve(app):
            make_server(host, int(port), app).serve_forever()
        return serve
    """

INI = """
    [pipeline:main]
    pipeline = pulse application

    [filter:pulse]
    use = egg:pulse
    pulse.config.context = tasks
    pulse.config.guard = true
    pulse.config.default.cron = @manually
    {lines}

    [app:application]
    paste.app_factory = some_application:make
    """


class Place:
    """A folder with an application, and with an ini file that `write` makes."""

    def __init__(self, folder):
        self._folder = folder

    def write(self, *lines, more=""):
        """The Pulse filter has these lines."""
        self._folder.joinpath("some_application.py").write_text(dedent(APPLICATION))
        text = INI.format(lines="\n    ".join(lines)) + more
        self._folder.joinpath("development.ini").write_text(dedent(text))

    def notes(self):
        path = self._folder / "notes.txt"
        return path.read_text().splitlines() if path.exists() else []

    def serve(self, *arguments, port=("--port", "0")):
        """A running `pulse serve`; on a free port, if it is not told another one."""
        return program("-m", "pulse", "serve", *arguments, *port, env=BUFFERED, cwd=self._folder)


@pytest.fixture
def write(tmp_path):
    """An application, and an ini file in which its Pulse filter has these lines."""
    return Place(tmp_path).write


@pytest.fixture
def notes(tmp_path):
    return Place(tmp_path).notes


# pulse serve


@story
def an_application_is_served_and_its_tasks_run_without_any_request(folder):
    place = Place(folder)
    place.write("pulse.task.tidy.interval = 0.25")

    with place.serve() as server:
        wait_until(lambda: place.notes().count("begun tidy") >= 2)
        address = f"http://127.0.0.1:{server.port}"
        answers = [server.get("/page"), server.get("/tasks/tidy")[0]]
        code = server.terminate()

        assert answers == [(200, "täglich\r\n".encode()), 404]
        assert code == 0
        banner = rf"^Pulse \S+ · development\.ini#main · {address}\n1 task, guard on$"
        assert re.search(banner, server.output, re.MULTILINE)
        assert re.search(r"^\S+ \S+ INFO pulse\.runlog task=tidy .*outcome=success", server.output, re.MULTILINE)


@story
def a_signal_lets_a_running_task_end_while_nobody_is_served_any_more(folder):
    place = Place(folder)
    place.write("pulse.task.slow.interval = 0.1", "pulse.task.slow.action = slow?7.5")

    with place.serve() as server:
        wait_until(lambda: "begun slow" in place.notes())
        port = server.port
        server.signal(signal.SIGTERM)
        wait_until(lambda: is_refused(port))
        ended_by_then = "ended slow" in place.notes()
        code = server.wait()

        assert (code, ended_by_then) == (0, False)
        assert place.notes() == ["begun slow", "ended slow"]
        assert "outcome=success" in server.output


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@story
def a_task_that_does_not_end_is_cut_after_the_shutdown_timeout(folder):
    place = Place(folder)
    place.write(
        "pulse.config.shutdown_timeout = 0.2s", "pulse.task.slow.interval = 0.1", "pulse.task.slow.action = slow?60"
    )

    with place.serve() as server:
        wait_until(lambda: "begun slow" in place.notes())
        code = server.terminate(20)

        assert code == 0
        assert "outcome=abandoned" in server.output


@story
def a_second_signal_ends_at_once(folder):
    place = Place(folder)
    place.write("pulse.task.slow.interval = 0.1", "pulse.task.slow.action = slow?60")

    with place.serve() as server:
        wait_until(lambda: "begun slow" in place.notes())
        server.signal(signal.SIGTERM)
        wait_until(lambda: "a second signal" in server.output)
        server.signal(signal.SIGTERM)
        code = server.wait(20)

        assert code == -signal.SIGTERM


@story
def an_interrupt_is_an_orderly_end_too_whatever_serves(folder):
    place = Place(folder)
    free_port = find_free_port()
    more = (
        f"\n[server:main]\npaste.server_factory = some_application:own_server\nhost = 127.0.0.1\nport = {free_port}\n"
    )
    place.write("pulse.task.tidy.interval = 0.1", more=more)

    with place.serve("development.ini", port=()) as server:
        wait_until(lambda: "ended tidy" in place.notes())
        server.signal(signal.SIGINT)
        code = server.wait()

        assert code == 0
        assert "Traceback" not in server.output


@story
def a_request_that_is_under_way_is_answered(folder):
    place = Place(folder)
    place.write("pulse.task.tidy.cron = @daily")

    with place.serve() as server:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        client.sendall(b"GET /slow?1 HTTP/1.0\r\n\r\n")
        wait_until(lambda: "begun slow" in place.notes())
        code = server.terminate()
        with client:
            answer = client.makefile("rb").read()

        assert code == 0
        assert answer.endswith("täglich\r\n".encode())


@story.each(
    with_host_and_port="use = egg:waitress#main\nhost = 127.0.0.1\nport = 1",
    with_listen="use = egg:waitress#main\nlisten = 127.0.0.1:1",
)
def the_address_of_the_file_gives_way_to_that_of_the_command(folder, settings):
    place = Place(folder)
    place.write("pulse.task.tidy.interval = 300", more=f"\n[server:main]\n{settings}\n")

    with place.serve("development.ini") as server:
        answer = server.get("/page")

        assert answer[0] == 200


def find_free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@story.each(
    of_a_library="[server:main]\nuse = egg:waitress#main\nlisten = 127.0.0.1:{port}\nthreads = 2",
    of_its_own="[server:main]\npaste.server_factory = some_application:own_server\nhost = 127.0.0.1\nport = {port}",
)
def the_server_of_the_file_serves_and_stops_in_order(folder, server_section):
    place = Place(folder)
    free_port = find_free_port()
    more = dedent(f"\n{server_section.format(port=free_port)}\n")
    place.write("pulse.task.slow.interval = 0.1", "pulse.task.slow.action = slow?1.5", more=more)

    with place.serve("development.ini", port=()) as server:
        wait_until(lambda: "begun slow" in place.notes())
        answer = server.get("/page")
        code = server.terminate()

        assert server.port == free_port
        assert (answer[0], code) == (200, 0)
        assert place.notes().count("begun slow") == place.notes().count("ended slow")


@story
def a_server_that_swallows_the_signal_is_told_again(folder):
    place = Place(folder)
    server_section = "paste.server_factory = some_application:deaf_server\nhost = here\nport = 1"
    place.write("pulse.task.tidy.interval = 300", more=f"\n[server:main]\n{server_section}\n")

    with place.serve("development.ini", port=()) as server:
        wait_until(lambda: "deaf" in place.notes())
        code = server.terminate()

        assert code == 0


@story
def the_server_may_have_the_name_of_the_application(folder):
    place = Place(folder)
    free_port = find_free_port()
    more = f"""
        [pipeline:other]
        pipeline = application
        [server:main]
        use = egg:nowhere
        [server:other]
        use = egg:waitress#main
        listen = 127.0.0.1:{free_port}
        """
    place.write("pulse.task.tidy.interval = 300", more=dedent(more))

    with place.serve("development.ini#other", port=()) as server:
        answer = server.get("/tasks/tidy")

        assert (server.port, answer[0]) == (free_port, 200)
        assert "there is no Pulse filter in it: nothing is scheduled" in server.output


@story
def logging_is_configured_by_the_file(folder):
    place = Place(folder)
    more = """
        [loggers]
        keys = root
        [handlers]
        keys = file
        [formatters]
        keys = plain
        [logger_root]
        level = INFO
        handlers = file
        [handler_file]
        class = FileHandler
        args = (r"%(here)s/pulse.log",)
        formatter = plain
        [formatter_plain]
        format = <%(name)s> %(message)s
        """
    place.write("pulse.task.tidy.interval = 0.25", more=dedent(more))

    with place.serve() as server:
        log = folder / "pulse.log"
        wait_until(lambda: log.exists() and "<pulse.runlog> task=tidy" in log.read_text())
        server.terminate()

        assert "task=tidy" not in server.output


@story
def an_object_is_served(folder):
    place = Place(folder)
    place.write()
    folder.joinpath("site_module.py").write_text(
        dedent("""
            import some_application
            from pulse import PulseMiddleware
            app = PulseMiddleware(some_application.application, task={"tidy": {"interval": 0.25}})
            """)
    )

    with place.serve("site_module:app") as server:
        answer = server.get("/page")
        code = server.terminate()

        assert (answer[0], code) == (200, 0)
        assert "· site_module:app ·" in server.output
        assert "1 task, guard off" in server.output


@story
def a_port_that_is_taken_is_an_error(folder):
    place = Place(folder)
    place.write("pulse.task.tidy.interval = 300")

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with place.serve(port=("--port", str(other.getsockname()[1]))) as server:
            code = server.wait()

            assert code == 2
            assert "Address already in use" in server.output
            assert "Traceback" not in server.output


@story
def nothing_is_served_with_a_faulty_configuration(folder):
    place = Place(folder)
    place.write("pulse.config.gaurd = true")

    with place.serve() as server:
        code = server.wait()

        assert code == 2
        assert "did you mean 'pulse.config.guard'?" in server.output
        assert "Traceback" not in server.output


@pytest.fixture(scope="module")
def told(request, tmp_path_factory):
    with story.told(request, tmp_path_factory) as told:
        yield told


@pytest.mark.parametrize("name", story)
def test_what_is_served(told, name):
    told(name)


# pulse run


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def pulse(capsys, monkeypatch, tmp_path):
    """A command in this process, in the folder of the application."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("PULSE_CONFIG", raising=False)
    monkeypatch.delenv("PULSE_START", raising=False)

    def pulse(*argv):
        return Done(main(argv), *capsys.readouterr())

    yield pulse
    for module in ("some_application", "some_site"):
        sys.modules.pop(module, None)


def shape(text: str) -> str:
    """*text* without the duration, which is never the same."""
    return re.sub(r"in [0-9.]+ s", "in ? s", text.replace("I print while I am built\n", ""))


def test_a_task_that_is_run_by_hand_shows_its_request_its_answer_and_its_outcome(write, pulse):
    write("pulse.task.tidy.action = tidy?all=1", "pulse.task.tidy.method = POST")

    done = pulse("run", "tidy")

    assert done.code == 0
    assert shape(done.out) == "tidy POST /tasks/tidy?all=1\n--- body\ntäglich\n---\nsuccess 200 in ? s\n"
    assert done.err == ""


def test_what_an_endpoint_raises_is_shown_with_what_it_said(write, pulse):
    write("pulse.task.fails.description = it does")

    done = pulse("run", "fails")

    assert done.code == 1
    assert done.out.count("Traceback") == 1
    assert "--- wsgi.errors\non my way\nTraceback" in done.out
    assert done.out.endswith(" s: ValueError: no such \\x1b[31m luck\n")
    assert done.err == ""


@pytest.mark.parametrize(
    ("task", "code", "last"),
    [
        ("refuses", 1, "failed 503 in ? s"),
        ("slow", 124, "timeout in ? s: it did not come back by its deadline"),
        ("chunks", 124, "timeout 200 in ? s: cut after 0.2 s, "),
    ],
)
def test_the_outcome_is_the_exit_code(write, pulse, task, code, last):
    write(f"pulse.task.{task}.timeout = 0.2")

    done = pulse("run", task)

    assert done.code == code
    assert shape(done.out).splitlines()[-1].startswith(last)


def test_a_body_that_is_no_text_is_not_shown(write, pulse):
    write("pulse.task.binary.action = binary")

    assert "--- body\n(3 bytes that are no text)\n" in pulse("run", "binary").out


def test_a_large_body_is_cut_and_says_so(write, pulse):
    write("pulse.task.large.action = large", "pulse.config.capture = 99")

    assert f"--- body, the first 99 bytes\n{'ä' * 49}\n---\n" in pulse("run", "large").out


def test_a_disabled_task_can_be_run_by_hand(write, pulse):
    write("pulse.task.tidy.enabled = false")

    assert pulse("run", "tidy").code == 0


def test_nothing_else_runs_while_a_task_is_run_by_hand(write, pulse, notes):
    write("pulse.config.start = now", "pulse.task.tidy.interval = 0.1", "pulse.task.slow.action = slow?1")

    assert pulse("run", "slow").code == 0
    assert notes() == ["begun slow", "ended slow"]


def test_a_task_that_is_running_is_not_run_again(write, pulse, tmp_path):
    write()
    tmp_path.joinpath("some_site.py").write_text(
        dedent("""
            import threading
            from pulse import PulseMiddleware

            begun, end = threading.Event(), threading.Event()

            def endpoint(environ, start_response):
                begun.set()
                end.wait(60)
                start_response("200 OK", [])
                return []

            app = PulseMiddleware(endpoint, task={"hold": {"cron": "@manually"}})
            first = threading.Thread(target=app.run_now, args=["hold"])
            first.start()
            begun.wait(60)
            """)
    )

    done = pulse("run", "some_site:app", "hold")
    site = sys.modules["some_site"]
    site.end.set()
    site.first.join()

    assert (done.code, done.out.splitlines()[-1]) == (4, "skipped: the task is still running")


def test_an_attempt_that_somebody_else_makes_is_not_made_again(write, pulse, tmp_path):
    write()
    tmp_path.joinpath("some_site.py").write_text(
        dedent("""
            import threading
            from pulse import PulseMiddleware

            begun, end = threading.Event(), threading.Event()
            seen = []

            def endpoint(environ, start_response):
                attempt = environ["pulse.info"]["attempt"]
                seen.append(attempt)
                if attempt > 1:
                    begun.set()
                    end.wait(60)
                start_response("200 OK" if attempt > 1 else "500 Oops", [])
                return []

            app = PulseMiddleware(endpoint, task={"hold": {"cron": "@manually"}})
            failed = app.run_now("hold")
            first = threading.Thread(target=app.run_now, args=["hold"], kwargs={"again": failed})
            first.start()
            begun.wait(60)
            """)
    )

    pulse("list", "some_site:app")  # loads it
    site = sys.modules["some_site"]
    done = pulse("run", "some_site:app", "hold", "--again", site.failed.id)
    site.end.set()
    site.first.join()

    assert done.code == 4
    assert f"attempt 2 of {site.failed.id} is made by" in done.err
    assert done.err.rstrip().endswith("already: it is under way")
    assert site.seen == [1, 2]


def test_the_record_is_one_json_document_whatever_the_application_prints(write, pulse):
    write("pulse.task.chatty.action = chatty?x=1")

    done = pulse("run", "chatty", "--json")

    document = json.loads(done.out)
    assert done.code == 0
    assert {name: document.pop(name) for name in list(document) if name not in ("run", "due", "duration")} == {
        "task": "chatty",
        "method": "GET",
        "path": "/tasks/chatty",
        "query": "x=1",
        "outcome": "success",
        "status": 200,
        "reason": "",
        "body": "täglich\n",
        "errors": "",
    }
    assert document.keys() == {"run", "due", "duration"}
    assert "I print what I like" in done.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_can_be_interrupted(write, notes, tmp_path, number):
    write("pulse.task.chunks.action = chunks")

    with program("-m", "pulse", "run", "chunks", env=BUFFERED, cwd=tmp_path) as process:
        wait_until(lambda: "begun chunks" in notes())
        process.signal(number)
        code = process.wait()

        assert code == 130
        assert process.output.splitlines()[-1] == "pulse: interrupted"


# The command as a program


def test_the_script_finds_modules_in_the_current_directory(write, tmp_path):
    write("pulse.task.fails.action = fails")

    with program(Path(sys.executable).with_name("pulse"), "run", "fails", env=BUFFERED, cwd=tmp_path) as process:
        code = process.wait()

        assert code == 1
        # Once in the record, and not again by a log that nobody has configured.
        assert process.output.count("ValueError: no such") == 2
        assert "outcome=" not in process.output


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pulse.config.enabled = ture", "error    pulse.config.enabled = 'ture': want true or false"),
        ("pulse.task.tidy.intervall = 5", "did you mean 'pulse.task.tidy.interval'?"),
        ("guard = true", "did you mean 'pulse.config.guard'?"),
        ("pulse.config.host = 5 %", "must be followed by"),
        ("[filter:pulse]", "already exists"),
    ],
)
def test_the_check_of_a_broken_file_fails(write, tmp_path, line, said):
    write(line)

    with program("-m", "pulse", "check", env=BUFFERED, cwd=tmp_path) as process:
        code = process.wait()

        assert code == 2
        assert said in process.output
        assert process.output.endswith(" 1 error, 0 warnings\n")


NOWHERE = "pulse.config.store = redis://:s3cret@127.0.0.1:1/0"


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """What `pulse check` says; its exit code and its output."""
    monkeypatch.chdir(tmp_path)

    def check(*options):
        code = main(["check", *options])
        return code, "".join(capsys.readouterr())

    return check


def test_the_check_asks_the_run_store_when_it_is_told_to_and_names_key_and_address_without_the_password(write, check):
    write("pulse.task.a.interval = 300", "pulse.config.name = shop", NOWHERE)

    assert check() == (0, "1 file, 1 task, 0 errors, 0 warnings\n")
    code, said = check("--connect")
    _, document = check("--connect", "--json")

    assert code == 5
    assert "error    pulse.config.store: the run store redis://***@127.0.0.1:1/0 cannot be used: " in said
    assert said.endswith("1 file, 1 task, 1 error, 0 warnings\n")
    assert "s3cret" not in said + document
    where = {"where": "development.ini [filter:pulse]", "store": "redis://127.0.0.1:1/0"}
    assert json.loads(document)["stores"] == [{**where, "is_usable": False}]


def test_a_fault_of_the_configuration_counts_more_than_a_run_store_that_is_out_of_reach(write, check):
    write("pulse.task.a.interval = 300", "pulse.config.name = shop", NOWHERE)
    assert check("--connect")[0] == 5

    write("pulse.config.name = shop", NOWHERE, "pulse.config.enabled = ture")
    assert check("--connect")[0] == 2


def test_a_run_store_that_can_be_used_is_said_to_be_and_is_not_made(write, check, tmp_path):
    write("pulse.task.a.interval = 300", f"pulse.config.store = sqlite:{tmp_path / 'state' / 'runs.db'}")
    before = sorted(tmp_path.rglob("*"))

    code, said = check("--connect")

    assert (code, said.splitlines()[0]) == (0, f"the run store sqlite:{tmp_path / 'state' / 'runs.db'} can be used")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("server", ["valkey_server", "postgres_server"])
def test_a_run_store_on_a_server_that_answers_can_be_used(write, check, request, server):
    address = request.getfixturevalue(server).url
    write("pulse.task.a.interval = 300", "pulse.config.name = check", f"pulse.config.store = {address}")

    code, said = check("--connect")

    assert (code, said.splitlines()[0].endswith(" can be used")) == (0, True)


def test_where_there_is_no_run_store_to_ask_the_check_says_so(write, check):
    write("pulse.task.a.interval = 300")

    assert check("--connect") == (
        0,
        "there is no run store to ask: auto and memory: are made by whoever needs them\n"
        "1 file, 1 task, 0 errors, 0 warnings\n",
    )


def test_a_run_store_that_never_answers_is_not_waited_for(write, check, monkeypatch):
    monkeypatch.setattr(reach, "PATIENCE", 0.1)
    monkeypatch.setattr(SqliteRunStore, "reach", lambda self: threading.Event().wait(5))
    write("pulse.task.a.interval = 300", "pulse.config.store = sqlite:runs.db")

    code, said = check("--connect")

    assert (code, "does not answer within 0.1 s" in said) == (5, True)


def test_the_check_does_not_pass_on_what_a_filter_logs_when_it_is_built(tmp_path):
    sessions = "[filter:sessions]\nuse = egg:pulse#sessions\nstore = cookie:\n"  # without a secret, which is warned of
    (tmp_path / "site.ini").write_text(f"{sessions}[filter:pulse]\nuse = egg:pulse\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PULSE_")}

    command = [sys.executable, "-m", "pulse", "check", "site.ini"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_output_that_cannot_be_written_is_no_failure_of_the_task(write, tmp_path, options):
    write("pulse.task.a.interval = 300")

    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "pulse", "list", *options]
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.stderr == "pulse: the output cannot be written: No space left on device\n"
    assert done.returncode == 2


def test_a_reader_that_has_seen_enough_is_no_error(write, tmp_path):
    write(*(f"pulse.task.t{number}.interval = 300" for number in range(2000)))

    with subprocess.Popen(
        [sys.executable, "-m", "pulse", "list"],
        cwd=tmp_path,
        env={**os.environ, **BUFFERED},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        first = process.stdout.readline()
        process.stdout.close()
        complaint = process.stderr.read()

    assert first.startswith("TASK")
    assert complaint == ""
    assert process.returncode == 141


def test_an_asgi_application_is_for_an_asgi_server(tmp_path):
    (tmp_path / "doors.py").write_text("async def app(scope, receive, send):\n    pass\n")
    command = [sys.executable, "-m", "pulse", "serve", "doors:app"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "serve it with uvicorn doors:app" in done.stderr
