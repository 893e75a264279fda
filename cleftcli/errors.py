"""The errors a person can mend, each with the exit code a script can act on.

Anything that is not a `CleftError` is a bug of ours: exit code 1, and a traceback in a file.
"""


class CleftError(Exception):
    """What went wrong, where, and what to type; the message is all a person needs."""

    exit_code = 1


class UsageError(CleftError):
    """The command or its config cannot be meant: an unknown key, an impossible value."""

    exit_code = 2


class InputError(CleftError):
    """A volume, truth or checkpoint cannot be used as it is."""

    exit_code = 3


class IncompleteError(CleftError):
    """The run ended, or the input was left, with blocks missing."""

    exit_code = 4


class ConflictError(CleftError):
    """The output exists and belongs to another run."""

    exit_code = 5


class ResourceError(CleftError):
    """Disk, memory or device do not suffice; finished work is kept."""

    exit_code = 6


class DeviceLost(ResourceError):
    """The GPU failed, and fails this process from now on; a new process may go on."""


class UnsafeError(CleftError):
    """Refused: using the file could run code or read files it has no business with."""

    exit_code = 7
