"""vLLM, as far as it is installed, through its public API; its adapters are files of random numbers."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.serve.adapter_files import write_peft
from benchmarks.serve.outcome import Run, Stream
from benchmarks.serve.setups import Setup
from benchmarks.serve.workload import Item, touched

_MAX_LORAS = 64  # the better of 64 and 128, where both ran
_MEMORY_SHARE = 0.9
_MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what `max_lora_rank` may be


class NotInstalled(Exception):
    """The peer is not there; the message says how it comes to be."""


class VllmServer:
    """`LLM.generate` over a whole workload, as offline users call it."""

    def __init__(self, llm: Any, adapters: Mapping[int, Path]) -> None:
        self._llm = llm
        self._adapters = adapters

    def run(self, items: Sequence[Item]) -> Run:
        """Serves a workload whose requests are there at once. Raises ValueError for an open loop."""
        from vllm import SamplingParams  # noqa: PLC0415 - of this peer alone
        from vllm.lora.request import LoRARequest  # noqa: PLC0415

        if any(item.arrival_s for item in items):
            raise ValueError("vLLM's offline API takes all requests at once: leave --rate out")
        requests: dict[int | None, Any] = {
            adapter: LoRARequest(str(adapter), adapter + 1, str(path)) for adapter, path in self._adapters.items()
        }
        begin = time.perf_counter()
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(item.prompt)} for item in items],
            [SamplingParams(temperature=0.0, max_tokens=item.num_output, ignore_eos=True) for item in items],
            lora_request=[requests.get(item.adapter) for item in items] if requests else None,
            use_tqdm=False,
        )
        seconds = time.perf_counter() - begin
        streams = []
        for output in outputs:
            first, own = output.metrics.first_token_latency, output.metrics
            last = first + own.last_token_ts - own.first_token_ts
            streams.append(Stream(0.0, len(output.outputs[0].token_ids), first, last))
        return Run(seconds, streams, sum(len(item.prompt) for item in items))


@contextmanager
def vllm_server(setup: Setup, items: Sequence[Item], context_length: int) -> Iterator[VllmServer]:
    """One with the adapters that `items` use in its host cache.

    Raises:
        NotInstalled: there is no vLLM.
    """
    try:
        from vllm import LLM  # noqa: PLC0415 - of this peer alone
    except ImportError as error:
        raise NotInstalled("--peer vllm needs vLLM in this Python: pip install vllm") from error
    folder = Path(tempfile.mkdtemp())
    try:
        setup.write_config(folder)
        adapters = {adapter: folder / str(adapter) for adapter in touched(items)}
        for adapter, path in adapters.items():
            write_peft(setup, adapter, path)
        llm = LLM(
            str(folder),
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=context_length,
            gpu_memory_utilization=_MEMORY_SHARE,
            enable_prefix_caching=False,
            disable_log_stats=False,
            enable_lora=bool(adapters),
            **(_room_for(setup, len(adapters)) if adapters else {}),
        )
        server = VllmServer(llm, adapters)
        # Every adapter once, so that the run finds it in the host cache, as ours does.
        server.run([Item(adapter, (1, 2, 3), 1) for adapter in adapters] or [Item(None, (1, 2, 3), 1)])
        yield server
    finally:
        shutil.rmtree(folder)


def _room_for(setup: Setup, num_adapters: int) -> dict[str, int]:
    """What vLLM is told of the setup's adapters, all of which fit into its host cache."""
    return {
        "max_loras": min(_MAX_LORAS, num_adapters),
        "max_lora_rank": next(rank for rank in _MAX_RANKS if rank >= max(setup.ranks)),
        "max_cpu_loras": num_adapters,
    }
