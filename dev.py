#!/usr/bin/env python3
"""Run Pulse, or its tests, on a machine that has nothing but Python 3.11 or newer.

    python3 dev.py run [arguments of pulse serve]    serves development.ini
    python3 dev.py test [arguments of pytest]        ruff, mypy and pytest, which shares the tests between
                                                     three processes; with arguments pytest alone

Either makes .venv beside this file and installs what it needs from PyPI, with uv where that is on
PATH. A call that finds this done starts at once. With CI=true the versions are those of constraints.txt.
"""

# A Python as old as 3.6 has to get as far as `use_newer_python`: hence the quoted annotations.

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
NEWEST_MINOR = 15  # where the search begins when `python3` is too old

THIS = Path(__file__).resolve()
ROOT = THIS.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
STAMP = VENV / "dev-stamp.txt"  # of what checkout, for which fingerprint, with what: a line each
UNFINISHED = "unfinished"

CHECKS = (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",))
# Several processes share the tests file by file, as most tests wait for processes, clocks and servers.
# In the order of tests/conftest.py: what takes longest comes first, and the many short files fill the gaps.
WHOLE_SUITE = ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", "-rfEsR")  # and say which had a second chance


class SetupError(Exception):
    """There is no environment to run in; the message says what to do about it."""


def main(arguments: "list[str]") -> int:
    if sys.version_info < OLDEST:
        use_newer_python(arguments)
    command = arguments[0] if arguments else ""
    if command not in ("run", "test"):
        print(__doc__)
        return 0 if command in ("-h", "--help") else 2
    os.chdir(ROOT)
    prepare({command, "pinned"} if os.environ.get("CI") == "true" else {command})
    if command == "run":
        pulse = str(VENV / "bin" / "pulse")
        os.execv(pulse, [pulse, "serve", "development.ini", *arguments[1:]])
    return test(arguments[1:])


def use_newer_python(arguments: "list[str]") -> None:
    for minor in range(NEWEST_MINOR, OLDEST[1] - 1, -1):
        found = program(f"python3.{minor}")
        if found:
            os.execv(found, [found, str(THIS), *arguments])
    version = ".".join(map(str, sys.version_info[:2]))
    raise SetupError(f"want Python 3.11 or newer; this is {version}, and PATH has no python3.11 to 3.{NEWEST_MINOR}")


def program(name: str) -> str:
    """The path of a program; empty when PATH has none that runs."""
    path = shutil.which(name) or ""
    # pyenv also puts the programs of versions that are switched off on PATH, where they only complain.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return path if path and subprocess.call([path, "--version"], **quiet) == 0 else ""


def test(arguments: "list[str]") -> int:
    # The tests start hundreds of Pythons: without bytecode each of them would compile what it imports.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    pytest = [PYTHON, "-m", "pytest"]
    if arguments:
        say("pytest")
        return call([*pytest, *arguments], env=env)
    # pytest compiles tests in its own way. The processes that share them would each compile all of them,
    # which takes ten seconds; while the checks run there is a processor for it.
    with start([*pytest, "--collect-only", "--quiet"], env):
        failed = [" ".join(check) for check in CHECKS if not passes(check)]
    # Said before pytest, whose summary is to be the last thing on the screen.
    say("pytest" + (f" (failed before it: {', '.join(failed)})" if failed else ""))
    return call([*pytest, *WHOLE_SUITE], env=env) or int(bool(failed))


def passes(check: "tuple[str, ...]") -> bool:
    say(" ".join(check))
    return call([PYTHON, "-m", *check]) == 0


def prepare(wanted: "set[str]") -> None:
    """Have a .venv with what is *wanted*: "run" or "test", and perhaps "pinned"."""
    if is_ready(wanted, abi_of_venv()):
        return
    # Without the lock, a second call would take a .venv that is being made for a broken one and delete it.
    with THIS.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        abi = abi_of_venv()
        if not is_ready(wanted, abi):
            install(wanted, fault(abi), lock.fileno())


def is_ready(wanted: "set[str]", abi: str) -> bool:
    stamp = read_stamp()
    fits = stamp[:2] == [str(ROOT), fingerprint()] and abi == own_abi()
    return fits and wanted <= set(stamp[-1].split())


def fault(abi: str) -> str:
    """Why no installation can mend the .venv, whose Python has this *abi*; empty when one can."""
    stamp = read_stamp()
    if not VENV.exists():
        return "there is none"
    if stamp == [UNFINISHED]:
        return "its installation was interrupted"
    if stamp and stamp[0] != str(ROOT):
        return f"it was made in {stamp[0]}, which its scripts still name"
    if abi != own_abi():
        return f"its Python is {abi or 'broken'}, this one is {own_abi()}"
    return ""


def read_stamp() -> "list[str]":
    return STAMP.read_text(encoding="utf-8").splitlines() if STAMP.exists() else []


def write_stamp(done: "set[str]") -> None:
    STAMP.write_text(f"{ROOT}\n{fingerprint()}\n{' '.join(sorted(done))}\n", encoding="utf-8")


def fingerprint() -> str:
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def own_abi() -> str:
    return sys.implementation.cache_tag + sys.abiflags


def abi_of_venv() -> str:
    """What `own_abi` is for the Python in .venv; empty when that does not run."""
    code = "import sys; print(sys.implementation.cache_tag + sys.abiflags)"
    try:
        answer = subprocess.run([PYTHON, "-ISc", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return answer.stdout.strip()


def install(wanted: "set[str]", why_anew: str, lock: int) -> None:
    """Install what is *wanted*, into a new .venv if there is a reason for that.

    The installer inherits the *lock*, since it lives on when this process is killed.
    """
    uv = program("uv")
    if not uv and not importlib.util.find_spec("ensurepip"):
        raise SetupError("this Python comes without ensurepip: apt install python3-venv")
    if why_anew:
        make_venv(why_anew)
    what = ".[test]" if "test" in wanted else "."
    say(f"install {what} with {'uv' if uv else 'pip'}{', pinned' if 'pinned' in wanted else ''}")
    STAMP.write_text(UNFINISHED, encoding="utf-8")
    try:
        if not uv:
            must([PYTHON, "-m", "ensurepip", "--default-pip"], pass_fds=[lock], stdout=subprocess.DEVNULL)
        installer = [uv, "pip", "install", "--python", PYTHON] if uv else [PYTHON, "-m", "pip", "install"]
        must([*installer, "--quiet", "--editable", what], pass_fds=[lock], env=environment(wanted))
    except SetupError:
        # An installer that gives up leaves things as they were: offline, that is better than a .venv anew.
        STAMP.unlink()
        raise
    write_stamp({*wanted, "run"})


def make_venv(why: str) -> None:
    say(f"make .venv: {why}")
    if VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    STAMP.write_text(UNFINISHED, encoding="utf-8")
    # This may be the Python of the .venv that was just deleted: ask the one that it was made from.
    base = getattr(sys, "_base_executable", sys.executable)
    must([base, "-m", "venv", "--without-pip", str(VENV)])


def environment(wanted: "set[str]") -> "dict[str, str]":
    """The environment of the installer.

    Constraints go here and not on its command line, where they would not hold for the building
    of Pulse itself: that would take the newest setuptools.
    """
    settings = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    if "pinned" in wanted:
        names = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "UV_CONSTRAINT", "UV_BUILD_CONSTRAINT")
        settings.update(dict.fromkeys(names, "constraints.txt"))
    return {**os.environ, **settings}


def must(command: "list[str]", **options: object) -> None:
    if call(command, **options) != 0:
        raise SetupError(f"failed: {' '.join(command)}")


def call(command: "list[str]", **options: object) -> int:
    process = subprocess.Popen(command, **options)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # it was interrupted as well: let it stop its servers before this process ends
        raise


def start(command: "list[str]", env: "dict[str, str]") -> "subprocess.Popen[bytes]":
    """A process that is not heard; as a context manager it is waited for."""
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def say(message: str) -> None:
    print(f"dev.py: {message}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"dev.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
