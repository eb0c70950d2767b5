"""From a release file to a Release, or to all that is wrong with it, one line each: ``file:line: key: what; cure``."""

import hashlib
import json
import pathlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from canary_release.core.calendar_model import windows_of, zone_of
from canary_release.core.check_model import CheckBlock
from canary_release.core.field_types import Block
from canary_release.core.hook_model import CallHookBlock
from canary_release.core.loose_values import typed
from canary_release.core.problem_words import (
    MOST_TRANSLATED,
    Problem,
    lines_of,
    translate,
    unknown_key,
    without_echoes,
    words_of,
)
from canary_release.core.problems import ReleaseFileError, UnitError
from canary_release.core.release import (
    Ability,
    Approval,
    Calendar,
    Check,
    Direction,
    Hook,
    Limit,
    LimitKind,
    Moment,
    Release,
    Step,
    Target,
    WhenUndecided,
)
from canary_release.core.release_model import (
    ApprovalBlock,
    ApprovalStepBlock,
    EarlyPromotionBlock,
    LoadBalancerBlock,
    MetricsBlock,
    ReleaseBlock,
    StepBlock,
)
from canary_release.core.strict_yaml import LARGEST, Path, Scalar, read_yaml
from canary_release.core.suggest import closest, did_you_mean, listed, shown
from canary_release.core.units import read_percent
from canary_release.core.values import plain


class Backends(Protocol):
    """What there is to choose from; the hooks' registry implements it.

    An options model is validated with its own settings from JSON, so it may be strict and still use enums, decimals
    and tuples. Its field and validator messages reach the user behind ``file:line: key:``.
    """

    def load_balancer_types(self) -> Sequence[str]: ...

    def metric_types(self) -> Sequence[str]: ...

    def load_balancer_options(self, type: str, /) -> type[BaseModel]: ...

    def metric_options(self, type: str, /) -> type[BaseModel]: ...

    def finest_step(self, type: str, options: BaseModel | None = None, /) -> Decimal:
        """The smallest share in percent that the load balancer sets exactly."""

    def abilities(self, type: str, /) -> Collection[Ability]:
        """What a type of load balancer can do beyond sharing out traffic."""


def load_release(path_or_text: pathlib.Path | str, *, source_name: str | None = None, backends: Backends) -> Release:
    """Read a release file. A Path is opened, a str is the file's text.

    ReleaseFileError holds every problem found; its lines begin with ``source_name`` (default: the path).
    """
    release, problems = _read(path_or_text, source_name, backends)
    if release is None:
        raise ReleaseFileError(problems)
    return release


def lint(path_or_text: pathlib.Path | str, *, source_name: str | None = None, backends: Backends) -> list[str]:
    """Everything that is wrong with a release file, a line each, in the file's order; empty when it may run."""
    return _read(path_or_text, source_name, backends)[1]


def _read(
    path_or_text: pathlib.Path | str, source_name: str | None, backends: Backends
) -> tuple[Release | None, list[str]]:
    named = source_name or (str(path_or_text) if isinstance(path_or_text, pathlib.Path) else "release file")
    name = "".join(char if char.isprintable() else "?" for char in named)
    try:
        source = _bytes_of(path_or_text) if isinstance(path_or_text, pathlib.Path) else path_or_text
    except OSError as error:
        return None, [f"{name}:1: the file cannot be read ({error.strerror or error}); check its path and permissions"]
    document = read_yaml(source)
    problems = [Problem(flaw.path, flaw.what, flaw.line) for flaw in document.flaws]
    if document.data is None:
        return None, lines_of(name, document, problems)
    block, found = _validate(document.data)
    options, option_problems = _read_options(document.data, backends)
    unfit = [*_coarse_weights(document.data, options, backends), *_missing_abilities(document.data, backends)]
    problems = without_echoes([*problems, *found, *option_problems, *unfit])
    if problems or block is None:
        return None, lines_of(name, document, problems)
    text = source if isinstance(source, str) else source.decode("utf-8")
    return _release(block, options, text), []


def _bytes_of(path: pathlib.Path) -> bytes:
    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")
    with path.open("rb") as file:
        return file.read(LARGEST + 1)


def _validate(data: dict[str, Any]) -> tuple[ReleaseBlock | None, list[Problem]]:
    try:
        return ReleaseBlock.model_validate(data), []
    except ValidationError as error:
        return None, translate(error.errors(include_url=False))


