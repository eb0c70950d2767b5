"""What lint and the doctor say of channels, before anything is to be told."""

import json
from pathlib import Path

import pytest

from canary_release.cli import main
from canary_release.control.doctor_checks import Level
from canary_release.control.notice_checks import check_channels
from canary_release.core.release import Channel
from canary_release.hooks import notice_channels
from control.world import a_release
from notices.conftest import Connect

ROOT = Path(__file__).resolve().parents[2]
SHOP = (ROOT / "include" / "releases" / "shop.yaml").read_text()
TOLD = frozenset({"page"})


@pytest.fixture
def no_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"slack": ("airflow.providers.absent.notifications.absent", "apache-airflow-providers-slack")}
    monkeypatch.setattr(notice_channels, "_PROVIDERS", absent)


@pytest.mark.usefixtures("no_slack")
def test_lint_warns_of_a_missing_provider_and_refuses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(f'{SHOP}\nnotify: [{{via: slack, connection: slack_releases, to: "#releases"}}]\n')
    assert main(["lint", str(file)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{file}: ok"
    assert said[1].startswith(f"{file}: warning: notify[0]: via slack needs apache-airflow-providers-slack")


@pytest.mark.usefixtures("no_slack")
def test_doctor_warns_of_providers_and_connections_and_fails_for_neither(connect: Connect) -> None:
    connect("bridge", conn_type="http", host="127.0.0.1", password="planted-secret")
    channels = [
        Channel("slack", "s", "#x", TOLD),
        Channel("webhook", "absent", "", TOLD),
        Channel("webhook", "bridge", "", TOLD),
    ]
    results = check_channels(a_release(5, 100, notify=tuple(channels)))
    assert [result.level for result in results] == [Level.WARN, Level.WARN, Level.OK]
    assert "AIRFLOW_CONN_ABSENT" in results[1].says
    assert "planted-secret" not in json.dumps([vars(result) for result in results])


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("{via: slak, connection: c, to: x}", "notify[0].via: `slak` is not known (did you mean `slack`?)"),
        ("{via: slack, connection: c, to: x, on: [promotd]}", "`promotd` is not known (did you mean `promoted`?)"),
        ("{via: slack, connection: c}", "notify[0].to: is missing; via slack needs a channel"),
        ("{via: email, connection: c, to: 'ada@example.com, ada'}", "`ada` is not an e-mail address"),
        ('{via: email, connection: c, to: "a@example.com\\r\\nBcc: b@example.com"}', "notify[0].to"),
        ("{via: webhook, connection: c, to: 'https://evil.example'}", "is not a path"),
        ("{via: pagerduty, connection: c, to: x}", "notify[0].to: is not used via pagerduty"),
        ("{via: pagerduty, connection: c, on: [page, page]}", "page stands twice"),
        (
            "{via: pagerduty, connection: c}, {via: pagerduty, connection: c, on: [page]}",
            "the receiver of notify[0] again",
        ),
    ],
)
def test_wrong_channel_is_refused_with_place_and_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], block: str, words: str
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(f"{SHOP}\nnotify: [{block}]\n")
    assert main(["lint", str(file)]) == 1
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("javascript:alert(1)", "is not a URL that begins with"),
        ("https://ada:secret-word@g.example", "has a user or password in it"),
        ("https://g.example/{servce}", "has a placeholder that is not known"),
        ("https://{service}.example", "is not a URL"),
        ("https://g.example/<script>", "is not a URL"),
    ],
)
def test_wrong_link_is_refused_without_repeating_its_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], link: str, words: str
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(f'{SHOP}\nlinks: {{dashboard: "{link}"}}\n')
    assert main(["lint", str(file)]) == 1
    said = capsys.readouterr().out
    assert words in said
    assert "secret-word" not in said
