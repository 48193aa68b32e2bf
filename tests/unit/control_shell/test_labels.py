"""Labels follow traffic, and their number is bounded whatever comes."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from control_plane.observation.labels import OTHER, TopLabels

NAMES = st.text("abcdefgh", min_size=1, max_size=2)


@given(max_labels=st.integers(1, 4), steps=st.lists(st.one_of(st.none(), NAMES), max_size=200))
def test_there_are_never_more_labels_than_allowed(max_labels: int, steps: list[str | None]) -> None:
    labels = TopLabels(max_labels)
    for step in steps:
        if step is None:
            before = labels.labels
            lost = labels.rotate()
            assert lost <= before
            assert not lost & labels.labels
        else:
            had_room = len(labels.labels) < max_labels
            assert labels.count(step) in {step, OTHER}
            assert not had_room or step in labels.labels
        assert len(labels.labels) <= max_labels
        assert len(labels._others) <= 8 * max_labels
        assert not labels.labels & labels._others.keys()


@given(st.lists(NAMES, min_size=1, max_size=300), st.integers(1, 5))
def test_with_room_for_all_every_name_is_its_own_label(names: list[str], rounds: int) -> None:
    labels = TopLabels(100)
    counts = Counter(labels.count(name) for name in names)
    for _ in range(rounds):
        assert not labels.rotate()
    assert counts == Counter(names)


def test_a_name_that_becomes_busy_takes_the_label_of_one_that_is_not_any_more() -> None:
    labels = TopLabels(2)
    for name in ["old"] * 10 + ["steady"] * 30:
        labels.count(name)
    for index in range(200):
        labels.count(f"once-{index}")
    for _ in range(40):
        assert labels.count("new") == OTHER
    assert labels.rotate() == {"old"}
    assert labels.labels == {"steady", "new"}
    assert labels.count("new") == "new"
    assert labels.label("old") == OTHER


def test_equals_do_not_take_labels_from_each_other() -> None:
    labels = TopLabels(1)
    for _ in range(20):
        for name in ("a", "b"):
            labels.count(name)
        assert not labels.rotate()
    assert labels.labels == {"a"}
