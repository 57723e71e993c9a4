from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Payload(_message.Message):
    __slots__ = ("data", "encoding", "transfer_id", "redacted", "redacted_bytes")
    DATA_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_ID_FIELD_NUMBER: _ClassVar[int]
    REDACTED_FIELD_NUMBER: _ClassVar[int]
    REDACTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    encoding: str
    transfer_id: int
    redacted: bool
    redacted_bytes: int
    def __init__(self, data: _Optional[bytes] = ..., encoding: _Optional[str] = ..., transfer_id: _Optional[int] = ..., redacted: bool = ..., redacted_bytes: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("transfer_id", "data", "last", "frame")
    TRANSFER_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    transfer_id: int
    data: bytes
    last: bool
    frame: bool
    def __init__(self, transfer_id: _Optional[int] = ..., data: _Optional[bytes] = ..., last: bool = ..., frame: bool = ...) -> None: ...
