"""An engine brought to a case's step, and kept there for as many steps as are measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.roofline.case import Case
from benchmarks.serve.engines import engine_of
from benchmarks.serve.options import Bounds
from worker.engine.engine import Engine
from worker.types import EngineRequest, HostedAdapter, SamplingParams, StepResult

_GREEDY = SamplingParams(temperature=0.0)
_SETTLING = 4  # steps after the last prompt
_MARGIN = 256  # tokens beyond three contexts that a sequence may have


@dataclass
class SteadyEngine:
    """One engine for several cases, one after the other."""

    engine: Engine
    adapters: Mapping[int, HostedAdapter]
    max_step_tokens: int
    num_requests: int = 0

    def steps(self, case: Case, count: int) -> list[Callable[[], StepResult]]:
        """What does one such step, `count` times; to be called in turn. The steps before them are done.

        Raises:
            ValueError: The pool does not hold the case.
        """
        starting = {
            self._add(case, prompt_len, 2 * case.context + count, case.adapter_of(row))
            for row, prompt_len in enumerate(self._prompt_lens(case, count))
        }
        while starting:
            result = self.engine.step()
            starting -= {output.request_id for output in result.outputs}
        for _ in range(_SETTLING):
            result = self.engine.step()
        if result.stats.num_running < case.rows:
            raise ValueError(f"the page pool does not hold {case}: take fewer rows or a shorter context")
        return [lambda: self._step(case)] * count

    def _prompt_lens(self, case: Case, count: int) -> list[int]:
        """Of the decodes, so that all have about `context` tokens halfway through: the first decode meanwhile."""
        grown = count / 2 + _SETTLING
        lens = []
        for row in reversed(range(case.rows)):
            lens.append(max(1, round(case.context - grown)))
            grown += lens[-1] / (self.max_step_tokens - row)
        return lens[::-1]

    def drain(self) -> None:
        """Ends what runs."""
        for number in range(self.num_requests):
            self.engine.cancel(str(number))
        while self.engine.has_work:
            self.engine.step()

    def _step(self, case: Case) -> StepResult:
        if case.chunk:  # ends with its first token, so that the next step's chunk is another sequence's
            self._add(case, case.chunk, 1, case.adapter_of(0))
        return self.engine.step()

    def _add(self, case: Case, prompt_len: int, num_output: int, adapter: int | None) -> str:
        name = str(self.num_requests)
        self.num_requests += 1
        prompt = tuple((self.num_requests + 7 * place) % case.setup.vocab_size for place in range(prompt_len))
        hosted = None if adapter is None else self.adapters[adapter]
        self.engine.add(EngineRequest(name, prompt, num_output, _GREEDY, adapter=hosted))
        return name


def steady_engines(cases: Sequence[Case], device: torch.device) -> Iterator[tuple[Case, SteadyEngine]]:
    """Each case with an engine that is large enough for all."""
    most_rows = max(case.num_rows for case in cases)
    bounds = replace(
        Bounds(),
        max_running=max(case.rows + 2 * bool(case.chunk) for case in cases),
        max_step_tokens=max(most_rows + 1, 1024),
        context_length=max(3 * case.context + _MARGIN for case in cases),
    )
    adapters = range(max(case.adapters for case in cases))
    with engine_of(cases[0].setup, device, adapters, bounds) as server:
        for case in cases:
            steady = SteadyEngine(server.engine, server.adapters, bounds.max_step_tokens)
            yield case, steady
            steady.drain()
