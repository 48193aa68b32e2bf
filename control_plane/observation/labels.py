"""Which names metrics tell apart: those with the most traffic, so many and no more; the rest are one, `other`."""

from typing import Final

OTHER: Final = "other"
# Names whose traffic is counted, for each that has a label: enough to notice one that rises.
_COUNTED_PER_LABEL: Final = 8
# What an unlabelled name's traffic must exceed that of the least labelled one by, so that labels do not flutter.
_LEAD: Final = 1.5
# What is left of a count at the next rotation: traffic of about the last ten counts.
_DECAY: Final = 0.9


class TopLabels:
    """Gives labels to the names with the most traffic.

    A name gets a label at once while there are labels left; later it takes one over when labels are rotated. Memory
    is bounded: of names without a label only the busiest are counted (space-saving, by Metwally et al., 2005).
    """

    def __init__(self, max_labels: int) -> None:
        self._max_labels = max_labels
        self._labelled: dict[str, float] = {}
        self._others: dict[str, float] = {}

    @property
    def labels(self) -> frozenset[str]:
        """The names that have a label now."""
        return frozenset(self._labelled)

    def label(self, name: str) -> str:
        """The name itself if it has a label, else `other`; counts nothing."""
        return name if name in self._labelled else OTHER

    def count(self, name: str) -> str:
        """Counts one use of a name; returns its label."""
        if name in self._labelled:
            self._labelled[name] += 1.0
            return name
        if len(self._labelled) < self._max_labels:
            self._labelled[name] = 1.0 + self._others.pop(name, 0.0)
            return name
        if name in self._others:
            self._others[name] += 1.0
        elif len(self._others) < self._max_labels * _COUNTED_PER_LABEL:
            self._others[name] = 1.0
        else:
            least = min(self._others, key=self._others.__getitem__)
            self._others[name] = self._others.pop(least) + 1.0
        return OTHER

    def rotate(self) -> frozenset[str]:
        """Lets risen names take over the labels of fallen ones; returns the names that lost theirs."""
        lost = set()
        risen = sorted(self._others, key=lambda name: (-self._others[name], name))
        fallen = sorted(self._labelled, key=lambda name: (self._labelled[name], name))
        for new, old in zip(risen, fallen, strict=False):
            if self._others[new] <= _LEAD * self._labelled[old]:
                break
            self._labelled[new] = self._others.pop(new)
            self._others[old] = self._labelled.pop(old)
            lost.add(old)
        for counts in (self._labelled, self._others):
            for name in counts:
                counts[name] *= _DECAY
        return frozenset(lost)
