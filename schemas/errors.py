"""Errors meant for users: what went wrong, where, and how to fix it.

Everything that a user can cause raises a `VtokError`; the command line prints it as three lines and exits with its
code. Anything else that reaches the command line is a bug in vtok.
"""

from __future__ import annotations

from typing import Any

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REJECTS = 3
EXIT_INTERRUPTED = 130


class VtokError(Exception):
    """A failure with a place and a remedy.

    Args:
        what: one sentence that says what is wrong.
        at: the file, key or row where it is wrong; may be empty.
        hint: what the user can do about it; may be empty.
    """

    exit_code = EXIT_FAILED

    def __init__(self, what: str, *, at: str = "", hint: str = "") -> None:
        super().__init__(what, at, hint)
        self.what = what
        self.at = at
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, dict(self.__dict__))

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        if self.at:
            lines.append(f"at:    {self.at}")
        if self.hint:
            lines.append(f"hint:  {self.hint}")
        return "\n".join(lines)


def _again(kind: type[VtokError], arguments: tuple[Any, ...], state: dict[str, Any]) -> VtokError:
    """The same error in another process: workers hand their errors to the driver."""
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(state)
    return error


class UsageError(VtokError):
    """The command, the recipe or the paths that it names are wrong: nothing was started. Exit code 2."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """One or more problems in a recipe, reported together.

    Args:
        problems: `(dotted path, message, hint)` for every problem found.
        at: the recipe's path.
    """

    def __init__(self, problems: list[tuple[str, str, str]], *, at: str) -> None:
        self.problems = problems
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        super().__init__(f"{count} in the recipe", at=at)

    def __str__(self) -> str:
        lines = [f"error: {self.what}", f"at:    {self.at}"]
        for path, message, hint in self.problems:
            lines.append(f"  {path}: {message}" if path else f"  {message}")
            if hint:
                lines.append(f"    hint: {hint}")
        return "\n".join(lines)


class IntegrityError(VtokError):
    """Bytes on disk are not the bytes that were written: a flipped bit, a truncated or a swapped file."""
