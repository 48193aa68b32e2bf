"""Whose a call is."""

from collections.abc import Iterable

from control_plane.config import TENANT_PATTERN, TenantsConfig
from control_plane.errors import TenantInvalid, TenantUnknown


def tenant_of(metadata: Iterable[tuple[str, str | bytes]] | None, config: TenantsConfig) -> str:
    """The tenant that a call's metadata names, or the default one. Raises TenantInvalid, TenantUnknown."""
    values = {value for key, value in metadata or () if key == config.metadata_key}
    if not values:
        return config.default
    tenant = values.pop()
    if values or not isinstance(tenant, str) or not TENANT_PATTERN.fullmatch(tenant):
        raise TenantInvalid(
            config.metadata_key,
            "must be one name of 1 to 64 letters, digits and ._:@-, that begins with a letter or digit",
        )
    if config.known and tenant != config.default and tenant not in config.known:
        raise TenantUnknown(
            f"{config.metadata_key}: tenant {tenant!r} is not served; add it to tenants.known, or use another",
            metadata={"field": config.metadata_key, "tenant": tenant},
        )
    return tenant
