"""Page tokens of run listings, the same for every store: newest first, so a token is the run to go on below."""

from __future__ import annotations

import re

from stepwire_engine.store.rows import INTEGER_MAX

LIMIT_MAX = 1000
_TOKEN = re.compile(r"r([1-9][0-9]{0,18})", re.ASCII)


def page_token_of(last: int) -> str:
    """The token of the page that follows the run with this number."""
    return f"r{last}"


def run_before(page_token: str) -> int:
    """Runs with a lower number than this are on the page.

    Raises:
        ValueError: the token was not made by `page_token_of`.
    """
    if not page_token:
        return INTEGER_MAX
    found = _TOKEN.fullmatch(page_token)
    if found is None or int(found[1]) > INTEGER_MAX:
        raise ValueError(f"malformed page token: {page_token[:40]!r}")
    return int(found[1])


def check_limit(limit: int) -> None:
    """Raise ValueError unless a page may have this many runs."""
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"a page has 1..{LIMIT_MAX} runs, not {limit}")
