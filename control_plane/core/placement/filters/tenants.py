"""Keep workers that the tenant may use."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools


class TenantMode(Enum):
    """Where a tenant that some workers are for may run."""

    SHARED = "shared"
    """There, and on the workers that are for everybody."""
    OWN = "own"
    """There alone."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """Keeps workers whose configured tenants hold the request's, and those that name none. Always asked.

    With `mode` own, a tenant that some workers are for uses these alone: it shares no batch with others.
    """

    name: ClassVar[str] = "tenants"
    is_lasting: ClassVar[bool] = True
    is_of_request: ClassVar[bool] = True
    mode: TenantMode = TenantMode.SHARED

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether the tenant may use the worker."""
        tenant = request.request.tenant
        is_own = fleet.tenants.mask(tenant, fleet.num_rows)
        if self.mode is TenantMode.OWN and fleet.tenants.count(tenant):
            return is_own
        return is_own | ~fleet.is_restricted
