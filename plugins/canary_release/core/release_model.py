"""The release file as people write it: pydantic models, one for each block, with the words of every error.

`release_file.py` turns their errors into lines and the models into a Release.
"""

from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from canary_release.core.calendar_model import FreezeBlock, PeakBlock, Windows, calendar_problems
from canary_release.core.check_model import CheckBlock
from canary_release.core.field_types import (
    Block,
    Count,
    Duration,
    Flag,
    HoldOrRollBack,
    Name,
    Number,
    Percent,
    Person,
    Text,
    WhenClosed,
    WhenDrifted,
    positive,
    sound,
    with_default,
    word_of,
)
from canary_release.core.hook_model import CallHookBlock, StepHookBlock
from canary_release.core.notice_model import LinksBlock, NotifyBlock, each_receiver_once
from canary_release.core.release import Ability, Calendar, Release, Step, WhenUndecided
from canary_release.core.strict_yaml import Path
from canary_release.core.suggest import listed
from canary_release.core.units import show_duration, show_percent
from canary_release.core.values import FULL


class LoadBalancerBlock(Block):
    """Keys beyond these are the type's own options, checked against its own model."""

    model_config = ConfigDict(extra="allow")

    type: Name = Field(description="the kind of load balancer, such as `traefik`")
    connection: Text = Field(description="the id of its Airflow connection")
    backends: list[Name] = Field(
        description="what the two sides are called in the load balancer; the one with the traffic is stable",
        min_length=2,
        max_length=2,
    )
    needs: list[
        Annotated[
            Literal["lease", "forced_canary", "sticky", "mirror"],
            word_of(*map(str, Ability)),
            WithJsonSchema({"enum": list(map(str, Ability))}),
        ]
    ] = Field(default=[], description="what it must be able to do; checked here, and at each start as it is configured")

    @field_validator("needs")
    @classmethod
    def _each_need_once(cls, needs: list[str]) -> list[str]:
        if twice := sorted({need for need in needs if needs.count(need) > 1}):
            raise ValueError(f"{listed(twice)} stands twice; name each once")
        return needs

    @field_validator("backends")
    @classmethod
    def _two_different(cls, backends: list[str]) -> list[str]:
        if len(set(backends)) < len(backends):
            raise ValueError("the two backends are the same; name the two sides of the service")
        return backends


class MetricsBlock(Block):
    """Keys beyond these are the type's own options, checked against its own model."""

    model_config = ConfigDict(extra="allow")

    type: Name = Field(description="the kind of metric source, such as `prometheus`")
    connection: Text = Field(description="the id of its Airflow connection")


class StepBlock(Block):
    """One weight of the plan."""

    weight: Percent = Field(description="the canary's share of the traffic, such as `5%`")
    bake: Duration = Field(description="how long the step is watched, such as `10m`")
    min_bake: Duration = with_default(Step.min_bake, "0s", "the least time before an early promotion")
    min_requests: Count = Field(default=Step.min_requests, description="requests on the canary before it may advance")
    undecided: Annotated[
        Literal["hold", "extend", "advance", "roll_back"], word_of(*[str(word) for word in WhenUndecided])
    ] = with_default(
        str(Step.when_undecided), str(Step.when_undecided), "what follows when the bake ends without a pass or a fail"
    )
    must_contain_peak: Flag = Field(default=False, description="bake until the peak hours were seen")
    extend_up_to: Duration | None = Field(
        default=None, description="with `undecided: extend`, the longest bake", json_schema_extra={"default": "0s"}
    )

    @model_validator(mode="after")
    def _fits(self) -> "StepBlock":
        problems: list[tuple[Path, str]] = []
        if self.weight <= 0:
            problems.append((("weight",), "`0%` sends nothing to the canary; a step needs more than 0"))
        if self.bake <= 0:
            problems.append((("bake",), "a bake must be longer than `0s`"))
        elif self.min_bake > self.bake:
            problems.append((("min_bake",), f"is longer than the bake ({show_duration(self.bake)})"))
        if self.undecided == "extend" and self.extend_up_to is None:
            problems.append((("undecided",), "`extend` needs extend_up_to, the longest bake, such as `30m`"))
        if self.undecided != "extend" and self.extend_up_to is not None:
            problems.append((("extend_up_to",), "is only used with `undecided: extend`; add that or remove this"))
        elif self.extend_up_to is not None and self.extend_up_to <= self.bake:
            problems.append((("extend_up_to",), f"must be longer than the bake ({show_duration(self.bake)})"))
        return sound(self, problems)


