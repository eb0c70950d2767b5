"""The service that every suite here releases: two backends that say their names, behind a real Traefik."""

from collections import Counter
from dataclasses import dataclass
from urllib.request import urlopen

from contracts.little_servers import LittleServer
from contracts.load_client import ask_many
from contracts.waiting import wait_until
from demo.traefik_server import TraefikServer

BACKENDS = ("shop-blue", "shop-green")


@dataclass
class Shop:
    """A service with two backends that say their names, and the Traefik in front of them."""

    traefik: TraefikServer
    backends: dict[str, LittleServer]
    asked: int = 0

    def ask(self, count: int) -> Counter[tuple[str, int]]:
        """Answers to ``count`` requests, once Traefik has counted them: it does so after the client has its answer."""
        answers = ask_many(self.traefik.url, count)
        self.asked += count
        wait_until(self._all_counted, f"Traefik has counted {self.asked} requests")
        return answers

    def restart(self) -> None:
        self.traefik.restart()
        self.asked = 0

    def _all_counted(self) -> bool:
        metrics = ("traefik_service_requests_total", "traefik_service_request_duration_seconds_count")
        return all(self._counted(metric) == self.asked for metric in metrics)

    def _counted(self, metric: str) -> float:
        with urlopen(self.traefik.metrics_url, timeout=5) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric + "{"))
