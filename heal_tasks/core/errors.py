"""The errors this project raises on purpose, so that a scheduler knows which are worth a retry.

HealError
├── InputError           what somebody handed in is wrong; also a ValueError
│   ├── SettingsError    a setting, or a combination of settings
│   └── SourceError      a source that cannot be listed or read as a whole
├── StoreError           the database refused, for a reason that a retry will not change
├── StepError            a step cannot go on with what the steps before it left
├── AirflowError         Airflow's API refused, or does not know what was asked for
└── RetryableError       throttling, a lost connection, a lost node: the only one worth a retry
    └── AirflowUnreachableError   also an AirflowError: its API does not answer

A message says what was wrong, the value, and what to do. A single bad record is never an exception:
it becomes a row in ``heal.quarantine`` and the rest of the run goes on.
"""


class HealError(Exception):
    """Base of every error raised on purpose."""


class InputError(HealError, ValueError):
    """What somebody handed in is wrong."""


class SettingsError(InputError):
    """A setting, or a combination of settings, is wrong."""


class SourceError(InputError):
    """A source cannot be listed or read as a whole."""


class StoreError(HealError):
    """The database refused, for a reason that a retry will not change."""


class StepError(HealError):
    """A step cannot go on with what the steps before it left."""


class RetryableError(HealError):
    """Throttling, a lost connection, a lost node: trying again later can succeed."""
