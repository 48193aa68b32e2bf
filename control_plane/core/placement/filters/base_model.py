"""Keep workers of the request's base model."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Keeps workers that serve the base model that the request is for. Always asked."""

    name: ClassVar[str] = "base_model"
    is_lasting: ClassVar[bool] = True
    is_of_request: ClassVar[bool] = True

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether the worker reports that base model."""
        base_model = request.request.base_model
        if not base_model:
            return np.ones(fleet.num_rows, dtype=np.bool_)
        return fleet.base_models.mask(base_model, fleet.num_rows)
