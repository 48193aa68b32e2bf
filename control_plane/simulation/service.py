"""What serving costs on a worker: a step's time, and the room that sequences and adapters take."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """A worker as numbers. Times are seconds, room is counted in tokens of KV.

    A decode step takes `step_s` + `sequence_s` for each sequence + `context_s` for each token of their contexts +
    `rank_s` for each rank of the different adapters in the batch. Prompts take `prefill_s` + `token_s` for each token.
    """

    step_s: float = 0.005
    sequence_s: float = 0.00001
    context_s: float = 1.2e-7
    rank_s: float = 1.0e-6
    prefill_s: float = 0.005
    token_s: float = 0.00002
    pool_tokens: int = 200_000
    bytes_per_token: int = 131_072
    max_running: int = 256
    window: int = 256
    """Requests that the worker takes, running or not; 0: only what starts at once, as if the scheduler sat in it."""
    steps_between: int = 1
    """Decode steps after prompts before waiting requests are looked at again."""
    steps_per_look: int = 1
    """Decode steps between two looks when nothing could start; tokens are told as often. More makes a large fleet's
    simulation faster and coarser."""
    batch_tokens: int = 8192
    """Prompt tokens that are computed together."""
    load_s_per_gb: float = 0.02
    """From host memory to the pool."""
    fetch_s_per_gb: float = 1.0
    """From the store to host memory."""
    fetch_s: float = 0.01
    host_adapters: int = 10_000
    """Adapters that host memory keeps."""
    is_host_warm: bool = False
    """Whether host memory holds every adapter from the start."""
    is_load_blocking: bool = False
    """Whether the worker computes nothing as an adapter comes from host memory."""
    keeps_idle_adapters: bool = True
    """Whether an adapter stays in the pool once nothing runs with it, until its room is needed."""

    def decode_s(self, num_sequences: int, num_context_tokens: int, sum_ranks: int) -> float:
        """Time of one decode step."""
        return (
            self.step_s
            + self.sequence_s * num_sequences
            + self.context_s * num_context_tokens
            + self.rank_s * sum_ranks
        )

    def adapter_tokens(self, size_bytes: int) -> int:
        """Room of an adapter in the pool."""
        return -(-size_bytes // self.bytes_per_token)


@dataclass(frozen=True, slots=True)
class WorkerTraits:
    """In what a worker differs from others; 0 for what the service model says."""

    labels: tuple[tuple[str, str], ...] = ()
    tenants: tuple[str, ...] = ()
    window: int = 0
    pool_tokens: int = 0

    def model(self, service: ServiceModel) -> ServiceModel:
        """The worker's own numbers."""
        window, pool_tokens = self.window or service.window, self.pool_tokens or service.pool_tokens
        return replace(service, window=window, pool_tokens=pool_tokens)


@dataclass(frozen=True, slots=True)
class FleetModel:
    """Workers of equal cost, and how often they fail: `losses` are spread over the run, each is back after `loss_s`."""

    num_workers: int = 1
    service: ServiceModel = ServiceModel()
    latency_s: float = 0.0
    """One way between control plane and worker."""
    front_end_s: float = 0.0
    """What stands before the control plane takes so long for each request, one after the other. Clients wait for it
    too, and the control plane knows nothing of it."""
    status_s: float = 0.25
    losses: int = 0
    loss_s: float = 5.0
    traits: tuple[WorkerTraits, ...] = ()
    """In what the workers differ, again from the first where there are more workers; none for equal ones."""

    def traits_of(self, index: int) -> WorkerTraits:
        """In what one worker differs."""
        return self.traits[index % len(self.traits)] if self.traits else WorkerTraits()
