"""Worker-facing protobuf to the core's types and back."""

from collections.abc import Sequence
from typing import Final

from control_plane.core.types import (
    AdapterRef,
    BatchAcked,
    DispatchedRequest,
    FinishReason,
    PositionLogprobs,
    ResidencyTier,
    SamplingParams,
    SequenceOutput,
    TokensProduced,
    WorkerFailure,
    WorkerStatus,
)
from multitude.v1 import sampling_pb2, worker_pb2

FINISH_REASONS: Final = {
    sampling_pb2.FINISH_REASON_UNSPECIFIED: None,
    sampling_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    sampling_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    sampling_pb2.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
}
TIERS: Final = {
    worker_pb2.RESIDENCY_TIER_HOST: ResidencyTier.HOST,
    worker_pb2.RESIDENCY_TIER_POOL: ResidencyTier.POOL,
}
TIER_NUMBERS: Final = {tier: number for number, tier in TIERS.items()}


def encode_batch(requests: Sequence[DispatchedRequest]) -> worker_pb2.DispatchRequest:
    """Requests to run."""
    return worker_pb2.DispatchRequest(
        batch=worker_pb2.RequestBatch(requests=[_encode_request(dispatched) for dispatched in requests])
    )


def encode_prefetch(adapters: Sequence[AdapterRef]) -> worker_pb2.DispatchRequest:
    """Adapters that requests will soon need."""
    return worker_pb2.DispatchRequest(
        prefetch=worker_pb2.PrefetchHint(adapters=[_encode_adapter(adapter) for adapter in adapters])
    )


def encode_cancel(request_id: str) -> worker_pb2.DispatchRequest:
    """A request to stop."""
    return worker_pb2.DispatchRequest(cancel=worker_pb2.CancelRequest(request_id=request_id))


def encode_credit(count: int) -> worker_pb2.DispatchRequest:
    """Steps that may be sent."""
    return worker_pb2.DispatchRequest(credit=worker_pb2.StepCredit(step_credit_count=count))


def decode_step(worker_id: str, step: worker_pb2.StepOutput) -> TokensProduced:
    """The tokens of one message."""
    return TokensProduced(
        worker_id=worker_id,
        outputs=tuple([_decode_output(output) for output in step.outputs]),
        failures=tuple(_decode_failure(failure) for failure in step.failures),
    )


def decode_ack(worker_id: str, ack: worker_pb2.BatchAck) -> BatchAcked:
    """What a worker took and refused."""
    return BatchAcked(
        worker_id=worker_id,
        accepted_request_ids=tuple(ack.accepted_request_ids),
        rejected=tuple(_decode_failure(failure) for failure in ack.rejected),
    )


def decode_status(status: worker_pb2.WorkerStatus) -> WorkerStatus:
    """A worker's state."""
    return WorkerStatus(
        worker_id=status.worker_id,
        base_model=status.base_model,
        request_window=status.request_window,
        total_pages=status.total_page_count,
        free_pages=status.free_page_count,
        kv_pages=status.kv_page_count,
        adapter_pages=status.adapter_page_count,
        page_size_bytes=status.page_size_bytes,
        block_size=status.block_size_tokens,
        num_running=status.running_count,
        num_waiting=status.waiting_count,
        pending_prefill_tokens=status.pending_prefill_token_count,
        step_ms=status.step_ms,
        num_output_tokens=status.output_token_count,
        num_prefill_tokens=status.prefill_token_count,
        num_preemptions=status.preemption_count,
        residency=tuple((entry.digest, TIERS.get(entry.tier, ResidencyTier.NONE)) for entry in status.residency),
        is_residency_snapshot=status.is_residency_snapshot,
        labels=tuple(sorted(status.labels.items())),
        tenants=tuple(status.tenants),
    )


def encode_status(status: WorkerStatus) -> worker_pb2.WorkerStatus:
    """A worker's state, for operators."""
    return worker_pb2.WorkerStatus(
        worker_id=status.worker_id,
        base_model=status.base_model,
        request_window=status.request_window,
        total_page_count=status.total_pages,
        free_page_count=status.free_pages,
        kv_page_count=status.kv_pages,
        adapter_page_count=status.adapter_pages,
        page_size_bytes=status.page_size_bytes,
        block_size_tokens=status.block_size,
        running_count=status.num_running,
        waiting_count=status.num_waiting,
        pending_prefill_token_count=status.pending_prefill_tokens,
        step_ms=status.step_ms,
        output_token_count=status.num_output_tokens,
        prefill_token_count=status.num_prefill_tokens,
        preemption_count=status.num_preemptions,
        residency=[
            worker_pb2.Residency(digest=digest, tier=TIER_NUMBERS[tier])
            for digest, tier in status.residency
            if tier in TIER_NUMBERS
        ],
        is_residency_snapshot=status.is_residency_snapshot,
        labels=dict(status.labels),
        tenants=status.tenants,
    )


def _encode_request(dispatched: DispatchedRequest) -> worker_pb2.DispatchedRequest:
    request = dispatched.request
    return worker_pb2.DispatchedRequest(
        request_id=request.request_id,
        adapter=_encode_adapter(request.adapter) if request.adapter else None,
        prompt_token_ids=request.prompt_token_ids,
        resumed_token_ids=dispatched.resumed_token_ids,
        sampling=_encode_sampling(request.sampling),
        stop=sampling_pb2.StopConditions(
            strings=request.stop.strings, token_ids=request.stop.token_ids, ignore_eos=request.stop.ignore_eos
        ),
        max_tokens=request.max_tokens,
        logprob_count=request.logprob_count,
        priority=request.priority,
    )


def _encode_adapter(adapter: AdapterRef) -> worker_pb2.AdapterRef:
    return worker_pb2.AdapterRef(
        adapter_id=adapter.adapter_id, digest=adapter.digest, rank=adapter.rank, size_bytes=adapter.size_bytes
    )


def _encode_sampling(sampling: SamplingParams) -> sampling_pb2.SamplingParams:
    return sampling_pb2.SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
    )


def _decode_output(output: worker_pb2.SequenceOutput) -> SequenceOutput:
    logprobs = output.logprobs
    return SequenceOutput(
        output.request_id,
        tuple(output.token_ids),
        output.text,
        tuple([_decode_logprobs(position) for position in logprobs]) if logprobs else (),
        FINISH_REASONS.get(output.finish_reason),
    )


def _decode_logprobs(position: sampling_pb2.PositionLogprobs) -> PositionLogprobs:
    return PositionLogprobs(
        token_id=position.chosen.token_id,
        logprob=position.chosen.logprob,
        top=tuple((top.token_id, top.logprob) for top in position.top),
    )


def _decode_failure(failure: worker_pb2.RequestFailure) -> WorkerFailure:
    return WorkerFailure(
        request_id=failure.request_id,
        code=failure.code,
        reason=failure.reason,
        message=failure.message,
        retryable=failure.retryable,
    )
