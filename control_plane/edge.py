"""Where calls come in: bytes to messages, and whatever goes wrong to a status with its reason."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from control_plane.core.errors import RequestError
from control_plane.errors import InternalError, RequestMalformed, abort

logger = logging.getLogger(__name__)

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class _Malformed:
    """Bytes that are not the message. A decoder that raises would end the call with INTERNAL, before it began."""

    problem: str


def unary_method(
    behaviour: Callable[[RequestT], Awaitable[ResponseT]], request_class: type[RequestT]
) -> "grpc.RpcMethodHandler[Any, Any]":
    """A method with one response."""

    async def handle(message: RequestT | _Malformed, context: Context) -> ResponseT:
        try:
            return await behaviour(_checked(message))
        except RequestError as error:
            await abort(context, error)
        except Exception as error:
            logger.exception("a call failed")
            await abort(context, _internal(error))

    return grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=_decoder(request_class), response_serializer=_encode
    )


def stream_method(
    behaviour: Callable[[RequestT, Context], Awaitable[None]], request_class: type[RequestT]
) -> "grpc.RpcMethodHandler[Any, Any]":
    """A method that writes its responses to the context."""

    async def handle(message: RequestT | _Malformed, context: Context) -> None:
        try:
            await behaviour(_checked(message), context)
        except RequestError as error:
            await abort(context, error)
        except Exception as error:
            if context.done():
                return  # The client went away in the middle of a write.
            logger.exception("a call failed")
            await abort(context, _internal(error))

    return grpc.unary_stream_rpc_method_handler(
        handle, request_deserializer=_decoder(request_class), response_serializer=_encode
    )


def _internal(error: Exception) -> InternalError:
    return InternalError(f"the control plane failed: {type(error).__name__}; its log has the traceback")


def _checked(message: RequestT | _Malformed) -> RequestT:
    if isinstance(message, _Malformed):
        raise RequestMalformed("", message.problem)
    return message


def _decoder(request_class: type[RequestT]) -> Callable[[bytes], RequestT | _Malformed]:
    def decode(data: bytes) -> RequestT | _Malformed:
        try:
            return request_class.FromString(data)
        except DecodeError as error:
            name = request_class.DESCRIPTOR.full_name
            return _Malformed(f"the bytes are no {name}, or a text in it is not UTF-8: {error}")

    return decode


def _encode(message: Message) -> bytes:
    return message.SerializeToString()
