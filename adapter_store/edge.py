"""How an error leaves the store: a gRPC status with its reason and details for machines."""

import errno
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from adapter_store.errors import InternalError, StoreError, StoreFull

DOMAIN = "multitude"
_MAX_MESSAGE_CHARS = 1000  # trailing metadata of 8 KiB is what peers accept by default
_MAX_DETAIL_CHARS = 200

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


@asynccontextmanager
async def typed_errors(context: Context) -> AsyncIterator[None]:
    """Ends the call with the status of whatever error leaves the block."""
    try:
        yield
    except StoreError as error:
        await _abort(context, error)
    except (OSError, sqlite3.Error) as error:
        if not _is_disk_full(error):
            log.exception("disk error")
            await _abort(context, InternalError("the store's disk failed; its log says how"))
        log.error("the disk is full: %s", error)  # noqa: TRY400 - a full disk needs no traceback
        await _abort(context, StoreFull("the store's disk is full; delete adapters or enlarge it"))
    except Exception:
        log.exception("unexpected error")
        await _abort(context, InternalError("the store made a mistake; its log has the details"))


def status_of(error: StoreError) -> Status:
    """The rich status of an error: ErrorInfo, and RetryInfo if trying again makes sense."""
    info = ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={key: _printable(value, _MAX_DETAIL_CHARS) for key, value in error.metadata.items()},
    )
    details: list[ErrorInfo | RetryInfo] = [info]
    if error.retry_after_s is not None:
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    status = Status(code=error.code.value[0], message=_printable(error.message, _MAX_MESSAGE_CHARS))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def _abort(context: Context, error: StoreError) -> None:
    status = status_of(error)
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(error.code, status.message, trailing_metadata=trailing)


def _is_disk_full(error: OSError | sqlite3.Error) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _printable(text: str, most: int) -> str:
    """Text that UTF-8 can carry (names from adapters may hold halves of surrogate pairs), cut to a length."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else text[: most - 3] + "..."
