"""The filters that every policy asks, named in its file or not: leaving one out would serve nobody well."""

from control_plane.core.placement.filters.base_model import BaseModel
from control_plane.core.placement.filters.drain import Drain
from control_plane.core.placement.filters.has_room import HasRoom
from control_plane.core.placement.filters.lease import Lease
from control_plane.core.placement.filters.tenants import Tenants
from control_plane.core.placement.plugin import Filter

GATES: tuple[Filter, ...] = (Lease(), Drain(), BaseModel(), Tenants())
# Asked of those that are to get a request now, and not of those that are told of one to come.
HAS_ROOM = HasRoom()
