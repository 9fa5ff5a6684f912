"""The gate: the command `pulse`, from its arguments to its exit code.

The commands themselves are in `pulse.commands`; `pulse.commands.exits` has the codes.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pulse import __version__, reader
from pulse.clock import Clock, SystemClock
from pulse.commands.check import check
from pulse.commands.exits import CommandError, Exit
from pulse.commands.list import list_tasks
from pulse.commands.next import next_dues
from pulse.commands.run import run
from pulse.commands.screen import Screen
from pulse.commands.serve import serve
from pulse.commands.source import Source, is_task_name, source_of
from pulse.errors import ConfigError, StoreUnavailableError, UnknownTaskError
from pulse.zone import EPOCH

SOURCE: Final = "development.ini"
SOURCE_VARIABLE: Final = "PULSE_CONFIG"
COUNT: Final = 5
LAST_YEAR: Final = 9000

_EPILOG: Final = f"""\
INI is file.ini, file.ini#section or module:object; without it {SOURCE_VARIABLE}, or {SOURCE}.
Exit codes: 0 done, 1 the task failed, 2 usage or configuration, 3 unknown task, 4 already
running, 5 run store out of reach, 124 timed out, 130 interrupted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """A command, as it was called."""

    options: argparse.Namespace
    words: Sequence[str]
    screen: Screen
    clock: Clock

    def source(self) -> Source:
        """What the first word names, or what stands in for it."""
        return source_of(self.words[0] if self.words else _default_source())

    def source_and_task(self) -> tuple[Source, str | None]:
        """Of a single word its looks decide what it is."""
        if len(self.words) == 1 and is_task_name(self.words[0]):
            return source_of(_default_source()), self.words[0]
        return self.source(), self.words[1] if len(self.words) > 1 else None


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    """Carry out one command line; the exit code of the process.

    Args:
        argv: Without the name of the program; that of the process when not given.
        clock: What `check`, `list` and `next` take for the time.
    """
    _accept_any_text()
    try:
        options, words = _parse(argv)
    except SystemExit as end:  # argparse has said what there is to say
        return int(end.code or 0)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m pulse` has it
    screen = Screen(sys.stdout, is_json=getattr(options, "json", False))
    try:
        return int(options.command(_Call(options=options, words=words, screen=screen, clock=clock or SystemClock())))
    except BrokenPipeError:
        _give_up_output()
        return Exit.BROKEN_PIPE
    except (KeyboardInterrupt, ConfigError, UnknownTaskError, StoreUnavailableError, CommandError) as error:
        return _complain(error, is_verbose=options.verbose)


# What was called


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    options, rest = _parser().parse_known_args(argv)
    # argparse takes positional arguments in one piece: of `pulse next app.ini --count 3 report` it leaves the last.
    words = [word for word in (options.source, getattr(options, "task", None)) if word is not None] + rest
    limit = 2 if hasattr(options, "task") else 1
    surplus = [word for word in rest if word.startswith("-")] or words[limit:]
    if surplus:
        options.parser.error(f"unrecognized arguments: {' '.join(surplus)}")
    return options, words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pulse",
        description="The tasks of a Paste application: serve, check, list and run them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"Pulse {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    served = _command(commands, "serve", _serve, "serve the application and run its tasks")
    served.add_argument("--host", help="instead of that in [server:main]")
    served.add_argument("--port", type=_typed(reader.integer(0, 65535)), help="as well; 0 for a free one")

    _with_json(_command(commands, "check", _check, "say everything that is wrong with the configuration"))
    _with_json(_command(commands, "list", _list, "show the tasks"))

    due = _with_json(_command(commands, "next", _next, "show the next due instants"))
    due.add_argument("task", metavar="TASK", nargs="?", help="of this task only")
    due.add_argument("--count", type=_typed(reader.integer(1, 1000)), default=COUNT, help=f"how many ({COUNT})")
    due.add_argument("--from", dest="since", type=_typed(_since), metavar="ISO", help="the date to begin at")

    once = _with_json(_command(commands, "run", _run, "run a task now, in this process"))
    once.add_argument("task", metavar="TASK", help="its name")
    return parser


def _command(commands: Any, name: str, command: Callable[[_Call], Exit], sentence: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=sentence,
        description=f"{sentence[0].upper()}{sentence[1:]}.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command, parser=parser)
    parser.add_argument("source", metavar="INI", nargs="?", help="where the application is")
    parser.add_argument("-v", "--verbose", action="store_true", help="with tracebacks")
    return parser


def _with_json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="write one JSON document")
    return parser


def _typed(read: reader.Reader[Any]) -> Callable[[str], Any]:
    def convert(written: str) -> Any:
        try:
            return read(written)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{written!r}: {error}") from None

    return convert


def _since(written: object) -> datetime:
    moment = reader.moment(written)
    if not EPOCH.year <= moment.year <= LAST_YEAR:
        raise ValueError(f"want a year from {EPOCH.year} to {LAST_YEAR}")
    return moment


def _default_source() -> str:
    return os.environ.get(SOURCE_VARIABLE) or SOURCE


# The commands


def _serve(call: _Call) -> Exit:
    return serve(call.source(), call.screen, host=call.options.host, port=call.options.port)


def _check(call: _Call) -> Exit:
    return check(call.source(), call.screen, call.clock.now())


def _list(call: _Call) -> Exit:
    return list_tasks(call.source(), call.screen, call.clock.now())


def _next(call: _Call) -> Exit:
    source, task = call.source_and_task()
    options = call.options
    return next_dues(source, call.screen, call.clock.now(), name=task, count=options.count, since=options.since)


def _run(call: _Call) -> Exit:
    source, task = call.source_and_task()
    if task is None:
        raise CommandError(f"which task of {source.name}? pulse run [INI] TASK")
    return run(source, call.screen, task, is_verbose=call.options.verbose)


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
    """Whoever read the output has gone: Python must not complain when it flushes the rest."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
