"""Who claims a run: one process, told from every other one that ever was.

A pid alone is not enough: it is given out again, is another in each container, and says
nothing about other hosts. With them an instance can be seen to be gone at once, where a
lease would take its time to run out.
"""

import os
import re
import socket
from pathlib import Path
from typing import Final

_OWNER: Final = re.compile(r"(?P<name>.*:(?P<pid>[0-9]+))/(?P<started>[0-9]+)\.(?P<place>[0-9a-f-]+\.[0-9]+)")


def this_instance() -> str:
    """This process: `host:pid`, and where it is known its start, boot and pid namespace."""
    name = f"{socket.gethostname()}:{os.getpid()}"
    place = _place()
    return f"{name}/{_started(os.getpid())}.{place}" if place else name


def short(owner: str) -> str:
    """*owner* as people read it: `host:pid`."""
    return owner.partition("/")[0]


def this_place(scope: str) -> str:
    """Where this process is, for tasks of *scope* (`Task.scope`); empty for the whole fleet."""
    if scope == "process":
        return this_instance()
    return socket.gethostname() if scope == "host" else ""


def is_gone(owner: str) -> bool:
    """Whether *owner* is certainly no more: it was here, and its pid is free or somebody else's."""
    known = _OWNER.fullmatch(owner)
    if known is None or known["place"] != _place():
        return False
    try:
        return _started(int(known["pid"])) != known["started"]
    except OSError:
        return False  # it is hidden, or no file descriptor is left: that tells nothing about a process


def _place() -> str:
    """The boot of this machine and the pid namespace of this process; empty where unknown."""
    try:
        if Path("/proc/self").readlink().name != str(os.getpid()):
            return ""  # it is that of another pid namespace: what it tells of our pids is true of strangers
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When process *pid* was started, in ticks since boot; empty if there is none, or it has ended.

    Raises:
        OSError: it could not be seen this time.
    """
    try:
        # The name, in brackets, may hold anything, brackets and blanks too.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        _must_be_free(pid)
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _must_be_free(pid: int) -> None:
    """Refuse to take what /proc does not show for what is not there.

    With `hidepid`, or `ProtectProc` of systemd, it hides the processes of other users, and of
    servers that have changed theirs: each of their runs would be lost while it is under way.

    Raises:
        OSError: there is such a process.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # the last: no system has such a number
        return
    raise PermissionError(f"/proc does not show process {pid}")
