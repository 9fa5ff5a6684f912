"""How a command ends: the exit codes, and the error that carries one."""

from enum import IntEnum

from pulse.errors import PulseError


class Exit(IntEnum):
    """What a shell sees of a command."""

    OK = 0
    FAILED = 1  # the task failed
    USAGE = 2  # usage or configuration
    UNKNOWN_TASK = 3
    ALREADY_RUNNING = 4
    NO_STORE = 5  # the run store is out of reach
    TIMED_OUT = 124
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandError(PulseError, RuntimeError):
    """A command cannot go on; the message is for whoever typed it."""

    def __init__(self, message: str, code: Exit = Exit.USAGE) -> None:
        """*code*: what the process ends with."""
        super().__init__(message)
        self.code = code


class OutputError(CommandError):
    """What a command has to say cannot be written; nobody may take that for a failed task."""
