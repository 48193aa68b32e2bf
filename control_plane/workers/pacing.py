"""How fast step credits go back: no faster than this process can afford."""


class CreditPacer:
    """Bounds the share of one core that a worker's step messages cost here.

    Each step message costs a wake-up and a write for every stream in it. On a machine that the control plane shares
    with its workers, that CPU is taken from the engine; a credit that waits lets the worker join several steps in one
    message, which costs little more than one step. So a credit is returned when the time since the last one has
    reached what the process used meanwhile, divided by the share: at once under light load, later as streams become
    many.
    """

    def __init__(self, share: float, longest_delay_s: float) -> None:
        """`share` in (0, 1] of one core; no credit waits longer than `longest_delay_s`."""
        self._share = share
        self._longest_delay_s = longest_delay_s
        self._last_s = 0.0
        self._last_cpu_s = 0.0

    def delay(self, now: float, cpu_s: float) -> float:
        """Seconds to hold the next credit back, given the time and the CPU seconds that the process has used so far."""
        due_s = self._last_s + (cpu_s - self._last_cpu_s) / self._share
        delay_s = min(max(0.0, due_s - now), self._longest_delay_s)
        self._last_s = now + delay_s
        self._last_cpu_s = cpu_s
        return delay_s
