"""The registry: what is known, what is not, and what comes out."""

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

import canary_release
from canary_release.core.problems import ReleaseFileError
from canary_release.core.release import Release, Target
from canary_release.core.release_file import load_release
from canary_release.hooks.registry import BACKENDS, make_load_balancer, make_metric_source
from canary_release.hooks.scrape import ScrapeSource
from canary_release.hooks.traefik import TraefikHook


def release(load_balancer: Target, metrics: Target) -> Release:
    return Release("shop", load_balancer, ("blue", "green"), metrics, steps=(), checks=())


def test_every_entry_has_what_a_release_file_needs() -> None:
    for name in BACKENDS.load_balancer_types():
        assert issubclass(BACKENDS.load_balancer_options(name), BaseModel)
        assert Decimal(0) < BACKENDS.finest_step(name) <= Decimal(1)
    for name in BACKENDS.metric_types():
        assert issubclass(BACKENDS.metric_options(name), BaseModel)


def test_every_option_is_described_for_the_schema() -> None:
    models = [BACKENDS.load_balancer_options(name) for name in BACKENDS.load_balancer_types()]
    models += [BACKENDS.metric_options(name) for name in BACKENDS.metric_types()]
    for model in models:
        assert model.model_config["extra"] == "forbid"
        assert all(field.description for field in model.model_fields.values()), model


def test_an_unknown_type_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(ReleaseFileError, match=r"'traefic' is not known; known are .*traefik\. Did you mean traefik\?"):
        BACKENDS.finest_step("traefic")
    with pytest.raises(ReleaseFileError, match=r"known are .*prometheus, replayed, scrape"):
        BACKENDS.metric_options("xyz")


def test_a_release_gets_its_hooks_without_anything_being_contacted() -> None:
    one = release(Target("traefik", "lb", {"route": "shop"}), Target("scrape", "metrics", ScrapeSource.Options()))
    balancer = make_load_balancer(one)
    source = make_metric_source(one, stable="blue", canary="green")
    assert isinstance(balancer, TraefikHook)
    assert (balancer.backends, balancer.options.route) == (("blue", "green"), "shop")
    assert isinstance(source, ScrapeSource)
    assert (source.stable, source.canary) == ("blue", "green")


@pytest.mark.parametrize("options", [None, {"route": ""}, {"route": "shop", "weight": 5}])
def test_options_that_are_missing_or_unknown_name_their_key(options: object) -> None:
    with pytest.raises(ReleaseFileError, match=r"load_balancer\.(route|weight): "):
        make_load_balancer(release(Target("traefik", "lb", options), Target("scrape", "metrics")))


def test_the_registry_alone_imports_no_backend() -> None:
    script = (
        "import sys; import canary_release.hooks.registry; "
        "print([name for name in sys.modules if name in ('airflow', 'requests', 'pandas', 'boto3')])"
    )
    plugins = Path(canary_release.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(plugins)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_release_file_with_a_registered_type_is_read_and_gets_its_hook() -> None:
    text = """
service: shop
load_balancer: {type: traefik, connection: lb, route: shop, backends: [blue, green]}
metrics: {type: scrape, connection: metrics, preset: traefik, replicas: [second]}
steps:
  - {weight: 0.01%, bake: 1m}
  - {weight: 100%, bake: 1m}
checks:
  - {metric: error_rate, max_increase: 0.5pp}
"""
    one = load_release(text, source_name="shop.yaml", backends=BACKENDS)
    source = make_metric_source(one, stable="blue", canary="green")
    assert isinstance(source, ScrapeSource)
    assert source.options.replicas == ("second",)
    with pytest.raises(ReleaseFileError, match="weight"):
        load_release(text.replace("0.01%", "0.005%"), source_name="shop.yaml", backends=BACKENDS)
