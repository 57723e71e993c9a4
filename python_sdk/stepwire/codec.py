"""Values of user code to payloads and back: JSON by default, typed by annotation (DESIGN 6, MISSION P14).

User code always gets a value decoded from the stored bytes, so live and replay see equal, unaliased values.
What would silently change on the way is an error at the step. Without an annotation a value comes back as
plain JSON: tuples and sets as lists, dataclasses as dicts, dates, UUIDs, Decimals and bytes as text.

This module does no I/O. Pydantic is used only for types that mention its models, hence never imported for others.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import lru_cache, partial
from types import CellType, FunctionType
from typing import Any, NoReturn, Protocol, get_args, get_origin, get_type_hints

import msgspec

from stepwire._portable import NotPortable, decode_untyped, json_round_trip, place_part
from stepwire.errors import ConfigurationError, InvalidInput, OutputUnserializable, ProtocolError
from stepwire.protocol.payload import JSON, NULL, Payload

_TYPES_CACHED_MAX = 4096


class Codec(Protocol):
    """Turns values into payloads and back.

    A codec of your own wraps JsonCodec: it encrypts or compresses the bytes JsonCodec made, names the
    result in `Payload.encoding`, and hands `type` through as it is.
    """

    def encode(self, value: Any, type: Any = Any) -> Payload:
        """The payload of `value`, which comes back as `type`. Raises OutputUnserializable."""

    def decode(self, payload: Payload, type: Any = Any) -> Any:
        """The value as `type`. Raises InvalidInput."""

    def round_trip(self, value: Any, type: Any = Any) -> tuple[Payload, Any]:
        """`encode` and the value that `decode` makes of it, for the price of one decode."""


class JsonCodec:
    """UTF-8 JSON through msgspec; Pydantic models through their TypeAdapter."""

    __slots__ = ()

    def encode(self, value: Any, type: Any = Any) -> Payload:
        """Encode `value`; with `type` also check that it comes back as that.

        Raises:
            OutputUnserializable: names the place, e.g. `$.a[3]`.
        """
        return self.round_trip(value, type)[0]

    def round_trip(self, value: Any, type: Any = Any) -> tuple[Payload, Any]:
        """Encode `value` and decode it again as `type`.

        Raises:
            OutputUnserializable: names the place, e.g. `$.a[3]`.
            ConfigurationError: `type` cannot be decoded at all.
        """
        try:
            found = _decoders.get(id(type))  # as decoder_of does it
            decode = found[1] if found is not None and found[0] is type else decoder_of(type)
            data, back = json_round_trip(value, decode)
        except NotPortable as problem:
            raise OutputUnserializable(f"not portable JSON: {problem}") from None
        except msgspec.MsgspecError as misfit:
            raise OutputUnserializable(f"does not fit {_type_name(type)}: {misfit}") from None
        return Payload(data), back

    def decode(self, payload: Payload, type: Any = Any) -> Any:
        """Decode a payload as `type`.

        Raises:
            InvalidInput: the value does not fit; names the field.
            ProtocolError: the payload has another encoding.
            ConfigurationError: `type` cannot be decoded at all.
        """
        if payload.encoding != JSON and payload.encoding:
            raise ProtocolError(
                f"the payload is encoded as {payload.encoding!r}, this codec reads {JSON!r}",
                hint="give the host the codec that the payload was written with",
            )
        try:
            return (decode_untyped if type is Any else decoder_of(type))(payload.data)
        except msgspec.MsgspecError as misfit:
            raise InvalidInput(f"does not fit {_type_name(type)}: {misfit}") from None


JSON_CODEC = JsonCodec()


# ---- calls of registered steps and inputs of flows


def encode_call(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    fn: Callable[..., Any] | None = None,
    *,
    codec: Codec = JSON_CODEC,
) -> Payload:
    """The input of a registered step: `[args, kwargs]`.

    Args:
        fn: The step's function, if this process has it: the call is checked against its annotations, and
            they bring back what plain JSON would change (int keys, for example).

    Raises:
        InvalidInput: an argument does not survive the round trip, or the call does not fit `fn`.
    """
    return _encode_input([list(args), dict(kwargs)], Any if fn is None else call_types(fn), codec)


def decode_call(
    payload: Payload, fn: Callable[..., Any], *, codec: Codec = JSON_CODEC
) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments for `fn`, each decoded by its annotation.

    Raises:
        InvalidInput: names the argument and the place in it.
    """
    args, kwargs = codec.decode(payload, call_types(fn))
    return args, kwargs


