"""The case of the contract suites for a real Apache httpd, which Debian has: its server, and what it holds."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from canary_release.core.values import FULL, NONE, Weights
from canary_release.hooks.apache import ApacheHook
from contracts.case import Case, real
from contracts.shop import BACKENDS
from debian import require_tool
from demo.free_ports import LOOPBACK, free_ports
from demo.processes import Process, answers

STABLE, CANARY = BACKENDS
EXAMPLE = Path(__file__).parents[2] / "include" / "releases" / "apache.yaml"
MODULES = ("mpm_event", "authz_core", "proxy", "proxy_http", "proxy_balancer", "slotmem_shm", "lbmethod_byrequests")
CONFIGURATION = """
{modules}
ServerName localhost
User nobody
Group {group}
DefaultRuntimeDir {folder}
PidFile {folder}/httpd.pid
ErrorLog {folder}/error.log
{log}
Listen {host}:{web}
Listen {host}:{admin}
BalancerPersist On
BalancerInherit On
<Proxy balancer://shop>
    BalancerMember {blue} route={stable} loadfactor=100
    BalancerMember {green} route={canary} loadfactor=1 status=+N
</Proxy>
<Proxy balancer://another>
    BalancerMember {blue} route=other loadfactor=7
</Proxy>
ProxyPass /balancer-manager !
ProxyPass / balancer://shop/
<VirtualHost {host}:{admin}>
    <Location /balancer-manager>
        SetHandler balancer-manager
    </Location>
</VirtualHost>
"""


class ApacheServer:
    """A real Apache in front of two backends, with the members' routes for their names. Ready when constructed."""

    def __init__(self, folder: Path, backends: Mapping[str, str], program: Path) -> None:
        self.folder, self.program = folder, program
        web, admin = free_ports(2)
        self.url, self.admin_url = f"http://{LOOPBACK}:{web}", f"http://{LOOPBACK}:{admin}"
        self.connection = {"conn_type": "http", "host": LOOPBACK, "port": admin, "schema": "http"}
        private = program.parent.parent / "root" / "usr" / "lib" / "apache2" / "modules"
        modules = private if private.is_dir() else Path("/usr/lib/apache2/modules")
        self.access_log = folder / "canary.log"
        log = "\n".join(re.findall(r"^#     ((?:LogFormat|CustomLog) .*)$", EXAMPLE.read_text(), re.MULTILINE))
        log = log.replace("/var/log/apache2/canary.log", str(self.access_log))
        loads = [f"LoadModule {name}_module {modules}/mod_{name}.so" for name in MODULES]
        (folder / "httpd.conf").write_text(
            CONFIGURATION.format(
                modules="\n".join(loads), folder=folder, host=LOOPBACK, web=web, admin=admin, group="nogroup", log=log,
                stable=STABLE, canary=CANARY, blue=backends[STABLE], green=backends[CANARY],
            )
        )  # fmt: skip
        self.process = self._start()

    def restart(self) -> None:
        self.process.stop()
        self.process = self._start()

    def _start(self) -> Process:
        argv: list[str | Path] = [self.program, "-f", self.folder / "httpd.conf", "-D", "FOREGROUND"]
        process = Process(argv, log=self.folder / "apache.log", cwd=self.folder, name="apache2")
        try:
            process.wait_until(answers(f"{self.admin_url}/balancer-manager"), 20, "answer as a balancer manager")
        except BaseException:
            process.stop()
            raise
        return process


@pytest.fixture(scope="session")
def running_apache(tmp_path_factory: pytest.TempPathFactory, backend_urls: dict[str, str]) -> Iterator[ApacheServer]:
    program = require_tool("apache2", packages=("apache2-bin",), program="usr/sbin/apache2")
    server = ApacheServer(tmp_path_factory.mktemp("apache"), backend_urls, program)
    yield server
    server.process.stop()


def apache_case(request: pytest.FixtureRequest) -> Case:
    apache: ApacheServer = request.getfixturevalue("running_apache")
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_APACHE_CONTRACT", json.dumps(apache.connection))

    def make(*backends: str) -> ApacheHook:
        return ApacheHook("apache_contract", (backends[0], backends[1]), ApacheHook.Options(balancer="shop"))

    def configuration() -> Any:
        hook = make(*BACKENDS)
        text = hook._server.send("GET", "/balancer-manager?xml=1", headers=hook._headers).text
        # What is left are names, methods, limits and the other balancer's factor.
        moving = "status|lbstatus|transferred|read|elected|busy|nonce|retries"
        shop, end, others = re.sub(rf"<httpd:({moving})>.*?</httpd:\1>", "", text).partition("</httpd:balancer>")
        return re.sub(r"<httpd:loadfactor>.*?</httpd:loadfactor>", "", shop), end, others

    make(*BACKENDS).set_weights(Weights({STABLE: FULL, CANARY: NONE}))
    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        apache.restart,
        url=apache.url,
        kept_by="`BalancerPersist`",
        tested_against=real("Apache httpd", [str(apache.program), "-v"]),
    )


CASES: dict[str, Callable[[pytest.FixtureRequest], Case]] = {"apache": apache_case}
IN_TRAFFIC = ("apache",)
