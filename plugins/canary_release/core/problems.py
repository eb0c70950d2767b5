"""Every error this package raises on purpose, in one tree.

    CanaryError
    ├── ReleaseFileError        the release file is wrong: file, line, key, what is allowed
    ├── UnitError               a duration, percentage or limit cannot be read
    ├── FrameError              a table of windows is wrong: column, row, what is allowed
    ├── RefusedError            the rollout may not do this now (busy service, old fence, dry run, ...)
    ├── LoadBalancerError       the load balancer did not do or say what was asked
    │   └── UnknownTargetError  it does not know a backend or route that was named
    ├── MetricSourceError       the metric source could not be read
    ├── LedgerError             the ledger could not be read or written
    └── ConnectionSettingsError an Airflow connection lacks or mistypes a setting

A message is one clear sentence that names the place and the cure.
"""


class CanaryError(Exception):
    """Base of every error raised on purpose."""


class ReleaseFileError(CanaryError):
    """A release file that must not run.

    ``problems`` holds one sentence an error, each already starting with ``file:line: key:``.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UnitError(CanaryError, ValueError):
    """A duration, percentage or limit that cannot be read; a ValueError too, so that pydantic collects it."""


class FrameError(CanaryError):
    """A frame of windows that cannot be judged."""


class RefusedError(CanaryError):
    """The ledger does not allow what was asked; nothing was written to the load balancer."""


class LoadBalancerError(CanaryError):
    """The load balancer failed, or reads back something other than what was asked."""


class UnknownTargetError(LoadBalancerError):
    """The load balancer has no such backend, route or rule; nothing was written."""


class MetricSourceError(CanaryError):
    """The metric source could not be read; this is blindness, not harm."""


class LedgerError(CanaryError):
    """The ledger could not be read or written."""


class ConnectionSettingsError(CanaryError):
    """An Airflow connection is missing a setting, or has one that cannot be used."""
