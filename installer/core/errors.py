"""Every deliberate failure, and the exit code that it ends the program with.

An error holds what is wrong and what to do about it; the command line prints it
(`installer.cli`), nothing else does. The table in docs/exit-codes.md is made from
`EXIT_CODES`.
"""

from __future__ import annotations

import signal


class InstallerError(Exception):
    """A failure that we foresaw.

    `message` says what is wrong and what that means, `remedy` what to do next;
    both are plain sentences without secrets.
    """

    exit_code = 1
    meaning = "our own fault: please report it with the log file"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(InstallerError):
    """An option, a variable, the answer file or `.env` makes no sense."""

    exit_code = 2
    meaning = "an option, an environment variable, the answer file or `.env` is wrong"


class BundleDamaged(InstallerError):
    """The executable, an embedded file or the image archive is not what was built."""

    exit_code = 3
    meaning = "the bundle does not verify: missing, changed, truncated or extra parts"


class PreflightFailed(InstallerError):
    """The host does not meet a requirement."""

    exit_code = 4
    meaning = "preflight: the host does not meet a requirement"


class CommandFailed(InstallerError):
    """A program of the host failed or could not be started, or the host's disk refused us."""

    exit_code = 5
    meaning = "a command of the host failed"


class NotHealthy(InstallerError):
    """The stack did not become healthy before the deadline."""

    exit_code = 6
    meaning = "the stack is not healthy before the deadline"


class AlreadyRunning(InstallerError):
    """Another run works on the same install folder."""

    exit_code = 7
    meaning = "another run is active for the same install folder"


class ModelServerFailed(InstallerError):
    """A model server that was required does not answer as it should."""

    exit_code = 8
    meaning = "a required model server fails (--require-llm)"


class AccountRefused(InstallerError):
    """The console does not let the account in, or not do what has to be done."""

    exit_code = 9
    meaning = "the console refuses the account: its password, its lock or its role"


class WorkspaceFailed(InstallerError):
    """Dify runs, but what was to be done inside it was not."""

    exit_code = 10
    meaning = "Dify runs, but its account, a plugin, a model or an answer is not as asked for"


class BackupRefused(InstallerError):
    """A file is no backup, is damaged, or cannot be taken by this installation."""

    exit_code = 11
    meaning = "the backup cannot be taken: damaged, cut short, something else, or of a newer Dify; nothing was changed"


class EgressSeen(InstallerError):
    """A container asked for something outside that nothing names, or what it asked for could not all be seen."""

    exit_code = 12
    meaning = "`watch-egress`: a container asked for a name or an address that is not expected"


class RegistryFailed(InstallerError):
    """A registry does not answer, refuses, or holds something else than was sent."""

    exit_code = 13
    meaning = "a registry does not answer or refuses; what it has stays, the same command goes on from there"


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived.

    Not an Exception, so that no `except Exception` of a library swallows it.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number
        # A command that goes on until Ctrl-C ends by it as it should: nothing is to be told.
        self.wanted = False

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as a shell reports it."""
        return 128 + self.signal


FAILURES: tuple[type[InstallerError], ...] = (
    InstallerError,
    UsageError,
    BundleDamaged,
    PreflightFailed,
    CommandFailed,
    NotHealthy,
    AlreadyRunning,
    ModelServerFailed,
    AccountRefused,
    WorkspaceFailed,
    BackupRefused,
    EgressSeen,
    RegistryFailed,
)

# Exit code -> meaning, for docs/exit-codes.md and `--help`.
EXIT_CODES: dict[int, str] = {
    0: "done",
    **{failure.exit_code: failure.meaning for failure in FAILURES},
    129: "interrupted by SIGHUP (the terminal went away); the same command picks up",
    130: "interrupted by Ctrl-C (SIGINT); the same command picks up",
    143: "interrupted by SIGTERM; the same command picks up",
}
