"""Files that Grafana and Prometheus load, made from the boards, alerts and rules of this package.

The copies in `deploy/` are made by it as well; a test says when they are stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stepwire_engine.monitoring import alerts
from stepwire_engine.monitoring.boards import BOARDS

_HEAD = "# Made by `stepwire dashboards export`. Do not edit: a newer version replaces it.\n"


def files(*, provisioning: bool = False) -> Mapping[str, str]:
    """Relative path of each file -> its text.

    Args:
        provisioning: With what makes Grafana load the dashboards from a folder beside it.
    """
    made = {f"grafana/{board.uid}.json": _json(board.json()) for board in BOARDS}
    made["prometheus/stepwire-rules.yml"] = _HEAD + "\n".join(_yaml(alerts.groups())) + "\n"
    if provisioning:
        made["grafana/provisioning/stepwire.yml"] = _HEAD + "\n".join(_yaml(_PROVIDER)) + "\n"
    return made


def write(folder: Path, *, provisioning: bool = False) -> list[Path]:
    """Write every file below `folder`, replacing older ones, and return where they are. Raises OSError."""
    written = []
    for name, text in files(provisioning=provisioning).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


_PROVIDER: dict[str, Any] = {
    "apiVersion": 1,
    "providers": [
        {
            "name": "stepwire",
            "folder": "Stepwire",
            "type": "file",
            "options": {"path": "/etc/grafana/dashboards/stepwire"},
        }
    ],
}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _yaml(value: Any, indent: str = "") -> Iterator[str]:
    """Block style, texts quoted as in JSON, which YAML reads as the same. Enough for what is written here."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield f"{indent}{key}:"
            yield from _yaml(item, indent + "  ")
        elif isinstance(item, list):
            yield f"{indent}{key}:"
            for member in item:
                first, *rest = _yaml(member, indent + "    ")
                yield f"{indent}  - {first.lstrip()}"
                yield from rest
        else:
            yield f"{indent}{key}: {json.dumps(item, ensure_ascii=False)}"
