from control_plane.core.paper_abort import PaperAbort


def test_the_newest_go_first_while_more_come_than_are_admitted() -> None:
    rule = PaperAbort()
    # int(0.7 * 10 + 0.3 * 1) = 7 came, 1 is admitted: overload.
    assert rule.begin(10, 1.0)
    for num_left in (9, 8, 7, 6):
        rule.dispatched(num_left)
    # The same moment is the same batch.
    assert rule.begin(6, 1.0)
    # The batch admitted int(0.7 * 4 + 0.3 * 1) = 3; since then int(0.7 * 1 + 0.3 * 7) = 2 came.
    assert not rule.begin(7, 2.0)
    # Nothing was dispatched, and int(0.7 * 6 + 0.3 * 2) = 4 came by now.
    assert rule.begin(12, 3.0)


def test_a_batch_admits_at_least_one() -> None:
    rule = PaperAbort()
    for now in range(5):
        rule.begin(0, float(now))
        rule.dispatched(0)
    assert not rule.begin(0, 9.0)


def test_what_is_dropped_came_before_the_next_batch() -> None:
    """The paper's program counts arrivals, then drops what is too old, and knows of it only a batch later."""
    rule = PaperAbort()
    rule.dropped(9)
    # int(0.7 * (1 + 9) + 0.3 * 1) = 7 came, of which 1 still waits.
    assert rule.begin(1, 1.0)
    # int(0.7 * 1 + 0.3 * 7) = 2, then int(0.7 * 0 + 0.3 * 2) = 0.
    assert rule.begin(1, 2.0)
    assert not rule.begin(0, 3.0)
    assert not rule.is_newest_first
