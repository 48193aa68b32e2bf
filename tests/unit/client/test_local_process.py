"""Interrupts while the launcher starts a process."""

import signal
import threading

import pytest

from multitude.local.process import interrupts_deferred


def test_an_interrupt_comes_at_the_end_of_the_block():
    steps = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- it has to come after the block's last statement
        with interrupts_deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("forked and known")
        steps.append("went on")
    assert steps == ["forked and known"]
    assert signal.getsignal(signal.SIGINT) is before


def test_what_the_block_raises_goes_first():
    with pytest.raises(ValueError, match="own"), interrupts_deferred():
        raise ValueError("own")


def test_other_threads_leave_signals_alone():
    def enter():
        with interrupts_deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    seen = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
