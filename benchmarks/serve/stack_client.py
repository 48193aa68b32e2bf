"""A client process: its share of a workload as streams over gRPC."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serve.outcome import Stream
from benchmarks.serve.workload import Item
from multitude import AsyncClient, MultitudeError, SamplingParams, StopConditions


@dataclass(frozen=True)
class Share:
    """What one client process is to do.

    Attributes:
        address: Of the control plane.
        store_address: Of the adapter store.
        items: Its requests; their arrivals count from `begin`.
        begin: By the machine's monotonic clock, which all its processes read alike.
    """

    address: str
    store_address: str
    items: Sequence[Item]
    begin: float


def adapter_id(number: int) -> str:
    """What the adapter with this number is published as."""
    return f"dummy/{number}"


def serve(share: Share) -> list[Stream]:
    """Sends every request at its time; when its tokens came, counted from `begin`."""
    return asyncio.run(_serve(share))


async def _serve(share: Share) -> list[Stream]:
    async with AsyncClient(share.address, store_address=share.store_address) as client:
        await client.fleet()  # connected before the first request's time
        return list(await asyncio.gather(*(_one(client, item, share.begin) for item in share.items)))


async def _one(client: AsyncClient, item: Item, begin: float) -> Stream:
    await asyncio.sleep(begin + item.arrival_s - time.perf_counter())
    stream = Stream(item.arrival_s)
    tokens = client.stream(
        item.prompt,
        adapter="" if item.adapter is None else adapter_id(item.adapter),
        max_tokens=item.num_output,
        sampling=SamplingParams(temperature=0),
        stop=StopConditions(ignore_eos=True),
    )
    try:
        async for chunk in tokens:
            stream.take(len(chunk.token_ids), time.perf_counter() - begin)
    except MultitudeError:
        return Stream(item.arrival_s)
    return stream