def encode_flow_input(
    args: Sequence[Any], fn: Callable[..., Any] | None = None, *, codec: Codec = JSON_CODEC
) -> Payload:
    """The input of a flow: its one argument after the context, or null.

    Raises:
        InvalidInput: it does not survive the round trip, does not fit `fn`, or is more than one argument.
    """
    if len(args) > 1:
        raise InvalidInput(f"a flow takes one input, not {len(args)}; put the values into one dataclass or dict")
    if not args:
        return NULL
    types = None if fn is None else flow_types(fn)
    if types is not None and not types.input:
        raise InvalidInput(f"the flow {types.name} takes no input")
    return _encode_input(args[0], Any if types is None else types.input[0], codec)


def decode_flow_input(payload: Payload, fn: Callable[..., Any], *, codec: Codec = JSON_CODEC) -> tuple[Any, ...]:
    """Arguments of a flow after its context: none, or the input decoded by its annotation.

    Null is no input, where the flow takes none or has a default.

    Raises:
        InvalidInput: names the flow and the place.
    """
    types = flow_types(fn)
    if not types.input or types.optional:
        if codec.decode(payload) is None:
            return ()
        if not types.input:
            raise InvalidInput(f"the flow {types.name} takes no input")
    return (codec.decode(payload, types.input[0]),)


def return_type(fn: Callable[..., Any]) -> Any:
    """What `fn` returns by its annotation (what it awaits to, if it returns an awaitable); Any without one.

    Raises:
        ConfigurationError: the annotation cannot be resolved.
    """
    inner = fn if type(fn) is FunctionType else getattr(fn, "__func__", fn)
    if type(inner) is FunctionType:
        if "return" not in inner.__annotations__:
            return Any
        if inner.__closure__ is None:  # a cached closure would keep what it closes over alive
            return _cached_return_type(inner)
    return _returned(_hints(fn))


def first_parameter_type(fn: Callable[..., Any]) -> Any:
    """What the first parameter of `fn` is annotated with; Any without one. Raises ConfigurationError."""
    first = next(iter(inspect.signature(fn).parameters), None)
    return Any if first is None else _hints(fn).get(first, Any)


@lru_cache(_TYPES_CACHED_MAX)
def _cached_return_type(fn: Callable[..., Any]) -> Any:
    return _returned(_hints(fn))


def _encode_input(value: Any, type: Any, codec: Codec) -> Payload:
    try:
        return codec.encode(value, type)
    except OutputUnserializable as problem:
        raise InvalidInput(problem.message) from None


class CallTypes:
    """The signature of one function, ready to decode its calls; stands where a type stands.

    Raises:
        ConfigurationError: an annotation cannot be resolved or decoded, so that registration shows it.
    """

    __slots__ = ("_arguments", "_by_name", "_positional", "_required", "_signature", "name")

    def __init__(self, fn: Callable[..., Any]) -> None:
        hints = _hints(fn)
        self.name = _function_name(fn)
        self._signature = inspect.signature(fn)
        parameters = self._signature.parameters.values()
        self._arguments = {p.name: decoder_of(hints.get(p.name, Any)) for p in parameters}
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._positional = [(p.name, self._arguments[p.name]) for p in positional]
        self._required = sum(p.default is p.empty for p in positional)
        if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
            self._required = len(positional) + 1  # no call without names fits

    def decode(self, data: bytes) -> list[Any]:
        """`[args, kwargs]` of the call.

        Raises:
            msgspec.ValidationError: names the argument and the place in it.
        """
        args, kwargs = _RAW_CALL.decode(data)
        if not kwargs and self._required <= len(args) <= len(self._positional):
            return [[_argument(*at, raw) for at, raw in zip(self._positional, args, strict=False)], {}]
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as misfit:
            raise msgspec.ValidationError(str(misfit)) from None
        for name, raw in bound.arguments.items():
            bound.arguments[name] = self._bound(name, raw)
        return [list(bound.args), bound.kwargs]

    def _bound(self, name: str, raw: Any) -> Any:
        """Decode what one parameter was given: a value, or several for `*args` and `**kwargs`."""
        decode = self._arguments[name]
        match raw:
            case tuple():
                return tuple(_argument(f"{name}[{i}]", decode, item) for i, item in enumerate(raw))
            case dict():
                return {key: _argument(key, decode, item) for key, item in raw.items()}
        return _argument(name, decode, raw)


def _argument(name: str, decode: Callable[[Any], Any], raw: Any) -> Any:
    try:
        return decode(raw)
    except msgspec.MsgspecError as misfit:
        raise msgspec.ValidationError(f"argument {name!r}: {misfit}") from None


_RAW_CALL = msgspec.json.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw]])


@dataclasses.dataclass(frozen=True, slots=True)
class FlowTypes:
    """What a flow takes after its context: nothing, or one input, which may have a default."""

    name: str
    input: tuple[Any, ...]
    optional: bool


@lru_cache(_TYPES_CACHED_MAX)
def call_types(fn: Callable[..., Any]) -> CallTypes:
    """The signature of a registered step, introspected once. Raises ConfigurationError."""
    return CallTypes(fn)


