"""The errors that this project raises on purpose; a scheduler retries a RetryableError and no other.

A message says what was wrong, the value, and what to do. A single bad record is never an exception:
it becomes a row in ``heal.quarantine`` and the rest of the run goes on.
"""

from heal_tasks.core.redaction import redacted


class HealError(Exception):
    """Base of every error raised on purpose; its text has no passwords and keys."""

    def __str__(self) -> str:
        return redacted(super().__str__())


class InputError(HealError, ValueError):
    """Wrong input."""


class SettingsError(InputError):
    """A setting, or a combination of settings, is wrong; ``names`` are those that have a wrong value."""

    def __init__(self, message: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names


class SourceError(InputError):
    """A source cannot be listed or read as a whole."""


class StoreError(HealError):
    """The database refused, for a reason that a retry will not change."""


class StepError(HealError):
    """A step cannot go on with the results of the steps before it."""


class AirflowError(HealError):
    """Airflow does not run here, or its API refused a call."""


class RetryableError(HealError):
    """Throttling, a lost connection, a lost node: trying again later can succeed."""


class AirflowUnreachableError(AirflowError, RetryableError):
    """Airflow does not answer; it may be starting."""
