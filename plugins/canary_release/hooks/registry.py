"""Which load balancers and metric sources there are: one line each, imported when first asked for."""

import math
from decimal import Decimal
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from canary_release.core.ports import LoadBalancer, MetricSource
from canary_release.core.problems import ReleaseFileError
from canary_release.core.release import Ability, Release, Target
from canary_release.hooks.abilities import abilities_of

LOAD_BALANCERS = {
    "apache": "canary_release.hooks.apache:ApacheHook",
    "aws_alb": "canary_release.hooks.aws_alb:AwsAlbHook",
    "aws_alb_leased": "canary_release.hooks.aws_lease:LeasedAlbHook",
    "aws_lambda": "canary_release.hooks.aws_lambda:AwsLambdaHook",
    "aws_route53": "canary_release.hooks.aws_route53:AwsRoute53Hook",
    "caddy": "canary_release.hooks.caddy:CaddyHook",
    "caddy_file": "canary_release.hooks.caddy_file:CaddyFileHook",
    "envoy": "canary_release.hooks.envoy:EnvoyHook",
    "gateway_api": "canary_release.hooks.gateway_api:GatewayApiHook",
    "haproxy": "canary_release.hooks.haproxy:HaproxyHook",
    "haproxy_weights": "canary_release.hooks.haproxy_weights:HaproxyWeightsHook",
    "http": "canary_release.hooks.http_weights:HttpWeightsHook",
    "istio": "canary_release.hooks.istio:IstioHook",
    "memory": "canary_release.hooks.memory_balancer:MemoryBalancer",
    "nginx": "canary_release.hooks.nginx:NginxHook",
    "nginx_plus": "canary_release.hooks.nginx_plus:NginxPlusHook",
    "traefik": "canary_release.hooks.traefik:TraefikHook",
}
METRIC_SOURCES = {
    "access_log": "canary_release.hooks.access_log:AccessLogSource",
    "cloudwatch": "canary_release.hooks.cloudwatch:CloudWatchSource",
    "datadog": "canary_release.hooks.datadog:DatadogSource",
    "graphite": "canary_release.hooks.graphite:GraphiteSource",
    "influxdb": "canary_release.hooks.influxdb:InfluxSource",
    "prometheus": "canary_release.hooks.prometheus_api:PrometheusSource",
    "replayed": "canary_release.hooks.replayed:ReplayedSource",
    "scrape": "canary_release.hooks.scrape:ScrapeSource",
    "sql": "canary_release.hooks.sql_source:SqlSource",
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

    def finest_step(self, type: str, options: BaseModel | None = None) -> Decimal:
        """The smallest share in percent that the load balancer sets exactly; with some it depends on their options."""
        step: Decimal = _load(LOAD_BALANCERS, type, "load_balancer").finest_step
        return getattr(options, "finest_step", step)

    def abilities(self, type: str) -> frozenset[Ability]:
        """What a load balancer of this type can do beyond sharing out traffic, when it is configured to."""
        return abilities_of(_load(LOAD_BALANCERS, type, "load_balancer"))


BACKENDS = Registry()


def make_load_balancer(release: Release) -> LoadBalancer:
    """The load balancer of a release; nothing is contacted yet."""
    target = release.load_balancer
    hook = _load(LOAD_BALANCERS, target.type, "load_balancer")
    options = _options(hook, target, "load_balancer")
    _check_lease(hook, options, release, target)
    balancer: LoadBalancer = hook(target.connection, release.backends, options)
    return balancer


def make_metric_source(release: Release, *, stable: str, canary: str) -> MetricSource:
    """The metric source of a release for these two backends of its load balancer; nothing is contacted yet."""
    target = release.metrics
    hook = _load(METRIC_SOURCES, target.type, "metrics")
    options = _options(hook, target, "metrics")
    _check_lease(hook, options, release, target, besides=release.poll)
    source: MetricSource = hook(target.connection, stable, canary, options)
    return source


def _check_lease(hook: Any, options: BaseModel, release: Release, target: Target, besides: float = 0.0) -> None:
    """Some need time to keep a lease, or to bring the news that renews it; a shorter one would always run out."""
    shortest = getattr(hook, "shortest_lease", None)
    needed = shortest(options) + besides if shortest is not None else 0.0
    if release.lease < needed:
        raise ReleaseFileError([f"lease: is too short for {target.type}; write `{math.ceil(needed / 60)}m` or more"])


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
