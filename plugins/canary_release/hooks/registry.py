"""Which load balancers and metric sources there are: one line each, imported when first asked for."""

from decimal import Decimal
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from canary_release.core.ports import LoadBalancer, MetricSource
from canary_release.core.problems import ReleaseFileError
from canary_release.core.release import Release, Target

LOAD_BALANCERS = {
    "haproxy": "canary_release.hooks.haproxy:HaproxyHook",
    "memory": "canary_release.hooks.memory_balancer:MemoryBalancer",
    "traefik": "canary_release.hooks.traefik:TraefikHook",
}
METRIC_SOURCES = {
    "replayed": "canary_release.hooks.replayed:ReplayedSource",
    "scrape": "canary_release.hooks.scrape:ScrapeSource",
}

OptionsClass = type[BaseModel]


class Registry:
    """What a release file may name, for the one who reads release files. Every method raises ReleaseFileError for a
    type that is not registered, with the known ones and the nearest."""

    def load_balancer_types(self) -> list[str]:
        return sorted(LOAD_BALANCERS)

    def metric_types(self) -> list[str]:
        return sorted(METRIC_SOURCES)

    def load_balancer_options(self, type: str) -> OptionsClass:
        options: OptionsClass = _load(LOAD_BALANCERS, type, "load_balancer").Options
        return options

    def metric_options(self, type: str) -> OptionsClass:
        options: OptionsClass = _load(METRIC_SOURCES, type, "metrics").Options
        return options

    def finest_step(self, type: str) -> Decimal:
        """The smallest share in percent that the load balancer sets exactly."""
        step: Decimal = _load(LOAD_BALANCERS, type, "load_balancer").finest_step
        return step


BACKENDS = Registry()


def make_load_balancer(release: Release) -> LoadBalancer:
    """The load balancer of a release; nothing is contacted yet."""
    target = release.load_balancer
    hook = _load(LOAD_BALANCERS, target.type, "load_balancer")
    balancer: LoadBalancer = hook(target.connection, release.backends, _options(hook, target, "load_balancer"))
    return balancer


def make_metric_source(release: Release, *, stable: str, canary: str) -> MetricSource:
    """The metric source of a release for these two backends of its load balancer; nothing is contacted yet."""
    target = release.metrics
    hook = _load(METRIC_SOURCES, target.type, "metrics")
    source: MetricSource = hook(target.connection, stable, canary, _options(hook, target, "metrics"))
    return source


def _load(known: dict[str, str], name: str, key: str) -> Any:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ReleaseFileError([f"{key}.type: {name!r} is not known; known are {', '.join(sorted(known))}.{hint}"])
    module, _, attribute = known[name].partition(":")
    return getattr(import_module(module), attribute)


def _options(hook: Any, target: Target, key: str) -> BaseModel:
    """The typed options; those of a release made by hand may be a mapping, or None for all defaults."""
    wanted: OptionsClass = hook.Options
    if isinstance(target.options, wanted):
        return target.options
    try:
        return wanted.model_validate(target.options or {})
    except ValidationError as error:
        problems = [f"{key}.{'.'.join(map(str, one['loc']))}: {one['msg']}." for one in error.errors()]
        raise ReleaseFileError(problems) from None
