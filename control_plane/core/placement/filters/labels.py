"""Keep workers with certain labels."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools
from control_plane.core.settings import MUST_BE_SET, LabelMatch


@dataclass(frozen=True, slots=True)
class Labels:
    """Keeps workers that have every label of `match`, with the value given or one of several."""

    name: ClassVar[str] = "labels"
    is_lasting: ClassVar[bool] = True
    is_of_request: ClassVar[bool] = False
    match: LabelMatch = field(default=LabelMatch(), metadata=MUST_BE_SET)

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether all labels are there."""
        admitted = np.ones(fleet.num_rows, dtype=np.bool_)
        for key, values in self.match.values_of:
            has_one = np.zeros(fleet.num_rows, dtype=np.bool_)
            for value in values:
                has_one |= fleet.labels.mask((key, value), fleet.num_rows)
            admitted &= has_one
        return admitted
