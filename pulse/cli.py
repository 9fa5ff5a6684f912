"""The gate: the command `pulse`, from its arguments to its exit code.

The commands themselves are in `pulse.commands`; `pulse.commands.exits` has the codes. Each is
imported when it is called: whoever asks for help must not wait for all that it could do.
"""

import argparse
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pulse import __version__, reader
from pulse.clock import Clock, SystemClock
from pulse.commands.exits import CommandError, Exit, OutputError
from pulse.errors import ConfigError, StoreUnavailableError, UnknownTaskError
from pulse.zone import EPOCH

if TYPE_CHECKING:
    from pulse.commands.screen import Screen
    from pulse.commands.source import Source

SOURCE: Final = "development.ini"
SOURCE_VARIABLE: Final = "PULSE_CONFIG"
COUNT: Final = 5
RECORDS: Final = 20
LAST_YEAR: Final = 9000
AGE: Final = timedelta(days=366)

_EPILOG: Final = f"""\
INI is file.ini, file.ini#section or module:object; without it {SOURCE_VARIABLE}, or {SOURCE}.
Exit codes: 0 done, 1 the task failed, 2 usage or configuration, 3 unknown task, 4 already
running, 5 run store out of reach, 124 timed out, 130 interrupted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """A command, as it was called."""

    options: argparse.Namespace
    words: Sequence[str]
    screen: "Screen"
    clock: Clock

    def source(self) -> "Source":
        """What the first word names, or what stands in for it."""
        from pulse.commands.source import source_of

        return source_of(self.words[0] if self.words else _default_source())

    def source_and_must(self, what: str) -> "tuple[Source, str]":
        """As `source_and_task`, where *what* cannot be left out."""
        source, word = self.source_and_task()
        if word is None:
            raise CommandError(f"which {what.lower()} of {source.name}? {self.options.parser.prog} [INI] {what}")
        return source, word

    def source_and_task(self) -> "tuple[Source, str | None]":
        """Of a single word its looks decide what it is."""
        from pulse.commands.source import is_task_name, source_of

        if len(self.words) == 1 and is_task_name(self.words[0]):
            return source_of(_default_source()), self.words[0]
        return self.source(), self.words[1] if len(self.words) > 1 else None


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    """Carry out one command line; the exit code of the process.

    Args:
        argv: Without the name of the program; that of the process when not given.
        clock: What commands take for the time; runs go by that of the machine.
    """
    _accept_any_text()
    try:
        options, words = _parse(argv)
    except SystemExit as end:  # argparse has said what there is to say
        return int(end.code or 0)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m pulse` has it
    from pulse.commands.screen import Screen

    screen = Screen(sys.stdout, is_json=getattr(options, "json", False))
    try:
        return int(options.command(_Call(options=options, words=words, screen=screen, clock=clock or SystemClock())))
    except BrokenPipeError:
        _give_up_output()
        return Exit.BROKEN_PIPE
    except OutputError as error:
        _give_up_output()
        return _complain(error, is_verbose=options.verbose)
    except (KeyboardInterrupt, ConfigError, UnknownTaskError, StoreUnavailableError, CommandError) as error:
        return _complain(error, is_verbose=options.verbose)


# What was called


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = _parser()
    written = sys.argv[1:] if argv is None else argv
    if not written:
        parser.print_help(sys.stderr)
        raise SystemExit(Exit.USAGE)
    _require_command(parser, written[0])
    options, rest = parser.parse_known_args(written)
    # argparse takes positional arguments in one piece: of `pulse next app.ini --count 3 report` it leaves the last.
    words = [word for word in (options.source, getattr(options, "task", None)) if word is not None] + rest
    limit = 2 if hasattr(options, "task") else 1
    surplus = [word for word in rest if word.startswith("-")] or words[limit:]
    if surplus:
        options.parser.error(f"unrecognized arguments: {' '.join(surplus)}{_hint_at(surplus[0], options.parser)}")
    return options, words


def _require_command(parser: argparse.ArgumentParser, word: str) -> None:
    """Refuse what is no command in fewer words than argparse, which lists them all, and with the one that is meant."""
    names = [command.name for group in _GROUPS.values() for command in group]
    if word in names or word in ("-h", "--help", "--version"):
        return
    if word.startswith("-"):
        parser.error(f"want the command first, then {word}: pulse COMMAND [INI] {word}")
    near = get_close_matches(word, names, n=1)
    parser.error(f"there is no command {word!r}; {f'did you mean {near[0]!r}?' if near else 'pulse --help lists them'}")


def _hint_at(word: str, parser: argparse.ArgumentParser) -> str:
    """What may have been meant by an option that the command does not know."""
    known = re.findall(r"--[a-z][a-z-]*", parser.format_help())
    near = get_close_matches(word, known, n=1) if word.startswith("--") else []
    return f"; did you mean {near[0]!r}?" if near else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pulse",
        usage="pulse [-h] [--version] COMMAND ...",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"Pulse {__version__}")
    commands = parser.add_subparsers(prog="pulse", metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    said = ["The tasks of a Paste application: plan them, run them, and see what became of them."]
    for title, group in _GROUPS.items():
        said.append(f"\n{title}:")
        for command in group:
            _add(commands, command)
            said.append(f"  {command.name:<10} {command.sentence}")
    parser.description = "\n".join(said)
    return parser


def _add(commands: Any, command: "_Command") -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        command.name,
        description=f"{command.sentence[0].upper()}{command.sentence[1:]}.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command.carry_out, parser=parser)
    parser.add_argument("source", metavar="INI", nargs="?", help="where the application is")
    command.arguments(parser)
    if command.has_json:
        parser.add_argument("--json", action="store_true", help="write JSON for programs")
    parser.add_argument("-v", "--verbose", action="store_true", help="with tracebacks")
    if command.must_name:
        # For argparse it may be left out, since the file before it may be: see `source_and_task`.
        shown = parser.format_usage().removeprefix("usage: ").rstrip()
        parser.usage = shown.replace(f"[{command.must_name}]", command.must_name)


# The arguments of each command


def _no_arguments(_parser: argparse.ArgumentParser) -> None:
    """INI alone."""


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="instead of that in [server:main]")
    parser.add_argument("--port", type=_typed(reader.integer(0, 65535)), help="as well; 0 for a free one")


def _worker_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--for", dest="span", type=_SPAN, metavar="SPAN", help="end by itself after so long (10s, 1h)")


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connect", action="store_true", help="ask the run store, too: 5 if it is out of reach")


def _next_arguments(parser: argparse.ArgumentParser) -> None:
    _add_task(parser, "of this task only")
    _add_count(parser, COUNT, most=1000)
    parser.add_argument("--from", dest="since", type=_typed(_moment), metavar="ISO", help="the date to begin at")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    _add_task(parser)
    parser.add_argument("--force", action="store_true", help="also beside a run that is under way")
    run_id = _typed(_run_id)
    parser.add_argument("--again", type=run_id, metavar="RUN", help="another attempt of a run that failed, by its id")


def _pause_arguments(parser: argparse.ArgumentParser) -> None:
    _add_task(parser)
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--for", dest="until", type=_SPAN, metavar="SPAN", help="for so long (90s, 1h, 2d)")
    end.add_argument("--until", dest="until", type=_typed(_moment), metavar="ISO", help="until then")
    _add_note(parser, "shown wherever the task is")


def _cancel_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK|RUN", nargs="?", help="all runs of a task, or one by its id")
    _add_note(parser, "kept with the record")


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    _add_task(parser, "of this task only")
    parser.add_argument("--failed", action="store_true", help="only what went wrong, missed and lost runs included")
    _add_count(parser, RECORDS, most=10_000)
    parser.add_argument("--since", type=_typed(_moment_or_span), metavar="ISO", help="a date, or how long ago (2h)")


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="RUN", nargs="?", help="its id, or how that begins")


def _why_arguments(parser: argparse.ArgumentParser) -> None:
    _add_task(parser)
    help_at = "the time in question: a date and time, or 02:30, the last one (when it was due last)"
    parser.add_argument("--at", type=_typed(_moment_or_time), metavar="ISO", help=help_at)


def _watch_arguments(parser: argparse.ArgumentParser) -> None:
    span = _typed(reader.duration(0.1, AGE))
    parser.add_argument("--every", type=span, default=EVERY, metavar="SPAN", help="from one look to the next (2s)")
    parser.add_argument("--once", action="store_true", help="look once")


def _purge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do it: it cannot be undone")


def _add_task(parser: argparse.ArgumentParser, sentence: str = "its name") -> None:
    # Optional for argparse alone: the file may be left out, and then the task is the first word.
    parser.add_argument("task", metavar="TASK", nargs="?", help=sentence)


def _add_note(parser: argparse.ArgumentParser, fate: str) -> None:
    parser.add_argument("--why", type=_typed(_note), default="", metavar="TEXT", help=f"the reason, {fate}")


def _add_count(parser: argparse.ArgumentParser, count: int, *, most: int) -> None:
    number = _typed(reader.integer(1, most))
    parser.add_argument("-n", "--count", type=number, default=count, metavar="N", help=f"how many ({count})")


def _typed(read: reader.Reader[Any]) -> Callable[[str], Any]:
    def convert(written: str) -> Any:
        try:
            return read(written)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{written!r}: {error}") from None

    return convert


def _note(written: object) -> str:
    from pulse.status.action import note_of

    return note_of(str(written))


def _run_id(written: object) -> str:
    # From a variable of a script that is not set: without an id the task would be run anew.
    if not str(written).strip():
        raise ValueError("want the id of a run, or how it begins")
    return str(written).strip()


def _moment(written: object) -> datetime:
    moment = reader.moment(written)
    if not EPOCH.year <= moment.year <= LAST_YEAR:
        raise ValueError(f"want a year from {EPOCH.year} to {LAST_YEAR}")
    return moment


def _moment_or_span(written: object) -> datetime | timedelta:
    with suppress(ValueError):
        return reader.duration(0.1, AGE)(written)
    try:
        return _moment(written)
    except ValueError as error:
        raise ValueError(f"{error}, or how long ago: 90s, 2h, 1d") from None


def _moment_or_time(written: object) -> datetime | time:
    with suppress(ValueError):
        return _moment(written)
    with suppress(ValueError):
        if ":" in str(written):  # else `12` would be noon
            return time.fromisoformat(str(written).strip())
    raise ValueError("want a date and time as 2027-03-28T02:30 or 2027-03-28T02:30+01:00, or a time as 02:30")


EVERY: Final = timedelta(seconds=2)
_SPAN: Final = _typed(reader.duration(0.1, AGE))


def _default_source() -> str:
    return os.environ.get(SOURCE_VARIABLE) or SOURCE


# The commands


def _serve(call: _Call) -> Exit:
    from pulse.commands.serve import serve

    return serve(call.source(), call.screen, call.clock, host=call.options.host, port=call.options.port)


def _worker(call: _Call) -> Exit:
    from pulse.commands.worker import worker

    return worker(call.source(), call.screen, call.clock, lifetime=call.options.span)


def _check(call: _Call) -> Exit:
    from pulse.commands.check import check

    return check(call.source(), call.screen, call.clock.now(), is_connecting=call.options.connect)


def _list(call: _Call) -> Exit:
    from pulse.commands.list import list_tasks

    return list_tasks(call.source(), call.screen, call.clock)


def _next(call: _Call) -> Exit:
    from pulse.commands.next import next_dues

    source, task = call.source_and_task()
    options = call.options
    return next_dues(source, call.screen, call.clock.now(), name=task, count=options.count, since=options.since)


def _run(call: _Call) -> Exit:
    from pulse.commands.run import run

    source, task = call.source_and_must("TASK")
    options = call.options
    said = {"is_verbose": options.verbose, "is_forced": options.force, "again": options.again or ""}
    return run(source, call.screen, call.clock, task, **said)


def _pause(call: _Call) -> Exit:
    from pulse.commands.pause import pause

    source, task = call.source_and_must("TASK")
    return pause(source, call.screen, call.clock, task, until=call.options.until, note=call.options.why)


def _resume(call: _Call) -> Exit:
    from pulse.commands.resume import resume

    source, task = call.source_and_must("TASK")
    return resume(source, call.screen, call.clock, task)


def _cancel(call: _Call) -> Exit:
    from pulse.commands.cancel import cancel

    source, what = call.source_and_must("TASK or RUN")
    return cancel(source, call.screen, call.clock, what, note=call.options.why)


def _login_code(call: _Call) -> Exit:
    from pulse.commands.login_code import login_code

    return login_code(call.source(), call.screen, call.clock)


def _history(call: _Call) -> Exit:
    from pulse.commands.history import Wanted, history

    source, task = call.source_and_task()
    options = call.options
    wanted = Wanted(task=task, is_trouble=options.failed, limit=options.count, since=options.since)
    return history(source, call.screen, call.clock, wanted)


def _show(call: _Call) -> Exit:
    from pulse.commands.show import show

    source, prefix = call.source_and_must("RUN")
    return show(source, call.screen, call.clock, prefix)


def _why(call: _Call) -> Exit:
    from pulse.commands.why import why

    source, task = call.source_and_must("TASK")
    return why(source, call.screen, call.clock, task, at=call.options.at)


def _watch(call: _Call) -> Exit:
    from pulse.commands.watch import watch

    return watch(call.source(), call.screen, call.clock, every=call.options.every, is_once=call.options.once)


def _workers(call: _Call) -> Exit:
    from pulse.commands.workers import workers

    return workers(call.source(), call.screen, call.clock)


def _purge(call: _Call) -> Exit:
    from pulse.commands.purge import purge

    return purge(call.source(), call.screen, call.clock, is_agreed=call.options.yes)


@dataclass(frozen=True, slots=True)
class _Command:
    """One word behind `pulse`."""

    name: str
    sentence: str
    carry_out: Callable[[_Call], Exit]
    arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments
    has_json: bool = True
    must_name: str = ""  # what it cannot do without, as its usage has it


# In the order in which somebody who meets Pulse needs them.
_GROUPS: Final = {
    "run the application": (
        _Command("serve", "serve the application and run its tasks", _serve, _serve_arguments, has_json=False),
        _Command("worker", "run its tasks without a server", _worker, _worker_arguments, has_json=False),
    ),
    "plan": (
        _Command("check", "say everything that is wrong with the configuration", _check, _check_arguments),
        _Command("list", "show the tasks, and how they are doing", _list),
        _Command("next", "show the next due instants", _next, _next_arguments),
    ),
    "one task": (
        _Command("run", "run a task now, in this process", _run, _run_arguments, must_name="TASK"),
        _Command("pause", "run a task by hand only, for a while", _pause, _pause_arguments, must_name="TASK"),
        _Command("resume", "run a paused task by its schedule again", _resume, _add_task, must_name="TASK"),
        _Command("cancel", "ask what is under way to stop", _cancel, _cancel_arguments, must_name="TASK|RUN"),
    ),
    "see what became of it": (
        _Command("watch", "show how the tasks are doing, again and again", _watch, _watch_arguments),
        _Command("history", "show the records of runs, newest first", _history, _history_arguments),
        _Command("show", "show one run whole, with what was answered", _show, _show_arguments, must_name="RUN"),
        _Command("why", "say why a task did, or did not, run at some time", _why, _why_arguments, must_name="TASK"),
        _Command("workers", "show the processes that run the tasks", _workers),
        _Command("login-code", "show a link that logs in to the status page once", _login_code),
    ),
    "clean up": (_Command("purge", "forget the tasks that the configuration does not have", _purge, _purge_arguments),),
}


# How it ends


def _complain(error: BaseException, *, is_verbose: bool) -> Exit:
    message, code, cause = str(error), Exit.USAGE, None
    match error:
        case KeyboardInterrupt():
            message, code = "interrupted", Exit.INTERRUPTED
        case UnknownTaskError():
            near = get_close_matches(error.name, error.known, n=1)
            message, code = f"{message}{f'; did you mean {near[0]!r}?' if near else ''}", Exit.UNKNOWN_TASK
        case StoreUnavailableError():
            code = Exit.NO_STORE
        case CommandError():
            code, cause = error.code, error.__cause__
    if cause and is_verbose:
        traceback.print_exception(cause)
    hint = " (-v shows the traceback)" if cause and not is_verbose else ""
    print(f"pulse: {message}{hint}", file=sys.stderr)
    return code


def _accept_any_text() -> None:
    """A response that the terminal's encoding lacks must not end a command with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_up_output() -> None:
    """Nobody can be given the output: Python must not complain when it flushes the rest."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
