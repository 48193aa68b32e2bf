"""Many streams of one control plane from one process, which says what it saw as JSON."""

import argparse
import asyncio
import json
import sys
import time

import grpc

from benchmarks.relay_worker import CYCLE
from multitude.v1 import generation_pb2, generation_pb2_grpc


class Tally:
    """What all streams saw together."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.num_chunks = 0
        self.gaps_s: list[float] = []

    def add(self, num_tokens: int, gap_s: float) -> None:
        """One chunk, and how long after the one before."""
        self.num_tokens += num_tokens
        self.num_chunks += 1
        self.gaps_s.append(gap_s)


async def _follow(
    stub: generation_pb2_grpc.GenerationServiceStub, name: str, num_tokens: int, tally: Tally, pause_s: float
) -> None:
    """One stream; every token is checked to be the next one."""
    request = generation_pb2.GenerateRequest(
        request_id=name, prompt=generation_pb2.Prompt(token_ids=generation_pb2.TokenIds(ids=[3] * 16))
    )
    request.max_tokens = num_tokens
    request.stop.ignore_eos = True
    num_seen, last_s = 0, 0.0
    async for message in stub.Generate(request):
        if message.WhichOneof("event") != "chunk":
            continue
        ids = list(message.chunk.token_ids)
        assert ids == [(num_seen + index) % CYCLE for index in range(len(ids))], f"{name} lost its place at {num_seen}"
        num_seen += len(ids)
        now = time.perf_counter()
        tally.add(len(ids), now - last_s if last_s else 0.0)
        last_s = now
        if pause_s:
            await asyncio.sleep(pause_s)
    assert num_seen == num_tokens, f"{name} has {num_seen} tokens of {num_tokens}"


async def _run(address: str, prefix: str, num_streams: int, num_tokens: int, pause_s: float) -> dict[str, float]:
    tally = Tally()
    # A few connections, as several applications would have.
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(max(1, num_streams // 64))
    ]
    stubs = [generation_pb2_grpc.GenerationServiceStub(channel) for channel in channels]
    begin = time.perf_counter()
    follows = [
        _follow(stubs[index % len(stubs)], f"{prefix}-{index}", num_tokens, tally, pause_s)
        for index in range(num_streams)
    ]
    await asyncio.gather(*follows)
    seconds = time.perf_counter() - begin
    for channel in channels:
        await channel.close()
    gaps = sorted(tally.gaps_s)
    return {
        "tokens": tally.num_tokens,
        "chunks": tally.num_chunks,
        "seconds": seconds,
        "chunk_gap_p50_ms": gaps[len(gaps) // 2] * 1000,
        "chunk_gap_p99_ms": gaps[len(gaps) * 99 // 100] * 1000,
    }


def main() -> int:
    """Exits with 1, by its assertion, if a token is missing, twice or out of order."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--prefix", default="r")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="what a lagging client waits after each chunk")
    options = parser.parse_args()
    seen = asyncio.run(_run(options.address, options.prefix, options.streams, options.tokens, options.pause_ms / 1000))
    print(json.dumps(seen), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
