"""The errors of the library: small tree, one message style, a next step in every one.

`InputError` and `ConfigError` are the caller's to mend (exit code 2 on the command line); everything
else is a resource, an optional part, a file, or ours.
"""

from __future__ import annotations


class ForeknowError(Exception):
    """Base of every error the library raises on purpose.

    Args:
        message: what was wrong, what is allowed, and what came.
        hint: the next step the caller can take; shown on its own line.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InputError(ForeknowError, ValueError):
    """The caller's data cannot be used as they are."""


class ConfigError(ForeknowError, ValueError, TypeError):
    """A setting of the caller's is not one of the allowed ones."""


class NotFittedError(ForeknowError, ValueError, AttributeError):
    """A result was asked for before `fit`. The class actually raised is also scikit-learn's."""


class CapabilityError(ForeknowError):
    """This prior or system cannot do what was asked of it."""


class MissingExtraError(ForeknowError, ImportError):
    """An optional part is not installed; the hint names the extra that brings it."""


class BrokenPackageError(ForeknowError, ImportError):
    """An optional part is installed but cannot be imported; the message holds its own reason."""


class CheckpointError(ForeknowError):
    """A file of weights has the wrong format, version, shape or hash."""


class ResourceError(ForeknowError, RuntimeError):
    """Not enough memory, disk or time; the message gives both sizes."""


class ConvergenceError(ForeknowError, RuntimeError):
    """An iteration did not reach its tolerance; `statistics` holds what is known of the run."""

    def __init__(self, message: str, *, hint: str = "", statistics: dict[str, float] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.statistics = dict(statistics or {})


class ForeknowWarning(UserWarning):
    """Something was changed or left out on the caller's behalf; the result records it too."""
