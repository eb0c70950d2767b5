"""What people and programs might write into a conf, a release file or a connection to make something else of it."""

import base64
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

HOSTILE_TEXTS = {
    "script": "<script>alert(1)</script>",
    "image": '"><img src=x onerror=alert(1)>',
    "svg": "<svg/onload=alert`1`>",
    "javascript_link": "[x](javascript:alert(1))",
    "markdown_picture": "![](http://127.0.0.1:1/seen.png)",
    "end_of_block": "``` </code></pre><b>bold</b>",
    "jinja": "{{ 7*7 }}{% for x in ''.__class__.__mro__ %}{{ x }}{% endfor %}",
    "percent": "%s %(password)s %n",
    "braces": "{0.__class__} {context}",
    "shell": "$(touch /tmp/x) `id` ; rm -rf / | nc x 1 & ${IFS}",
    "sql": "'; DROP TABLE rollouts; --",
    "promql": 'a"}) or vector(1) #',
    "path": "../../../../etc/passwd",
    "rich": "[bold red]PROMOTED[/] [link=http://127.0.0.1]x[/link]",
    "line_feed": "fine\nREFUSED  forged line",
    "crlf": "fine\r\nREFUSED  forged line\r\n\r\n<html>",
    "carriage_return": "fine\rREFUSED  forged line",
    "vertical_tab": "fine\x0bREFUSED  forged line",
    "form_feed": "fine\x0cREFUSED  forged line",
    "next_line": "fine\x85REFUSED  forged line",
    "line_separator": "fine\u2028REFUSED  forged line",
    "file_separator": "fine\x1cREFUSED  forged line",
    "escape_sequence": "fine\x1b[2J\x1b[1;31mREFUSED  forged line\x1b]8;;http://127.0.0.1\x07",
    "backspace": "bad\x08\x08\x08good",
    "null": "before\x00after",
    "right_to_left": "safe \u202egnp.exe\u202c \u2066x\u2069 \u200f",
    "tags": "safe" + "".join(chr(0xE0000 + ord(char)) for char in "hidden"),
    "lone_surrogate": "before\ud800after\udcff",
    "byte_order_mark": "\ufeffbegin",
    "combining": "e" + "\u0301" * 500,
    "long": "x" * 2000,
    "emoji": "👩‍🚒 done",
}

# Put together here, so that no scanner of secrets takes this file for a leak.
SECRET_TEXTS = {
    "aws": "AKIA" + "ABCDEFGHIJ234567",
    "aws_session": "use ASIA" + "ABCDEFGHIJ234567 now",
    "github": "ghp_" + "a1B2" * 9,
    "github_fine": "github_pat_" + "a1B2" * 9,
    "gitlab": "glpat-" + "a1B2" * 5,
    "slack": "xoxb-" + "123456789012-abcdef",
    "slack_hook": "https://hooks.slack.com/" + "services/T0/B0/x",
    "web_token": ".".join(
        base64.urlsafe_b64encode(part).decode() for part in (b'{"alg":"HS256"}', b'{"sub":"ann"}', b"x" * 9)
    ),
    "private_key": "-----BEGIN RSA PRIVATE " + "KEY-----",
    "url": "see https://ann:hunter2" + "@git.internal/x",
    "bearer": "Authorization: Bearer " + "abcdefghijklmnop1234",
    "assigned": "deploy with password" + "=correct-horse",
    "named": "the token" + ": s3cr3t99",
    "json": '{"api_key' + '": "abc123"}',
}

NO_SECRETS = [
    "CHK-812: rotate the signing keys",
    "Fix token: expiry was wrong",
    "password reset page is faster, see https://tickets.internal/CHK-812",
    "secret santa release",
    "v2.4.1 of checkout, asked for by ann@example.com",
]

