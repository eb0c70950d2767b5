"""What people can be told of, and how."""

from typing import Literal, get_args

Event = Literal["started", "approval", "step", "promoted", "rolled_back", "failed", "guardian", "page"]
EVENTS: tuple[Event, ...] = get_args(Event)
"""started · approval: a person is waited for · step: one was passed · promoted · rolled_back: by the evidence · failed:
ended on the safe side for another reason · guardian: the guardian ended it · page: the canary cannot be taken off."""
DEFAULT_EVENTS: tuple[Event, ...] = ("approval", "promoted", "rolled_back", "failed", "guardian", "page")
Via = Literal["slack", "slack_webhook", "email", "pagerduty", "webhook"]
VIAS: tuple[Via, ...] = get_args(Via)