# --- the load balancer's and the metric source's own options ---


@dataclass(frozen=True)
class _Options:
    load_balancer: BaseModel | None
    metrics: BaseModel | None


def _read_options(data: dict[str, Any], backends: Backends) -> tuple[_Options, list[Problem]]:
    problems: list[Problem] = []
    balancer = _options_of(
        data,
        "load_balancer",
        LoadBalancerBlock,
        backends.load_balancer_types(),
        backends.load_balancer_options,
        problems,
    )
    source = _options_of(data, "metrics", MetricsBlock, backends.metric_types(), backends.metric_options, problems)
    return _Options(balancer, source), problems


def _options_of(
    data: dict[str, Any], key: str, block: type[Block], types: Sequence[str], model_of: Any, problems: list[Problem]
) -> BaseModel | None:
    """The typed options of one block, None when they are wrong; what is wrong is added to ``problems``."""
    section = data.get(key)
    if not isinstance(section, dict) or not isinstance(section.get("type"), Scalar):
        return None  # the model has said so already
    chosen = str(section["type"])
    if chosen not in types:
        hint = did_you_mean(chosen, types)
        problems.append(Problem((key, "type"), f"{shown(chosen)} is not known{hint}; allowed: {listed(sorted(types))}"))
        return None
    model: type[BaseModel] = model_of(chosen)
    own = {name: value for name, value in section.items() if name not in block.model_fields}
    known = [*block.model_fields, *(field.alias or name for name, field in model.model_fields.items())]
    bent: list[tuple[Path, str]] = []
    values = typed(own, (key,), bent)
    problems += [Problem(path, what) for path, what in bent]
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems += _option_errors(error, key, known, skip={path for path, _ in bent})
    return None


def _option_errors(error: ValidationError, key: str, known: Sequence[str], *, skip: set[Path]) -> Iterator[Problem]:
    errors = error.errors(include_url=False)[:MOST_TRANSLATED]
    unknown = [one["loc"] for one in errors if one["type"] == "extra_forbidden"]
    meant = {(*loc[:-1], closest(str(loc[-1]), known)) for loc in unknown}
    for one in errors:
        path = (key, *one["loc"])
        if path in skip or (one["type"] == "missing" and one["loc"] in meant):
            continue
        if one["type"] == "missing":
            yield Problem(path, f"is missing; this type of {key} needs it")
        elif one["type"] == "extra_forbidden":
            yield Problem(path, unknown_key(str(one["loc"][-1]), known if len(one["loc"]) == 1 else ()))
        elif one["type"] == "value_error":
            yield Problem(path, str(one.get("ctx", {}).get("error", one["msg"])).replace("\n", " "))
        else:
            yield Problem(path, words_of(one))


def _coarse_weights(data: dict[str, Any], options: _Options, backends: Backends) -> Iterator[Problem]:
    """Weights that the load balancer cannot set exactly; nothing is rounded."""
    section = data.get("load_balancer")
    kind = str(section.get("type")) if isinstance(section, dict) else ""
    if kind not in backends.load_balancer_types():
        return
    finest = backends.finest_step(kind, options.load_balancer)
    for path, text in _written_weights(data):
        try:
            percent = read_percent(text)
        except UnitError:
            continue  # the model has said so already
        if percent % finest:
            what = f"{shown(text)} is finer than {kind} can set; write a multiple of `{plain(finest)}%`"
            yield Problem(path, what)


def _missing_abilities(data: dict[str, Any], backends: Backends) -> Iterator[Problem]:
    """What the file relies on and the type of load balancer cannot do."""
    section = data.get("load_balancer")
    needs = section.get("needs") if isinstance(section, dict) else None
    types = backends.load_balancer_types()
    if not isinstance(section, dict) or not isinstance(needs, list) or section.get("type") not in types:
        return
    kind = str(section["type"])
    for index, need in enumerate(needs):
        if need not in list(Ability) or need in backends.abilities(kind):
            continue  # what is no ability was said by the model
        able = [one for one in sorted(types) if need in backends.abilities(one)]
        what = f"{shown(str(need))} is nothing that {kind} can do; take it out, or use one of: {listed(able)}"
        yield Problem(("load_balancer", "needs", index), what)


