"""`flows`, on a host that keeps what it was given ahead of a slot for as long as it takes."""

from __future__ import annotations

from stepwire._transport import ahead
from tests.e2e.flows import host as host

ahead.AHEAD_SECONDS = 3600.0
