"""The demo's stage: two sides of a shop behind a real proxy, clients, and a real Airflow that releases the shop."""

import json
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path

import httpx

from canary_release.core.values import Weights
from canary_release.ledger.store import Ledger
from demo.airflow_server import AirflowServer
from demo.shop_server import ShopServer
from demo.traefik_server import TraefikServer
from demo.traffic_server import TrafficServer

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "shop"
SIDES = ("shop-blue", "shop-green")
FIRST_VERSION = "v1"
DAG_ID = "release_shop"


class Stage:
    """Everything that the demo and the end-to-end tests run against. A context manager: leaving ends every process.

    folder: where logs, the ledger and Airflow's home stand.  rate: requests per second of all clients together.
    releases: the folder of release files that Airflow reads; the repository's own when it is not given.
    database: see AirflowServer.  instances: of each side.  usual_errors: share of requests that the first
    version fails.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rate: float,
        releases: Path | None = None,
        airflow_port: int | None = None,
        database: str | None = None,
        instances: int = 1,
        usual_errors: float = 0.0,
    ) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rate = rate
        self.ledger_url = f"sqlite:///{self.folder / 'ledger.db'}"
        self._exit = ExitStack()
        self._airflow_port, self._database = airflow_port, database
        self._releases = releases
        self._instances, self._usual_errors = instances, usual_errors

    def __enter__(self) -> "Stage":
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def deploy(self, side: str, version: str, *, error_rate: float = 0.0, slow_by: float = 0.0) -> None:
        """Put a version on a side; what a deployment does before the canary release begins."""
        self._shops[side].deploy(version, error_rate=error_rate, slow_by=slow_by)

    def ledger(self) -> Ledger:
        return Ledger.open(self.ledger_url)

    def weights(self) -> Weights:
        """What the proxy itself says."""
        shown = httpx.get(f"{self.traefik.api_url}/api/http/services/{SERVICE}@file", trust_env=False)
        split = shown.raise_for_status().json()["weighted"]["services"]
        total = sum(service["weight"] for service in split)
        return Weights({each["name"].split("@")[0]: Decimal(100 * each["weight"]) / total for each in split})

    def connections(self) -> dict[str, str]:
        """The Airflow connections that the shop's release file names, as environment variables."""
        metrics = httpx.URL(self.traefik.metrics_url)
        scrape = {"conn_type": "http", "host": metrics.host, "port": metrics.port, "schema": "http"}
        return {
            "AIRFLOW_CONN_CANARY_TRAEFIK": json.dumps(self.traefik.connection()),
            "AIRFLOW_CONN_CANARY_METRICS": json.dumps(scrape),
            "AIRFLOW_CONN_CANARY_LEDGER": json.dumps(
                {"conn_type": "generic", "extra": {"sqlalchemy_url": self.ledger_url}}
            ),
        } | ({"CANARY_RELEASES": str(self._releases)} if self._releases else {})

    def _start(self) -> None:
        self._shops = {
            side: self._exit.enter_context(ShopServer(self.folder, side, FIRST_VERSION, instances=self._instances))
            for side in SIDES
        }
        for side in SIDES:
            self.deploy(side, FIRST_VERSION, error_rate=self._usual_errors)
        urls = {side: shop.urls if self._instances > 1 else shop.url for side, shop in self._shops.items()}
        self.traefik = self._exit.enter_context(TraefikServer(self.folder / "traefik", urls, route=SERVICE))
        # The clients are the last to come and the first to go, so that no request finds the proxy gone.
        self.airflow = self._exit.enter_context(
            AirflowServer(
                self.folder / "airflow",
                dags=ROOT / "dags",
                plugins=ROOT / "plugins",
                extra_env=self.connections(),
                port=self._airflow_port,
                database=self._database,
            )
        )
        self.traffic = self._exit.enter_context(TrafficServer(self.folder, self.traefik.url, rate=self.rate))