def _written_weights(data: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    profiles = data.get("profiles")
    plans: list[tuple[Path, Any]] = [(("steps",), data.get("steps"))]
    if isinstance(profiles, dict):
        plans += [(("profiles", str(name)), steps) for name, steps in profiles.items()]
    for path, steps in plans:
        for index, step in enumerate(steps if isinstance(steps, list) else []):
            weight = step.get("weight") if isinstance(step, dict) else None
            if isinstance(weight, str):
                yield (*path, index, "weight"), weight


# --- the models to a Release ---


def _release(block: ReleaseBlock, options: _Options, text: str) -> Release:
    early = block.early_promotion
    budget = early.harm_budget / 100 if isinstance(early, EarlyPromotionBlock) else None
    balancer = block.load_balancer
    return Release(
        service=block.service,
        owner=block.owner,
        load_balancer=Target(balancer.type, balancer.connection, options.load_balancer),
        backends=(balancer.backends[0], balancer.backends[1]),
        metrics=Target(block.metrics.type, block.metrics.connection, options.metrics),
        steps=_steps(block.steps),
        profiles={name: _steps(steps) for name, steps in block.profiles.items()},
        checks=tuple(_check(check) for check in block.checks),
        poll=block.poll,
        lease=block.lease if block.lease is not None else max(Release.lease, 3 * block.poll),
        max_no_data=block.no_data.max,
        on_no_data=block.no_data.then,
        max_blind=block.blind.max,
        harm_budget=Release.harm_budget if budget is None else float(budget),
        early_promotion=early is not False,
        drift=block.drift,
        calendar=_calendar(block),
        hooks=_hooks(block),
        requests_per_user=block.requests_per_user or 0.0,
        keep_old_for=block.keep_old_for,
        needs=tuple(Ability(need) for need in balancer.needs),
        on_asset=block.on_asset,
        notify=tuple(channel.channel() for channel in block.notify),
        links=block.links.links(),
        text=text,
        sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
    )


def _steps(blocks: Sequence[StepBlock | ApprovalStepBlock]) -> tuple[Step | Approval, ...]:
    return tuple(_step(block) if isinstance(block, StepBlock) else _approval(block.approve) for block in blocks)


def _step(block: StepBlock) -> Step:
    return Step(
        weight=block.weight,
        bake=block.bake,
        min_bake=block.min_bake,
        min_requests=block.min_requests,
        when_undecided=WhenUndecided(block.undecided),
        extend_up_to=block.extend_up_to or 0.0,
        must_contain_peak=block.must_contain_peak,
    )


def _approval(block: ApprovalBlock) -> Approval:
    return Approval(
        by=tuple(block.by), timeout=block.timeout, on_timeout=block.on_timeout, not_by_starter=block.not_by_starter
    )


def _check(block: CheckBlock) -> Check:
    kind = block.known_kind
    assert kind is not None  # the model refuses a check without
    return Check(
        metric=block.metric,
        kind=kind,
        quantile=block.known_quantile,
        max_change=block.max_increase or block.max_decrease,
        absolute=_absolute(block.max or block.min),
        direction=Direction(block.direction),
        share=block.weight,
        critical=block.critical,
        observe_only=block.observe_only,
    )


def _absolute(limit: Limit | None) -> Limit | None:
    """``max: 1%`` on a proportion is a share of its own, not relative to anything."""
    if limit is not None and limit.kind is LimitKind.RELATIVE:
        return Limit(LimitKind.POINTS, limit.amount, limit.text)
    return limit


def _calendar(block: ReleaseBlock) -> Calendar:
    zone = zone_of(block.window)
    return Calendar(
        windows=tuple(window.window() for window in windows_of(block.window)),
        freezes=tuple(freeze.freeze(zone or "UTC") for freeze in block.freeze),
        when_closed=block.when_closed,
        allow_finish=block.allow_finish,
        cooldown=block.cooldown,
        peak=block.peak.in_zone(block.peak.timezone or zone) if block.peak else None,
    )


def _hooks(block: ReleaseBlock) -> dict[Moment, tuple[Hook, ...]]:
    blocks: dict[Moment, Sequence[CallHookBlock]] = {
        Moment.BEFORE: block.before,
        Moment.BEFORE_STEP: block.before_step,
        Moment.AFTER: block.after,
        Moment.ON_ROLLBACK: block.on_rollback,
    }
    return {moment: tuple(each.hook() for each in hooks) for moment, hooks in blocks.items() if hooks}
