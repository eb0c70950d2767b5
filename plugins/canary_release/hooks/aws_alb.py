"""AWS Application Load Balancer: the weights of two target groups in a rule's or a listener's forward action.

API: https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/ (DescribeRules, ModifyRule,
DescribeListeners, ModifyListener, DescribeTargetHealth).  A write replaces the whole list of actions, so the list is
read, changed in two numbers and written in one call.  There is no compare-and-set.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import Any, Self

from airflow.sdk import BaseHook
from pydantic import Field, model_validator

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import FULL, Weights
from canary_release.hooks.aws_client import Arn, AwsClient
from canary_release.hooks.connections import Strict
from canary_release.hooks.weight_units import from_units, to_units

LARGEST_WEIGHT = 999
MOST_GROUPS = 5
UNKNOWN = frozenset({"ListenerNotFound", "RuleNotFound", "TargetGroupNotFound", "LoadBalancerNotFound"})
# Targets on their way in or out say nothing about the version; `unavailable` is a group without health checks.
FINE_STATES = {"healthy", "initial", "draining", "unavailable"}
SERVING_STATES = {"healthy", "unavailable"}

Action = dict[str, Any]


def _arn(text: str, resource: str, what: str) -> Arn:
    arn = Arn.read(text)
    if arn.service != "elasticloadbalancing" or not arn.resource.startswith(resource):
        raise ValueError(f"{text!r} is no ARN of {what}")
    return arn


class AlbOptions(Strict):
    """What a release file says about an ALB beyond its connection."""

    rule: str | None = Field(None, description="ARN of the listener rule that splits the traffic.")
    listener: str | None = Field(None, description="ARN of the listener whose default action splits the traffic.")
    target_groups: dict[str, str] = Field(description="ARN of each backend's target group, by the backend's name.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.rule is None) == (self.listener is None):
            raise ValueError("give either rule or listener")
        if len(self.target_groups) != 2 or len(set(self.target_groups.values())) != 2:
            raise ValueError("target_groups needs the two backends, each with a target group of its own")
        regions = {_arn(group, "targetgroup/", "a target group").region for group in self.target_groups.values()}
        if regions != {self.place.region}:
            raise ValueError("the target groups are in another region than what splits the traffic")
        return self

    @property
    def place(self) -> Arn:
        if self.rule is not None:
            return _arn(self.rule, "listener-rule/app/", "a rule of an Application Load Balancer")
        return _arn(self.listener or "", "listener/app/", "a listener of an Application Load Balancer")

    @property
    def where(self) -> str:
        kind = "The rule" if self.rule is not None else "The default action of the listener"
        return f"{kind} {self.rule or self.listener}"


class AwsAlbHook(BaseHook):
    """Connection type ``aws``. The region is that of the ARNs.

    Weights add up to 1,000, so that the finest step is 0.1 %; everything is 999 to 0, since 999 is the largest.
    Sticky sessions stay as they are set: visitors of the canary then stay with it until its weight is 0.
    """

    Options: type[AlbOptions] = AlbOptions
    finest_step: Decimal = Decimal("0.1")

    def __init__(self, connection_id: str, backends: tuple[str, str], options: AlbOptions) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What the rule or listener says. Raises UnknownTargetError when it, or a backend in it, does not exist,
        LoadBalancerError when other target groups get traffic, too.
        """
        return self._shares(self._groups(self._actions()))

    def set_weights(self, weights: Weights) -> None:
        """Write both weights in one call; all else in the list of actions stays.

        Where both sides get traffic, the one whose share grows must be well, and nobody else may have traffic there.
        Giving one side everything is the way back: not refused for either, and it puts a target group back that was
        taken out.  Raises UnknownTargetError or LoadBalancerError before anything is written, and LoadBalancerError
        when AWS refuses.
        """
        units = to_units(weights, self.backends, self.finest_step)
        actions = self._actions()
        changed = self._with_weights(actions, units)
        check_actions(changed, self.options.where)
        if FULL not in weights.shares.values():
            before = self._shares(self._groups(actions))
            for name in self.backends:
                if weights[name] > before[name]:
                    self._require_health(name)
        operation, parameters = self.request(changed)
        self._client.call(operation, **parameters)

    def sticky_by(self) -> str:
        """The cookie that keeps a client on its target group, and for how long.

        https://docs.aws.amazon.com/elasticloadbalancing/latest/application/sticky-sessions.html (target group
        stickiness of a forward action).  Raises UnknownTargetError when it is off, LoadBalancerError.
        """
        actions = self._actions()
        self._groups(actions)
        forward = next(action for action in actions if action.get("Type") == "forward")
        stickiness = (forward.get("ForwardConfig") or {}).get("TargetGroupStickinessConfig") or {}
        if not stickiness.get("Enabled"):
            raise UnknownTargetError(f"{self.options.where} keeps no client on its side; turn stickiness on in it.")
        return f"cookie AWSALBTG, for {stickiness.get('DurationSeconds')} s"

    def unhealthy(self, backend: str) -> list[str]:
        """Why this backend should get no more traffic: a sentence for each target, none when it is well.

        Targets that are starting or draining do not count, as long as one serves.  Raises LoadBalancerError.
        """
        arn = self._arns[backend]
        described = self._client.call("describe_target_health", TargetGroupArn=arn)["TargetHealthDescriptions"]
        states = [(one["Target"]["Id"], one.get("TargetHealth", {})) for one in described]
        if not any(health.get("State") in SERVING_STATES for _, health in states):
            return [f"{backend} has no healthy target among {len(states)}: see target group {arn}"]
        return [
            f"{backend}: target {target} is {health.get('State')} ({health.get('Reason', 'no reason given')})"
            for target, health in states
            if health.get("State") not in FINE_STATES
        ]

    def request(self, actions: list[Action]) -> tuple[str, dict[str, Any]]:
        """The operation that replaces the list of actions, as in boto3, and its parameters."""
        if self.options.rule is not None:
            return "modify_rule", {"RuleArn": self.options.rule, "Actions": actions}
        return "modify_listener", {"ListenerArn": self.options.listener, "DefaultActions": actions}

    def actions_with_all_on(self, safe: str) -> list[Action]:
        """The list of actions as it stands, with everything on ``safe``. Raises UnknownTargetError."""
        if safe not in self.backends:
            raise UnknownTargetError(f"{safe} cannot be the safe side; the backends are {' and '.join(self.backends)}.")
        whole = {name: 1000 if name == safe else 0 for name in self.backends}
        return self._with_weights(self._actions(), whole)

    @cached_property
    def _client(self) -> AwsClient:
        return AwsClient(
            self.connection_id,
            "elbv2",
            raises=LoadBalancerError,
            missing=UnknownTargetError,
            unknown=UNKNOWN,
            region=self.options.place.region,
        )

    @cached_property
    def _arns(self) -> dict[str, str]:
        """Target group by backend."""
        groups = self.options.target_groups
        if missing := [name for name in self.backends if name not in groups]:
            known = ", ".join(sorted(groups))
            raise UnknownTargetError(f"target_groups has no ARN for {' and '.join(missing)}; it has {known}.")
        return {name: groups[name] for name in self.backends}

    def _actions(self) -> list[Action]:
        if self.options.rule is not None:
            found = self._client.call("describe_rules", RuleArns=[self.options.rule])["Rules"]
            key = "Actions"
        else:
            found = self._client.call("describe_listeners", ListenerArns=[self.options.listener])["Listeners"]
            key = "DefaultActions"
        if len(found) != 1:
            raise UnknownTargetError(f"{self.options.where} does not exist; correct the ARN in the release file.")
        return list(found[0].get(key, []))

    def _shares(self, groups: Mapping[str, int]) -> Weights:
        """Raises LoadBalancerError when target groups that are not of the two backends get traffic, too."""
        others = [arn for arn, weight in groups.items() if weight and arn not in self._arns.values()]
        if others:
            raise LoadBalancerError(f"{self.options.where} shares traffic with others, too: {', '.join(others)}.")
        return from_units({name: groups[arn] for name, arn in self._arns.items()}, self.options.where)

    def _groups(self, actions: list[Action]) -> dict[str, int]:
        """Weights by ARN of the forward action, both backends among them."""
        groups = forwarded(actions, self.options.where)
        if missing := [name for name, arn in self._arns.items() if arn not in groups]:
            raise UnknownTargetError(
                f"{self.options.where} does not forward to the target group of {' and '.join(missing)}; add it there "
                f"with weight 0."
            )
        return groups

    def _with_weights(self, actions: list[Action], units: Mapping[str, int]) -> list[Action]:
        """Weights of units that add up to 1,000, in a copy of the actions that AWS accepts back."""
        # Who took a backend out of the action must not have barred the way back to it.
        groups = self._groups(actions) if all(units.values()) else forwarded(actions, self.options.where)
        wanted = {self._arns[name]: min(unit, LARGEST_WEIGHT) for name, unit in units.items()}
        entries = [{"TargetGroupArn": arn, "Weight": weight} for arn, weight in {**groups, **wanted}.items()]
        return [_with_entries(action, entries) for action in actions]

    def _require_health(self, backend: str) -> None:
        if problems := self.unhealthy(backend):
            raise LoadBalancerError(f"Nothing was written: {'; '.join(problems[:3])}. Mend it, then raise the weight.")


