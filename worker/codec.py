"""Protobuf to the worker's own types and back; nothing behind this module knows of protobuf."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import grpc
from google.protobuf import any_pb2, json_format
from google.rpc import error_details_pb2, status_pb2

from multitude.v1 import sampling_pb2, worker_pb2
from worker.errors import InternalError, WorkerError
from worker.types import (
    AdapterRef,
    EngineStats,
    FinishReason,
    OutputPiece,
    PositionLogprobs,
    Request,
    RequestFailure,
    ResidencyTier,
    SamplingParams,
    WorkerStatus,
)

ERROR_DOMAIN = "multitude"
DETAILS_KEY = "grpc-status-details-bin"

_GRPC_CODES = {status.value[0]: status for status in grpc.StatusCode}
_FINISH_REASONS = {
    None: sampling_pb2.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: sampling_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: sampling_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: sampling_pb2.FINISH_REASON_CANCELLED,
}
_TIERS = {
    ResidencyTier.NONE: worker_pb2.RESIDENCY_TIER_UNSPECIFIED,
    ResidencyTier.HOST: worker_pb2.RESIDENCY_TIER_HOST,
    ResidencyTier.POOL: worker_pb2.RESIDENCY_TIER_POOL,
}
_SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


def request_from_proto(message: worker_pb2.DispatchedRequest) -> Request:
    """A request as it came; nothing is checked yet."""
    return Request(
        request_id=message.request_id,
        prompt_token_ids=tuple(message.prompt_token_ids),
        max_tokens=message.max_tokens,
        sampling=_sampling_from_proto(message.sampling),
        adapter=adapter_from_proto(message.adapter) if message.HasField("adapter") else None,
        resumed_token_ids=tuple(message.resumed_token_ids),
        stop_strings=tuple(message.stop.strings),
        stop_token_ids=tuple(message.stop.token_ids),
        ignore_eos=message.stop.ignore_eos,
        logprob_count=message.logprob_count if message.HasField("logprob_count") else None,
        priority=message.priority,
    )


def adapter_from_proto(message: worker_pb2.AdapterRef) -> AdapterRef:
    """An adapter version."""
    return AdapterRef(message.adapter_id, message.digest, message.rank, message.size_bytes)


def _sampling_from_proto(message: sampling_pb2.SamplingParams) -> SamplingParams:
    return SamplingParams(**{name: getattr(message, name) for name in _SAMPLING_FIELDS if message.HasField(name)})


def ack_to_proto(accepted: Iterable[str], rejected: Iterable[RequestFailure]) -> worker_pb2.DispatchResponse:
    """What became of requests of a batch."""
    failures = [failure_to_proto(failure) for failure in rejected]
    return worker_pb2.DispatchResponse(ack=worker_pb2.BatchAck(accepted_request_ids=accepted, rejected=failures))


def step_to_proto(
    outputs: Sequence[worker_pb2.SequenceOutput], failures: Iterable[RequestFailure]
) -> worker_pb2.DispatchResponse:
    """What one or more steps produced."""
    failed = [failure_to_proto(failure) for failure in failures]
    return worker_pb2.DispatchResponse(step=worker_pb2.StepOutput(outputs=outputs, failures=failed))


def output_to_proto(
    request_id: str, pieces: Sequence[OutputPiece], finish_reason: FinishReason | None
) -> worker_pb2.SequenceOutput:
    """New tokens of one request, of one or several steps."""
    if len(pieces) == 1:
        token_ids, text, logprobs = pieces[0].token_ids, pieces[0].text, pieces[0].logprobs
    else:
        token_ids = tuple(token_id for piece in pieces for token_id in piece.token_ids)
        text = "".join(piece.text for piece in pieces)
        logprobs = tuple(position for piece in pieces for position in piece.logprobs)
    message = worker_pb2.SequenceOutput(
        request_id=request_id, token_ids=token_ids, text=text, finish_reason=_FINISH_REASONS[finish_reason]
    )
    if logprobs:
        message.logprobs.extend(_logprobs_to_proto(position) for position in logprobs)
    return message


def _logprobs_to_proto(position: PositionLogprobs) -> sampling_pb2.PositionLogprobs:
    return sampling_pb2.PositionLogprobs(
        chosen=sampling_pb2.TokenLogprob(token_id=position.token_id, logprob=position.logprob),
        top=[sampling_pb2.TokenLogprob(token_id=token_id, logprob=logprob) for token_id, logprob in position.top],
    )


def failure_to_proto(failure: RequestFailure) -> worker_pb2.RequestFailure:
    """A request that failed."""
    return worker_pb2.RequestFailure(
        request_id=failure.request_id,
        code=int(failure.code),
        reason=failure.reason,
        message=failure.message,
        retryable=failure.retryable,
    )


def status_to_proto(status: WorkerStatus) -> worker_pb2.DispatchResponse:
    """The worker's state."""
    stats = status.stats
    return worker_pb2.DispatchResponse(
        status=worker_pb2.WorkerStatus(
            worker_id=status.worker_id,
            base_model=status.base_model,
            request_window=status.request_window,
            total_page_count=stats.total_pages,
            free_page_count=stats.free_pages,
            kv_page_count=stats.kv_pages,
            adapter_page_count=stats.adapter_pages,
            page_size_bytes=status.page_size_bytes,
            block_size_tokens=status.block_size,
            running_count=stats.num_running,
            waiting_count=stats.num_waiting,
            pending_prefill_token_count=stats.pending_prefill_tokens,
            step_ms=stats.step_ms,
            output_token_count=stats.num_output_tokens,
            prefill_token_count=stats.num_prefill_tokens,
            preemption_count=stats.num_preemptions,
            residency=[
                worker_pb2.Residency(digest=digest, tier=_TIERS[tier]) for digest, tier in status.residency.items()
            ],
            is_residency_snapshot=status.is_residency_snapshot,
            labels=status.labels,
            tenants=status.tenants,
            resident_adapter_count=stats.num_resident_adapters,
            loading_adapter_count=stats.num_loading_adapters,
            adapter_load_count=stats.num_loads,
            adapter_load_bytes=stats.loaded_bytes,
            step=_step_to_proto(stats),
        )
    )


def _step_to_proto(stats: EngineStats) -> worker_pb2.EngineStep:
    return worker_pb2.EngineStep(
        sequence_count=stats.num_sequences,
        prefill_token_count=stats.num_prefill_rows,
        decode_token_count=stats.num_rows - stats.num_prefill_rows,
        **asdict(stats.times),
    )


def lease_to_json(status: WorkerStatus, *, address: str, context_length: int, start_time_ms: int) -> str:
    """The worker's lease, as it stands in Redis."""
    lease = worker_pb2.WorkerLease(
        worker_id=status.worker_id,
        address=address,
        base_model=status.base_model,
        context_length=context_length,
        start_time_ms=start_time_ms,
        labels=status.labels,
        tenants=status.tenants,
    )
    return json_format.MessageToJson(lease, indent=None)


def typed(error: Exception) -> WorkerError:
    """The error itself if it is one of the worker's own, else INTERNAL."""
    if isinstance(error, WorkerError):
        return error
    return InternalError(f"the worker made a mistake ({type(error).__name__}); its log says more")


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: WorkerError) -> None:
    """Ends a call with an error's status and its google.rpc.ErrorInfo. Raises what grpc raises to that end."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata)
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=int(error.code), message=error.message, details=[detail])
    await context.abort(
        _GRPC_CODES[int(error.code)], error.message, trailing_metadata=((DETAILS_KEY, status.SerializeToString()),)
    )
