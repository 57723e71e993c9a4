"""A real Prometheus with the rules of this project, scraping every second."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.e2e.processes import free_port, wait_for
from tests.monitoring.tools import needed

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
SCRAPE_SECONDS = 1


class Prometheus:
    """One server in a directory of its own.

    Args:
        engines, hosts: Addresses with ports; jobs as in `deploy/prometheus/prometheus.yml`.
    """

    def __init__(self, directory: Path, engines: Sequence[str], hosts: Sequence[str]) -> None:
        self._address = f"127.0.0.1:{free_port()}"
        self._targets = len(engines) + len(hosts)
        config = directory / "prometheus.yml"
        config.write_text(_configured(engines, hosts))
        (directory / "stepwire-rules.yml").write_text((DEPLOY / "stepwire-rules.yml").read_text())
        self.log = directory / "prometheus.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    needed("prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={self._address}",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=log,
            )
        wait_for(self._is_ready, f"prometheus to be ready: {self.log.read_text()[-2000:]}", 30)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def scrape(self) -> None:
        """Wait until every target was scraped after this call, and what was evaluated of that as well."""
        began = time.time()

        def seen() -> float:
            taken = [at for _, at in self.series("timestamp(up == 1)")]
            whole = len(taken) == self._targets and min(taken) > began + SCRAPE_SECONDS
            return max(taken) if whole else 0.0

        scraped = wait_for(seen, "Prometheus to scrape every target", 30)
        # What begins within an interval may still be for the moment at which that began.
        wait_for(lambda: self._evaluated() > scraped + SCRAPE_SECONDS, "Prometheus to evaluate every rule", 30)

    def _evaluated(self) -> float:
        """When the group of rules that was not evaluated for longest was begun with, in seconds since the Unix epoch.

        Groups say so once they are through; one that never was says the year 1.
        """
        groups = self.get("rules")["groups"]
        assert groups, "there are no rules"
        return min(datetime.fromisoformat(group["lastEvaluation"]).timestamp() for group in groups)

    def get(self, path: str, **arguments: str) -> Any:
        """The data of an answer of its API, which must be a success."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{arguments}: {refused.read().decode()}") from None

    def series(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """What an expression gives now: labels and value."""
        found = self.get("query", query=expr)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def value(self, expr: str) -> float:
        """What an expression for one number gives now; 0 if there is nothing."""
        return sum(value for _, value in self.series(expr))


def _configured(engines: Sequence[str], hosts: Sequence[str]) -> str:
    """The configuration that is shipped, with these targets and a test's pace."""
    lines = (DEPLOY / "prometheus.yml").read_text().replace("15s", f"{SCRAPE_SECONDS}s").splitlines()
    targets = iter([engines, hosts])
    return "\n".join(
        f"      - targets: {json.dumps(list(next(targets)))}" if line.startswith("      - targets:") else line
        for line in lines
    )
