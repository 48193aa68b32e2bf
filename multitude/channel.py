"""How a client's channels are set up; the same for the synchronous and the asynchronous client."""

import json
import uuid

from multitude.errors import InvalidRequestError

MESSAGE_LIMIT_BYTES = 16 << 20

_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

# gRPC itself retries: UNAVAILABLE only, before the first message only, after the delay that the server asks for. A
# request keeps its id. An upload is not retried: its stream cannot be had again.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "multitude.v1.GenerationService"},
                {"service": "multitude.v1.FleetService"},
                {"service": "multitude.v1.AdapterService", "method": "GetAdapter"},
                {"service": "multitude.v1.AdapterService", "method": "ListAdapters"},
            ],
            "retryPolicy": _RETRY,
        }
    ]
}

OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
)


# What the control plane reads a request's tenant from, unless its `tenants.metadata_key` is another.
TENANT_KEY = "multitude-tenant"


def tenant_metadata(tenant: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a tenant's calls. Errors: InvalidRequestError with reason TENANT_INVALID."""
    if not tenant:
        return ()
    if not (tenant.isascii() and tenant.isprintable()):
        raise InvalidRequestError("a tenant's name is of printable ASCII characters", reason="TENANT_INVALID")
    return ((TENANT_KEY, tenant),)


def new_request_id() -> str:
    """An id for a request whose caller gave none."""
    return uuid.uuid4().hex
