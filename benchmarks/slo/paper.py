"""What the S-LoRA paper measured of its schedulers, and servers that behave like its own.

Source: the result files beside the paper's program (github.com/S-LoRA/S-LoRA, benchmarks/paper/synthetic). A first
token is in time if it comes in less than 6 s, satisfaction is 1 - (t / 6)^2, aborted requests count 0. Each cell is one
run of 300 s at its generator's seed, 42, so the traces here are the paper's own.

The servers are fitted to the FCFS column alone, one for each setting whatever the coefficient of variation: `fit.py`.
What is not fitted is known: tokens in the pool and in a batch of prompts from the launch commands, bytes of an adapter
and a token from the model, and from its program that ten steps follow a batch of prompts before the next, that
adapters are in host memory, are loaded before the prompts that need them, each copied twice, for its A and for its B,
and leave with the last sequence that uses them.

Its front end takes requests in one after the other, some in each step of the model, so that of a burst the last wait
seconds before the scheduler knows of them and counts their age. Without it simulated bursts are served too well.
"""

from dataclasses import dataclass

from control_plane.simulation.service import FleetModel, ServiceModel
from control_plane.simulation.trace import GammaArrivals, Trace

SEED = 42
DEADLINE_S = 6.0
DURATION_S = 300.0
VARIATIONS = (1, 2, 4, 6, 8)


@dataclass(frozen=True)
class Setting:
    """One server and its load; cells are by coefficient of variation, in the order of `VARIATIONS`."""

    name: str
    num_adapters: int
    requests_per_s: float
    ranks: tuple[int, ...]
    bytes_per_rank: int
    fleet: FleetModel
    attainment: dict[str, tuple[float, ...]]
    satisfaction: dict[str, tuple[float, ...]]
    fcfs_duration_s: tuple[float, ...]
    fcfs_first_token_s: tuple[float, ...]

    def trace(self, variation: float, seed: int = SEED) -> Trace:
        """The requests of a cell."""
        arrivals = GammaArrivals(
            requests_per_s=self.requests_per_s,
            coefficient_of_variation=variation,
            duration_s=DURATION_S,
            num_adapters=self.num_adapters,
            ranks=self.ranks,
            bytes_per_rank=self.bytes_per_rank,
            first_token_deadline_s=DEADLINE_S,
        )
        return arrivals.draw(f"{self.name}, cv {variation:g}", seed)


def _server(
    *,
    pool_tokens: int,
    bytes_per_token: int,
    context_s: float,
    load_s_per_gb: float,
    step_s: float,
    sequence_s: float,
    token_s: float,
    front_end_s: float,
) -> FleetModel:
    """S-LoRA's server: what starts is decided between steps, which stop for adapters and prompts."""
    service = ServiceModel(
        step_s=step_s,
        sequence_s=sequence_s,
        context_s=context_s,
        rank_s=0.0,
        prefill_s=step_s,
        token_s=token_s,
        pool_tokens=pool_tokens,
        bytes_per_token=bytes_per_token,
        max_running=1000,
        window=0,
        batch_tokens=max(pool_tokens // 6, 3072),
        load_s_per_gb=load_s_per_gb,
        is_host_warm=True,
        is_load_blocking=True,
        keeps_idle_adapters=False,
        steps_between=10,
    )
    return FleetModel(service=service, front_end_s=front_end_s)


# A and B of q, k, v and o, 2 bytes a number.
_LLAMA_7B_RANK = 32 * 4 * 2 * 4096 * 2
_LLAMA_13B_RANK = 40 * 4 * 2 * 5120 * 2

A100_S4 = Setting(
    name="A100-80 S4",
    num_adapters=400,
    requests_per_s=6.0,
    ranks=(64, 32, 16),
    bytes_per_rank=_LLAMA_13B_RANK,
    fleet=_server(
        pool_tokens=65_000,
        bytes_per_token=40 * 2 * 5120 * 2,
        context_s=3.0e-7,
        load_s_per_gb=0.10,
        step_s=0.048688,
        sequence_s=0.000161,
        token_s=0.000135,
        front_end_s=0.048502,
    ),
    attainment={
        "fcfs": (0.101, 0.101, 0.099, 0.279, 0.136),
        "lcfs": (0.699, 0.701, 0.593, 0.575, 0.447),
        "paper-abort": (0.719, 0.719, 0.685, 0.660, 0.562),
    },
    satisfaction={
        "fcfs": (0.096, 0.094, 0.087, 0.206, 0.077),
        "lcfs": (0.655, 0.645, 0.524, 0.449, 0.322),
        "paper-abort": (0.646, 0.633, 0.587, 0.538, 0.394),
    },
    fcfs_duration_s=(456.0, 454.5, 453.0, 469.2, 447.0),
    fcfs_first_token_s=(62.6, 57.5, 57.5, 34.2, 42.3),
)

A10G_S2 = Setting(
    name="A10G S2",
    num_adapters=200,
    requests_per_s=2.0,
    ranks=(64, 32, 16, 8),
    bytes_per_rank=_LLAMA_7B_RANK,
    fleet=_server(
        pool_tokens=14_500,
        bytes_per_token=32 * 2 * 4096 * 2,
        context_s=8.7e-7,
        load_s_per_gb=0.16,
        step_s=0.033707,
        sequence_s=0.000276,
        token_s=0.000251,
        front_end_s=0.049849,
    ),
    attainment={
        "fcfs": (0.270, 0.263, 0.433, 0.408, 0.315),
        "lcfs": (0.790, 0.697, 0.640, 0.600, 0.500),
        "paper-abort": (0.858, 0.817, 0.743, 0.690, 0.637),
    },
    satisfaction={
        "fcfs": (0.197, 0.227, 0.371, 0.369, 0.263),
        "lcfs": (0.729, 0.641, 0.572, 0.529, 0.413),
        "paper-abort": (0.755, 0.713, 0.666, 0.631, 0.547),
    },
    fcfs_duration_s=(381.0, 381.6, 421.1, 437.0, 504.3),
    fcfs_first_token_s=(23.7, 27.2, 18.7, 25.4, 17.9),
)

A10G_S1 = Setting(
    name="A10G S1",
    num_adapters=200,
    requests_per_s=2.0,
    ranks=(8,),
    bytes_per_rank=_LLAMA_7B_RANK,
    fleet=_server(
        pool_tokens=14_500,
        bytes_per_token=32 * 2 * 4096 * 2,
        context_s=8.7e-7,
        load_s_per_gb=0.16,
        step_s=0.02968,
        sequence_s=0.000206,
        token_s=0.000339,
        front_end_s=0.048847,
    ),
    attainment={
        "fcfs": (0.517, 0.477, 0.562, 0.518, 0.480),
        "paper-abort": (0.942, 0.898, 0.815, 0.758, 0.743),
    },
    satisfaction={
        "fcfs": (0.490, 0.434, 0.506, 0.464, 0.416),
        "paper-abort": (0.902, 0.830, 0.734, 0.702, 0.632),
    },
    fcfs_duration_s=(337.2, 335.8, 390.8, 405.4, 482.8),
    fcfs_first_token_s=(6.06, 8.73, 9.78, 16.2, 11.0),
)

SETTINGS = (A100_S4, A10G_S2, A10G_S1)
