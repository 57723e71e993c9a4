"""The `stepwire` command, also `python -m stepwire_engine`.

It exists because the command is installed with every distribution, but what it needs is the extra `engine`:
without it the user gets one line to type instead of a traceback. Nothing else may stand here.
"""

from __future__ import annotations

import sys

EXTRA_MODULES = frozenset({"click", "grpc_health", "rich", "starlette", "uvicorn", "watchfiles"})
"""Top-level modules of the extra `engine`."""


def main() -> None:
    """Run the command line; exit with code 2 if the extra `engine` is not installed."""
    try:
        from stepwire_engine import cli

        cli.main()
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRA_MODULES:
            raise
        print(
            f"error: the stepwire command needs {module}, which is not installed.\n"
            "why:   the base distribution is only what a service needs to be a host.\n"
            "next:  pip install 'stepwire[engine]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