class ApprovalBlock(Block):
    by: list[Person] = Field(description="who may approve: users or groups, such as `[release-managers]`", min_length=1)
    timeout: Duration = with_default(14400.0, "4h", "how long to wait for the answer")
    on_timeout: HoldOrRollBack = with_default("roll_back", "roll_back", "what follows when nobody answers")
    not_by_starter: Flag = Field(default=False, description="whoever started the rollout may not approve it")

    _waits = field_validator("timeout")(positive("the timeout"))


class ApprovalStepBlock(Block):
    """Someone must say yes before the next weight."""

    approve: ApprovalBlock = Field(description="who must say yes, such as `{by: [release-managers]}`")


def _step_tag(value: Any) -> str:
    return "<approval>" if isinstance(value, dict) and "approve" in value else "<step>"


AnyStep = Annotated[
    Annotated[StepBlock, Tag("<step>")] | Annotated[ApprovalStepBlock, Tag("<approval>")], Discriminator(_step_tag)
]
Steps = Annotated[list[AnyStep], Field(min_length=1)]


class NoDataBlock(Block):
    """The budget for "cannot tell"."""

    max: Duration = with_default(
        Release.max_no_data, show_duration(Release.max_no_data), "how long a step may go without usable data"
    )
    then: HoldOrRollBack = with_default(Release.on_no_data, Release.on_no_data, "what follows")

    _waits = field_validator("max")(positive("the longest time without data"))


class BlindBlock(Block):
    """The budget for "the metric source cannot be read"."""

    max: Duration = with_default(
        Release.max_blind, show_duration(Release.max_blind), "how long before the canary is taken off"
    )

    _waits = field_validator("max")(positive("the longest time without metrics"))


class EarlyPromotionBlock(Block):
    """When a step may end before its bake is over."""

    harm_budget: Percent = with_default(
        Decimal(str(100 * Release.harm_budget)),
        show_percent(Decimal(str(100 * Release.harm_budget))),
        "the rise of the whole service's errors that the next step may at worst bring",
    )

    _some = field_validator("harm_budget")(positive("the harm budget"))


EarlyPromotion = Annotated[
    Annotated[Flag, Tag("<flag>")] | Annotated[EarlyPromotionBlock, Tag("<budget>")],
    Discriminator(lambda value: "<flag>" if isinstance(value, str) else "<budget>"),
]


