"""The context of a trace as it travels: a W3C `traceparent`, which says where a span belongs (MISSION V5).

Pure text. Nothing else of a trace travels: no `tracestate`, no baggage. Who makes spans is `_runtime/traced`.
"""

from __future__ import annotations

import re
from hashlib import sha256

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}", re.ASCII)
_SAMPLED = "01"


def is_traceparent(text: str) -> bool:
    """Whether it is well formed; whoever receives another one goes on without (W3C Trace Context 3.2)."""
    return _FORM.fullmatch(text) is not None


def trace_id_of(traceparent: str) -> str:
    """Its trace id, 32 hexadecimal digits; empty for an empty one."""
    return traceparent[3:35]


def derived_traceparent(run_id: str) -> str:
    """The context of a run that nobody gave one: every host derives the same, so that its spans join one trace.

    Its parent span is one that nobody ever records: the trace of such a run has no root.
    """
    digest = sha256(run_id.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-{_SAMPLED}"
