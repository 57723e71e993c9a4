"""Where the protos are, and what they say, for the tests of this folder."""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
PROTO_FILES = sorted((ROOT / "proto/stepwire/v1").glob("*.proto"))
BASELINE = Path(__file__).with_name("baseline.binpb")
VECTORS = Path(__file__).with_name("vectors")


def current_descriptors(*, source_info: bool = False) -> FileDescriptorSet:
    """The descriptors of the protos as they are in the tree, not as the stubs have them."""
    with tempfile.TemporaryDirectory() as temp:
        target = Path(temp) / "set.binpb"
        includes = ["-I", str(ROOT / "proto"), "-I", str(resources.files("grpc_tools") / "_proto")]
        info = ["--include_source_info"] if source_info else []
        files = [str(path) for path in PROTO_FILES]
        assert protoc.main(["protoc", *includes, *info, f"--descriptor_set_out={target}", *files]) == 0
        return FileDescriptorSet.FromString(target.read_bytes())