@lru_cache(_TYPES_CACHED_MAX)
def flow_types(fn: Callable[..., Any]) -> FlowTypes:
    """The input of a flow, introspected once. Raises ConfigurationError."""
    hints = _hints(fn)
    name = _function_name(fn)
    parameters = list(inspect.signature(fn).parameters.values())[1:]
    if len(parameters) > 1:
        raise ConfigurationError(
            f"the flow {name} takes {len(parameters)} inputs", why="a flow takes its context and at most one input"
        )
    for parameter in parameters:
        tp = hints.get(parameter.name, Any)
        decoder_of(tp)
        return FlowTypes(name, (tp,), parameter.default is not parameter.empty)
    return FlowTypes(name, (), False)


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    target: Any = inspect.unwrap(fn)
    while isinstance(target, partial):
        target = inspect.unwrap(target.func)
    if isinstance(target, type):
        return {}
    if not inspect.isroutine(target):
        target = type(target).__call__
    names = None
    if inspect.isfunction(inner := getattr(target, "__func__", target)) and inner.__closure__:
        cells = zip(inner.__code__.co_freevars, inner.__closure__, strict=True)
        # Empty is what is defined after it, such as the other of two flows.
        names = {name: cell.cell_contents for name, cell in cells if cell != CellType()}
    try:
        return get_type_hints(target, localns=names, include_extras=True)
    except NameError as unknown:
        raise ConfigurationError(
            f"an annotation of {_function_name(fn)} cannot be resolved: {unknown}",
            hint="import or define the name at module level, not under `if TYPE_CHECKING:` or inside a function",
        ) from None
    except TypeError:  # a builtin or a C function has none
        return {}


def _returned(hints: dict[str, Any]) -> Any:
    tp = hints.get("return", Any)
    if get_origin(tp) in (Awaitable, Coroutine):
        tp = get_args(tp)[-1]
    return Any if tp is NoReturn else tp


def _function_name(fn: Callable[..., Any]) -> str:
    name: str = getattr(fn, "__qualname__", type(fn).__name__)
    return name.replace("<locals>.", "")


# ---- types


def decoder_of(tp: Any) -> Callable[[Any], Any]:
    """What decodes JSON bytes as `tp`; raises msgspec.MsgspecError on a misfit.

    Raises:
        ConfigurationError: no value of `tp` can be decoded.
    """
    found = _decoders.get(id(tp))
    if found is not None and found[0] is tp:
        return found[1]
    try:
        decoder = _cached_decoder(tp)
    except TypeError:  # unhashable metadata of an Annotated
        return _new_decoder(tp)
    if len(_decoders) >= _TYPES_CACHED_MAX:
        _decoders.clear()
    _decoders[id(tp)] = tp, decoder
    return decoder


def _new_decoder(tp: Any) -> Callable[[Any], Any]:
    if isinstance(tp, CallTypes):
        return tp.decode
    try:
        if "pydantic" in sys.modules and _mentions_model(tp, set()):
            return _pydantic_decoder(tp)
        return msgspec.json.Decoder(tp).decode
    except Exception as problem:  # msgspec, pydantic and forward references each raise their own
        raise ConfigurationError(
            f"values of type {_type_name(tp)} cannot be decoded: {problem}",
            hint="annotate with JSON types, dataclasses, TypedDicts, msgspec Structs or Pydantic models",
        ) from None


_cached_decoder = lru_cache(_TYPES_CACHED_MAX)(_new_decoder)
_decoders: dict[int, tuple[Any, Callable[[Any], Any]]] = {}  # By identity: the hash of a generic type is dear.


def _mentions_model(tp: Any, seen: set[int]) -> bool:
    if id(tp) in seen:
        return False
    seen.add(id(tp))
    if hasattr(tp, "__pydantic_validator__"):
        return True
    members = list(get_args(tp))
    if isinstance(tp, type) and (dataclasses.is_dataclass(tp) or hasattr(tp, "__total__")):
        members += get_type_hints(tp).values()
    return any(_mentions_model(member, seen) for member in members)


def _pydantic_decoder(tp: Any) -> Callable[[Any], Any]:
    import pydantic  # type: ignore[import-not-found, unused-ignore]

    validate = pydantic.TypeAdapter(tp).validate_json

    def decode(data: Any) -> Any:
        try:
            return validate(bytes(data))
        except pydantic.ValidationError as misfit:
            first = misfit.errors(include_url=False, include_context=False, include_input=False)[0]
            place = "".join(place_part(part) for part in first["loc"])
            raise msgspec.ValidationError(f"{first['msg']} - at `${place}`") from None

    return decode


def _type_name(tp: Any) -> str:
    if isinstance(tp, CallTypes):
        return f"the call of {tp.name}"
    if isinstance(tp, type) and tp is not Any and not get_args(tp):
        return tp.__name__
    return "JSON" if tp is Any else str(tp).replace("typing.", "")