SHOP = """\
service: shop
load_balancer: {type: memory, connection: security_lb, backends: [shop-blue, shop-green]}
metrics: {type: scrape, connection: security_metrics, preset: traefik}
steps:
  - {weight: 1%, bake: 30s}
  - {weight: 100%, bake: 30s}
profiles:
  careful:
    - {weight: 0.1%, bake: 1m}
    - {weight: 100%, bake: 1m}
checks:
  - {metric: error_rate, max_increase: 0.5pp}
"""


def a_context(conf: dict[str, Any], *, run_id: str = "run-1", user: str = "ada", **params: Any) -> Any:
    """What Airflow hands to a task: params are the defaults with the conf over them, whatever the conf's keys are."""
    defaults = {"version": None, "profile": "standard", "dry_run": False, "reason": None, "steps": None}
    run = SimpleNamespace(dag_id="release_shop", run_id=run_id, conf=conf, triggering_user_name=user)
    instance = SimpleNamespace(task_id="task", try_number=1, xcom_push=lambda **_: None)
    return {"params": {**defaults, **params, **conf}, "dag_run": run, "ti": instance}


def mutations(texts: list[str], *, seed: int) -> Iterator[bytes]:
    """Endless: release files with one to four things wrong with them."""
    chance = random.Random(seed)
    while True:
        text = chance.choice(texts)
        for _ in range(chance.randint(1, 4)):
            text = chance.choice(_CHANGES)(text, chance)
        data = text.encode("utf-8", "surrogatepass")
        if chance.random() < 0.1 and data:
            place = chance.randrange(len(data))
            data = data[:place] + chance.randbytes(chance.randint(1, 8)) + data[place:]
        yield data


def _place(text: str, chance: random.Random) -> int:
    return chance.randrange(len(text) + 1)


def _insert(text: str, chance: random.Random) -> str:
    at = _place(text, chance)
    return text[:at] + chance.choice([*HOSTILE_TEXTS.values(), *_YAML_PIECES]) + text[at:]


def _cut(text: str, chance: random.Random) -> str:
    return text[: _place(text, chance)]


def _drop(text: str, chance: random.Random) -> str:
    at = _place(text, chance)
    return text[:at] + text[at + chance.randint(1, 12) :]


def _flip(text: str, chance: random.Random) -> str:
    at = _place(text, chance)
    return text[:at] + chance.choice("{}[]:,-&*!|>'\"%@`#?\t\n 0.\\~") + text[at + 1 :]


def _line_twice(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    return "".join(lines) + chance.choice(lines)


def _line_moved(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    line = lines.pop(chance.randrange(len(lines)))
    lines.insert(chance.randrange(len(lines) + 1), "  " * chance.randint(0, 3) + line)
    return "".join(lines)


def _value(text: str, chance: random.Random) -> str:
    words = text.split(": ")
    at = chance.randrange(len(words))
    words[at] = chance.choice([*_YAML_PIECES, *HOSTILE_TEXTS.values()]) + "\n" + words[at].partition("\n")[2]
    return ": ".join(words)


def _much(text: str, chance: random.Random) -> str:
    return text + chance.choice(["[" * 3000, "{a: " * 3000, "- " * 3000, "x" * 70_000, "a: 1\n" * 3000, "&a [*a]\n"])


_CHANGES = [_insert, _insert, _cut, _drop, _flip, _flip, _line_twice, _line_moved, _value, _value, _much]
_YAML_PIECES = [
    "1.10", "0123456", "1:30", "on", "~", ".nan", "-.inf", "1e999", "9" * 400, "2026-01-01", "!!python/name:os.system",
    "&a", "*a", "<<: *a", "---\n", "...\n", "? ", "| \n", ">-\n ", "{}", "[]", "[[[[[[", "'", '"', "\t", "%TAG ! x\n",
    "100%", "-1%", "0%", "1e-9%", "99999999999h", "0s", "-5m", "10 m", "NaN%", "5 pp", "١٢%", "５%",
]  # fmt: skip
