"""Which files a store in a file has open, and whether these are still what lies at its path.

A file that was replaced under its path is another store. So is one whose log was removed, by
hand or by the last one who left a file that lay here before: whoever opens it from then on
writes another log, and sees nothing of ours.
"""

import os
from pathlib import Path
from typing import Final

from pulse.clock import SystemClock

# Seconds after which a second change of a folder shows in its time: some file systems keep whole or even seconds.
GRAIN: Final = 0.1
COARSE_GRAIN: Final = 3.0

_machine: Final = SystemClock()


class Whereabouts:
    """The database at a path, with its companions; not safe to use from many threads at once."""

    def __init__(self, path: Path) -> None:
        """*path*, absolute; nothing is looked at yet."""
        self._file = str(path)
        self._folder = str(path.parent)
        self._companions = (f"{path}-wal", f"{path}-shm")
        self._opened: tuple[int, ...] | None = None  # by which process, and which files
        self._calm: tuple[int, ...] | None = None  # the folder, as it was when they lay there

    @property
    def is_inherited(self) -> bool:
        """Whether they were opened by a process of which this one is a fork."""
        return self._opened is not None and self._opened[0] != os.getpid()

    def note(self) -> None:
        """What lies there now is what was opened."""
        self._calm = None
        self._opened = self._look()

    def forget(self) -> None:
        """Nothing is open."""
        self._calm = self._opened = None

    def are_the_same(self) -> bool:
        """Whether what was opened by this process still lies there.

        Each step of a store asks. Nobody can put another file there without changing the folder,
        so as long as that is as it was, one look stands for three.

        Raises:
            OSError: they cannot be looked at, for another reason than that they are not there.
        """
        folder = self._look_at_folder()
        if folder is not None and folder == self._calm:
            return True
        if folder is None or self._opened is None or self._opened != self._look():
            return False
        # Where the file is a link, it is another folder that changes.
        is_calm = _is_settled(folder[-1]) and not os.path.islink(self._file)  # noqa: PTH114 - as below
        self._calm = folder if is_calm else None
        return True

    def look_closely(self) -> None:
        """Look at each of the files when it is asked for the next time."""
        self._calm = None

    def _look_at_folder(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._folder)  # noqa: PTH116 - each step looks, and a Path takes thrice as long
        except FileNotFoundError:
            return None
        return os.getpid(), found.st_dev, found.st_ino, found.st_mtime_ns

    def _look(self) -> tuple[int, ...] | None:
        log, index = self._companions
        try:
            found = os.stat(self._file)  # noqa: PTH116 - as above
        except FileNotFoundError:
            return None
        return os.getpid(), found.st_dev, found.st_ino, _inode(log), _inode(index)


def _is_settled(changed: int) -> bool:
    """Whether a change that is made now shows beside one at *changed*, in nanoseconds."""
    grain = GRAIN if changed % 1_000_000_000 else COARSE_GRAIN
    return _machine.time() - changed / 1e9 > grain


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - as above
    except FileNotFoundError:  # some file systems know no WAL
        return 0
