"""Between adapter.proto and the store's types; requests are checked here, field by field."""

import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from adapter_store.errors import OffsetOutOfRange, RequestInvalid
from adapter_store.types import Adapter, AdapterPage, BaseModel, Publication, Version
from adapter_store.upload import FileStart, UploadHeader, UploadPart
from multitude.v1 import adapter_pb2 as pb

MAX_ID_CHARS = 200
MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 100
_ADAPTER_ID = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){1,3}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Listing:
    """Which page of the adapters."""

    after: str
    prefix: str
    size: int


def adapter_id(value: str) -> str:
    """A valid adapter id. Raises RequestInvalid."""
    is_shaped = len(value) <= MAX_ID_CHARS and _ADAPTER_ID.fullmatch(value) is not None
    if not is_shaped or any(part in (".", "..") for part in value.split("/")):
        raise RequestInvalid(
            f"{value[:MAX_ID_CHARS]!r} is not an adapter id: write two to four parts joined by '/', each of letters, "
            f"digits, '.', '_', '-' and not '.' or '..', at most {MAX_ID_CHARS} characters",
            field="adapter_id",
        )
    return value


def digest(value: str) -> str:
    """A well-formed digest. Raises RequestInvalid."""
    if _DIGEST.fullmatch(value) is None:
        raise RequestInvalid(f"{value[:100]!r} is not a digest: write sha256: and 64 hex digits", field="digest")
    return value


def offset(value: int, size_bytes: int) -> int:
    """An offset into a file. Raises OffsetOutOfRange."""
    if not 0 <= value <= size_bytes:
        raise OffsetOutOfRange(f"offset {value} is not in [0, {size_bytes}]", field="offset_bytes")
    return value


async def upload_parts(messages: AsyncIterator[pb.CreateAdapterRequest]) -> AsyncIterator[UploadPart]:
    """The parts of an upload. Raises RequestInvalid."""
    async for message in messages:
        match message.WhichOneof("part"):
            case "header":
                yield UploadHeader(adapter_id(message.header.adapter_id), message.header.base_model)
            case "file":
                yield FileStart(message.file.name, message.file.size_bytes)
            case "data":
                yield message.data
            case _:
                raise RequestInvalid("a message of an upload is a header, a file or data", field="part")


def listing(request: pb.ListAdaptersRequest) -> Listing:
    """Which page is asked for. Raises RequestInvalid."""
    if not 0 <= request.page_size <= MAX_PAGE_SIZE:
        raise RequestInvalid(f"page_size {request.page_size} is not in [0, {MAX_PAGE_SIZE}]", field="page_size")
    if len(request.id_prefix) > MAX_ID_CHARS:
        raise RequestInvalid(f"id_prefix is longer than {MAX_ID_CHARS} characters", field="id_prefix")
    return Listing(
        after=_read_page_token(request.page_token, request.id_prefix),
        prefix=request.id_prefix,
        size=request.page_size or DEFAULT_PAGE_SIZE,
    )


def create_response(publication: Publication, model: BaseModel) -> pb.CreateAdapterResponse:
    """The answer to CreateAdapter."""
    return pb.CreateAdapterResponse(
        adapter=adapter(publication.adapter, model, with_versions=True),
        version=_version(publication.version),
        created=publication.created,
    )


def import_response(publication: Publication, model: BaseModel) -> pb.ImportAdapterResponse:
    """The answer to ImportAdapter."""
    return pb.ImportAdapterResponse(
        adapter=adapter(publication.adapter, model, with_versions=True),
        version=_version(publication.version),
        created=publication.created,
    )


def list_response(page: AdapterPage, asked: Listing, model: BaseModel) -> pb.ListAdaptersResponse:
    """The answer to ListAdapters."""
    return pb.ListAdaptersResponse(
        adapters=[adapter(entry, model, with_versions=False) for entry in page.adapters],
        next_page_token=_page_token(page.next_after, asked.prefix),
        base_model=model.name,
    )


def adapter(value: Adapter, model: BaseModel, *, with_versions: bool) -> pb.Adapter:
    """An adapter, with or without its versions."""
    return pb.Adapter(
        adapter_id=value.adapter_id,
        base_model=model.name,
        latest=_version(value.latest),
        versions=[_version(version) for version in value.versions] if with_versions else [],
    )


def _version(value: Version) -> pb.AdapterVersion:
    create_time = Timestamp()
    create_time.FromMicroseconds(value.created_at_us)
    return pb.AdapterVersion(
        digest=value.digest,
        create_time=create_time,
        rank=value.rank,
        target_modules=[module.value for module in value.target_modules],
        size_bytes=value.size_bytes,
        parameter_count=value.parameter_count,
    )


def _page_token(after: str | None, prefix: str) -> str:
    if after is None:
        return ""
    return base64.urlsafe_b64encode(json.dumps([prefix, after]).encode()).decode()


def _read_page_token(token: str, prefix: str) -> str:
    if not token:
        return ""
    try:
        token_prefix, after = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError):
        token_prefix, after = None, None
    if token_prefix != prefix or not isinstance(after, str):
        raise RequestInvalid(
            "page_token is not from a listing with the same id_prefix; leave it empty to begin again",
            field="page_token",
        )
    return after
