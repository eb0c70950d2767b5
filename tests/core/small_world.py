"""A world of load balancers and metric sources in which the release files of the core's tests are read."""

from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from canary_release.core.release import Ability


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RouteOptions(Strict):
    route: str
    sticky: bool = False
    port: int = Field(80, ge=1, le=65535)


class ScrapeOptions(Strict):
    preset: Literal["traefik", "haproxy"]


class NoOptions(Strict):
    pass


class SmallWorld:
    """Two load balancers and two metric sources."""

    def load_balancer_types(self) -> list[str]:
        return ["haproxy", "traefik"]

    def metric_types(self) -> list[str]:
        return ["prometheus", "scrape"]

    def load_balancer_options(self, type: str, /) -> type[BaseModel]:
        return {"traefik": RouteOptions, "haproxy": NoOptions}[type]

    def metric_options(self, type: str, /) -> type[BaseModel]:
        return {"scrape": ScrapeOptions, "prometheus": NoOptions}[type]

    def finest_step(self, type: str, options: BaseModel | None = None, /) -> Decimal:
        return {"traefik": Decimal("0.1"), "haproxy": Decimal("0.4")}[type]

    def abilities(self, type: str, /) -> frozenset[Ability]:
        return {"traefik": frozenset({Ability.STICKY}), "haproxy": frozenset({Ability.LEASE})}[type]


WORLD = SmallWorld()
