"""The four boards: Overview for everybody, Flow and Hosts for those who own one, Engine for those who run it."""

from __future__ import annotations

from stepwire_engine.monitoring.boards.engine import ENGINE
from stepwire_engine.monitoring.boards.flow import FLOW
from stepwire_engine.monitoring.boards.hosts import HOSTS
from stepwire_engine.monitoring.boards.overview import OVERVIEW

BOARDS = (OVERVIEW, FLOW, HOSTS, ENGINE)
"""Every dashboard, in the order in which people read them."""
