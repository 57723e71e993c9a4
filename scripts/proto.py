#!/usr/bin/env python3
"""Generate the protobuf stubs, or check that the committed ones are current.

`python scripts/proto.py` writes into python_sdk/, `--check` writes nothing and ends with 1 if the stubs
differ. The generator is the pinned grpcio-tools: code of a newer one refuses older runtimes. No
`_pb2_grpc.py` is generated; the two services are bound by hand with public grpc calls.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = ROOT / "python_sdk"
PACKAGE = Path("stepwire/v1")


def generate(target: Path) -> None:
    """Write the stubs of every proto below `target`. Raises SystemExit if protoc fails."""
    target.mkdir(parents=True, exist_ok=True)
    well_known = resources.files("grpc_tools") / "_proto"
    sources = sorted(str(path) for path in (PROTO / PACKAGE).glob("*.proto"))
    flags = ["-I", str(PROTO), "-I", str(well_known), f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main(["protoc", *flags, *sources]) != 0:
        raise SystemExit("protoc failed; nothing was checked")


def outdated() -> list[str]:
    """Names of stubs that differ from what the protos give, are missing, or have no proto."""
    with tempfile.TemporaryDirectory() as temp:
        generate(Path(temp))
        wanted = _stubs(Path(temp))
    present = _stubs(TARGET)
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def _stubs(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / PACKAGE).glob("*_pb2.py*")}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare; end with 1 if stubs are not current")
    if not parser.parse_args().check:
        generate(TARGET)
        return 0
    if stale := outdated():
        print(f"stubs are not current: {', '.join(stale)}; run `make proto`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