def forwarded(actions: list[Action], where: str) -> dict[str, int]:
    """Weights by target group ARN of the one forward action; UnknownTargetError when there is none."""
    forwards = [action for action in actions if action.get("Type") == "forward"]
    if len(forwards) != 1:
        raise UnknownTargetError(f"{where} has {len(forwards)} forward actions; it needs exactly one.")
    config = forwards[0].get("ForwardConfig") or {}
    entries = config.get("TargetGroups") or [{"TargetGroupArn": forwards[0].get("TargetGroupArn", ""), "Weight": 1}]
    # A group without a weight of its own counts 1.
    return {str(entry["TargetGroupArn"]): int(entry.get("Weight", 1)) for entry in entries}


def check_actions(actions: list[Action], where: str) -> None:
    """LoadBalancerError for what an ALB would refuse, or take and serve errors for."""
    groups = forwarded(actions, where)
    if len(groups) > MOST_GROUPS:
        raise LoadBalancerError(f"{where} forwards to {len(groups)} target groups; at most {MOST_GROUPS} may share.")
    if any(not 0 <= weight <= LARGEST_WEIGHT for weight in groups.values()) or not any(groups.values()):
        raise LoadBalancerError(f"{where} cannot have weights {groups}: 0 to {LARGEST_WEIGHT}, and not all 0.")


def _with_entries(action: Action, entries: list[dict[str, Any]]) -> Action:
    """The action as it can be written back, with these target groups if it forwards."""
    if action.get("Type") == "forward":
        # TargetGroupArn beside several groups would be refused.
        kept = {key: value for key, value in action.items() if key not in ("TargetGroupArn", "ForwardConfig")}
        return kept | {"ForwardConfig": {**(action.get("ForwardConfig") or {}), "TargetGroups": entries}}
    if action.get("Type") == "authenticate-oidc":
        # AWS tells nobody the client's secret, and keeps the one it has only when asked to.
        config = {key: value for key, value in action["AuthenticateOidcConfig"].items() if key != "ClientSecret"}
        return {**action, "AuthenticateOidcConfig": {**config, "UseExistingClientSecret": True}}
    return dict(action)