class ReleaseBlock(Block):
    """A release file: how one service is rolled out."""

    service: Name = Field(description="what is released, such as `checkout`")
    owner: Text = Field(default="", description="who answers for it", json_schema_extra={"default": None})
    load_balancer: LoadBalancerBlock = Field(description="what splits the traffic")
    metrics: MetricsBlock = Field(description="what counts requests, errors and latency")
    poll: Duration = with_default(
        Release.poll, show_duration(Release.poll), "the time between two looks at the metrics"
    )
    lease: Duration | None = Field(
        default=None,
        description="how long a raised weight may stand without news; at least three polls",
        json_schema_extra={"default": show_duration(Release.lease)},
    )
    steps: Steps = Field(description="the weights in rising order, the last 100%")
    profiles: dict[Name, Steps] = Field(default={}, description="other lists of steps, chosen by name at the start")
    checks: list[CheckBlock] = Field(description="what is compared, and how much worse it may be", min_length=1)
    requests_per_user: Number | None = Field(
        default=None, description="how many requests a user makes, so that what a rollout did is told in users, too"
    )
    window: Windows = Field(
        default=None, description="when traffic may be given to a canary, one block or several; without it: at any time"
    )
    freeze: list[FreezeBlock] = Field(default=[], description="when nothing is released, whatever the windows say")
    when_closed: WhenClosed = with_default(
        Calendar.when_closed, Calendar.when_closed, "what a start does outside the windows, in a freeze or a cooldown"
    )
    allow_finish: Flag = Field(
        default=Calendar.allow_finish,
        description="a rollout that has begun goes on while it is closed; otherwise its next raise waits",
    )
    cooldown: Duration = with_default(Calendar.cooldown, "0s", "the time after a rollback in which no rollout starts")
    peak: PeakBlock | None = Field(default=None, description="the busiest hours, for steps with `must_contain_peak`")
    keep_old_for: Duration = with_default(
        Release.keep_old_for, "0s", "how long after a promotion one action returns to the old side"
    )
    on_asset: Name = Field(
        default="", description="an Airflow asset whose events start a rollout", json_schema_extra={"default": None}
    )
    before: list[StepHookBlock] = Field(default=[], description="called when the service is taken, before any traffic")
    before_step: list[StepHookBlock] = Field(default=[], description="called before every raise")
    after: list[CallHookBlock] = Field(default=[], description="called after the promotion")
    on_rollback: list[CallHookBlock] = Field(default=[], description="called after everything went back")
    no_data: NoDataBlock = Field(default=NoDataBlock(), description="what happens without usable data")
    blind: BlindBlock = Field(default=BlindBlock(), description="what happens when the metrics cannot be read")
    notify: list[NotifyBlock] = Field(default=[], description="who is told what; a channel for each receiver")
    links: LinksBlock = Field(default=LinksBlock(), description="where to look further, shown in Airflow and notices")
    drift: WhenDrifted = with_default(
        Release.drift, Release.drift, "what follows when somebody else moved the weights; repair happens once a step"
    )
    early_promotion: EarlyPromotion = Field(
        default=True, description="end a step early on strong evidence; `false` to always bake in full"
    )

    @model_validator(mode="after")
    def _one_calendar(self) -> "ReleaseBlock":
        plans = {("steps",): self.steps} | {("profiles", name): steps for name, steps in self.profiles.items()}
        wanting = [
            (*path, index, "must_contain_peak")
            for path, steps in plans.items()
            for index, step in enumerate(steps)
            if isinstance(step, StepBlock) and step.must_contain_peak
        ]
        return sound(self, calendar_problems(self.window, self.freeze, self.peak, wanting))

    _some = field_validator("requests_per_user")(positive("the number of requests"))
    _looks = field_validator("poll")(positive("the poll"))
    _told_once = field_validator("notify")(each_receiver_once)

    @field_validator("lease")
    @classmethod
    def _outlives_three_polls(cls, lease: float | None, info: ValidationInfo) -> float | None:
        poll = info.data.get("poll")
        if lease is not None and poll is not None and lease < 3 * poll:
            raise ValueError(f"must be at least three polls ({show_duration(3 * poll)}), or a slow look would end it")
        return lease

    @field_validator("steps")
    @classmethod
    def _climb(cls, steps: Steps, info: ValidationInfo) -> Steps:
        return sound(steps, _plan_problems(steps, info.data.get("poll")))

    @field_validator("profiles")
    @classmethod
    def _climb_everywhere(cls, profiles: dict[str, Steps], info: ValidationInfo) -> dict[str, Steps]:
        problems: list[tuple[Path, str]] = []
        if "standard" in profiles:
            problems.append((("standard",), "is the name of the steps at the top of the file; choose another"))
        for name, steps in profiles.items():
            problems += [((name, *path), what) for path, what in _plan_problems(steps, info.data.get("poll"))]
        return sound(profiles, problems)

    @field_validator("checks")
    @classmethod
    def _each_once(cls, checks: list[CheckBlock]) -> list[CheckBlock]:
        problems: list[tuple[Path, str]] = []
        seen: dict[tuple[str, float | None], int] = {}
        for index, check in enumerate(checks):
            first = seen.setdefault((check.metric, check.known_quantile), index)
            if first != index:
                problems.append(((index,), f"checks {check.metric} again, after checks[{first}]; keep one"))
        if all(check.observe_only for check in checks):
            problems.append(((), "all are observe_only, so nothing could stop a bad release; let one act"))
        return sound(checks, problems)


def _plan_problems(steps: list[Any], poll: float | None) -> list[tuple[Path, str]]:
    """What is wrong with steps that are each right by themselves."""
    problems: list[tuple[Path, str]] = []
    weights = [(index, step) for index, step in enumerate(steps) if isinstance(step, StepBlock)]
    if not weights:
        return [((), "hold no weight; add at least `{weight: 100%, bake: 10m}`")]
    for (_, before), (index, step) in pairwise(weights):
        if step.weight <= before.weight:
            said = f"{show_percent(step.weight)} is no more than the {show_percent(before.weight)} before it"
            problems.append(((index, "weight"), f"{said}; weights must rise"))
    last, final = weights[-1]
    if final.weight != FULL:
        problems.append(((last, "weight"), f"the last weight must be 100%, not {show_percent(final.weight)}"))
    for index, step in weights:
        if poll is not None and 0 < step.bake < poll:
            problems.append(((index, "bake"), f"is shorter than the poll ({show_duration(poll)}); bake longer"))
    return problems + _approval_problems(steps)


def _approval_problems(steps: list[Any]) -> list[tuple[Path, str]]:
    problems: list[tuple[Path, str]] = []
    for index, step in enumerate(steps):
        if isinstance(step, StepBlock):
            continue
        if index == 0:
            problems.append(((index, "approve"), "cannot come first, there is nothing to approve yet; put it later"))
        elif index == len(steps) - 1:
            problems.append(((index, "approve"), "cannot come last, the release is over by then; put it before 100%"))
        elif not isinstance(steps[index - 1], StepBlock):
            problems.append(((index, "approve"), "follows another approval; name everybody in one"))
    return problems
