"""One load balancer under test, as every suite that runs against all of them sees it."""

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from canary_release.core.ports import LoadBalancer


@dataclass
class Case:
    """One load balancer under test. configuration: all it holds apart from the two weights, to be compared.

    stranger: a hook that names a backend it does not have.  other_actor: a second, independent hook.
    leased: weights stand only as long as a lease does, and a restart ends it.
    forgets: a restart brings back what the configuration says, everything to the stable side.
    closes_idle: a shift closes idle connections; a client that just then asks on one has to ask again.
    resets: a shift closes a listening socket together with the connections that wait to be accepted, so that even a
        client that asks again may lose a request without a byte of an answer, at most one a shift.

    For the table in the README: title, its first cell in Markdown, where the type alone does not say it;
    tested_against, the real program with its version, or whose fake it is; kept_by, what it takes for weights to stand
    after a restart; restarts, false when there is nothing to end and start again.
    """

    balancer: LoadBalancer
    other_actor: LoadBalancer
    stranger: LoadBalancer
    configuration: Callable[[], Any]
    restart: Callable[[], None]
    url: str = ""
    leased: bool = False
    forgets: bool = False
    closes_idle: bool = False
    resets: bool = False
    title: str = ""
    tested_against: str = "itself"
    kept_by: str = ""
    restarts: bool = True


def real(name: str, argv: Sequence[str], environment: Mapping[str, str | None] | None = None) -> str:
    """``real NAME VERSION`` as the program itself tells it."""
    variables = {key: value for key, value in (environment or {}).items() if value is not None}
    told = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=os.environ | variables)
    version = re.search(r"[0-9]+\.[0-9]+\.[0-9]+", told.stdout + told.stderr)
    return f"real {name} {version.group() if version else '(it tells no version)'}"
