"""Between the client's types and the protos."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC

from multitude import types
from multitude.errors import InvalidRequestError
from multitude.v1 import adapter_pb2, fleet_pb2, generation_pb2, sampling_pb2, worker_pb2

_FINISH_REASONS = {
    sampling_pb2.FINISH_REASON_STOP: types.FinishReason.STOP,
    sampling_pb2.FINISH_REASON_LENGTH: types.FinishReason.LENGTH,
    sampling_pb2.FINISH_REASON_CANCELLED: types.FinishReason.CANCELLED,
}
_SOURCES = {
    fleet_pb2.POLICY_SOURCE_BUILT_IN: types.PolicySource.BUILT_IN,
    fleet_pb2.POLICY_SOURCE_FILE: types.PolicySource.FILE,
    fleet_pb2.POLICY_SOURCE_APPLIED: types.PolicySource.APPLIED,
}
_TIERS = {worker_pb2.RESIDENCY_TIER_HOST: "host", worker_pb2.RESIDENCY_TIER_POOL: "pool"}


def prompt_to_proto(prompt: types.Prompt) -> generation_pb2.Prompt:
    """The prompt's proto form. Errors: TypeError for anything but text, integers or messages."""
    if isinstance(prompt, str):
        return generation_pb2.Prompt(text=prompt)
    if isinstance(prompt, bytes | bytearray):  # else taken for a sequence of token ids
        raise TypeError("a prompt is text, not bytes: decode it")
    parts: Sequence[object] = list(prompt)
    if parts and all(isinstance(part, types.Message) for part in parts):
        messages = [
            generation_pb2.ChatMessage(role=m.role, content=m.content) for m in parts if isinstance(m, types.Message)
        ]
        return generation_pb2.Prompt(chat=generation_pb2.Chat(messages=messages))
    if all(isinstance(part, int) for part in parts):
        return generation_pb2.Prompt(token_ids=generation_pb2.TokenIds(ids=[p for p in parts if isinstance(p, int)]))
    raise TypeError("a prompt is a string, a sequence of token ids, or a sequence of multitude.Message")


def generate_request(
    prompt: types.Prompt,
    *,
    request_id: str,
    adapter: str = "",
    sampling: types.SamplingParams | None = None,
    stop: types.StopConditions | None = None,
    max_tokens: int | None = None,
    logprob_count: int | None = None,
    priority: int = 0,
    first_token_deadline_ms: int = 0,
) -> generation_pb2.GenerateRequest:
    """A GenerateRequest.

    Errors: InvalidRequestError with reason REQUEST_NOT_ENCODABLE for what a proto cannot hold, such as half a surrogate
    pair in a text or a number beyond its field's size.
    """
    sampling = sampling or types.SamplingParams()
    stop = stop or types.StopConditions()
    try:
        return generation_pb2.GenerateRequest(
            request_id=request_id,
            adapter=adapter,
            prompt=prompt_to_proto(prompt),
            sampling=sampling_pb2.SamplingParams(**asdict(sampling)),
            stop=sampling_pb2.StopConditions(**asdict(stop)),
            max_tokens=max_tokens,
            logprob_count=logprob_count,
            priority=priority,
            service_level=generation_pb2.ServiceLevel(first_token_deadline_ms=first_token_deadline_ms),
        )
    except ValueError as error:  # UnicodeEncodeError is one
        raise InvalidRequestError(f"the request cannot be sent: {error}", reason="REQUEST_NOT_ENCODABLE") from error


def started_from_proto(message: generation_pb2.Started) -> types.Started:
    """A Started."""
    return types.Started(message.request_id, message.adapter_digest, message.prompt_token_count, message.seed)


def chunk_from_proto(message: generation_pb2.TokenChunk) -> types.TokenChunk:
    """A TokenChunk."""
    logprobs = tuple(
        types.PositionLogprobs(
            types.TokenLogprob(position.chosen.token_id, position.chosen.logprob),
            tuple(types.TokenLogprob(token.token_id, token.logprob) for token in position.top),
        )
        for position in message.logprobs
    )
    return types.TokenChunk(tuple(message.token_ids), message.text, logprobs)


def finished_from_proto(message: generation_pb2.Finished) -> types.Finished:
    """A Finished."""
    usage, timings = message.usage, message.timings
    return types.Finished(
        _FINISH_REASONS[message.reason],
        types.Usage(usage.prompt_token_count, usage.output_token_count),
        types.Timings(timings.dispatched_ms, timings.first_token_ms, timings.finished_ms),
    )


def generation_from_parts(
    started: types.Started, chunks: Iterable[types.TokenChunk], finished: types.Finished
) -> types.Generation:
    """The whole generation that a stream's messages add up to."""
    chunks = list(chunks)
    return types.Generation(
        request_id=started.request_id,
        text="".join(chunk.text for chunk in chunks),
        token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
        finish_reason=finished.reason,
        usage=finished.usage,
        timings=finished.timings,
        adapter_digest=started.adapter_digest,
        seed=started.seed,
        logprobs=tuple(position for chunk in chunks for position in chunk.logprobs),
    )


def model_from_proto(message: generation_pb2.Model) -> types.Model:
    """A Model."""
    return types.Model(
        message.id, message.is_base, message.base_model, message.context_length, message.adapter_digest, message.rank
    )


def version_from_proto(message: adapter_pb2.AdapterVersion) -> types.AdapterVersion:
    """An AdapterVersion."""
    return types.AdapterVersion(
        digest=message.digest,
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
        rank=message.rank,
        target_modules=tuple(message.target_modules),
        size_bytes=message.size_bytes,
        num_parameters=message.parameter_count,
    )


def adapter_from_proto(message: adapter_pb2.Adapter) -> types.Adapter:
    """An Adapter."""
    versions = tuple(version_from_proto(version) for version in message.versions)
    return types.Adapter(message.adapter_id, message.base_model, version_from_proto(message.latest), versions)


def published_from_proto(
    message: adapter_pb2.CreateAdapterResponse | adapter_pb2.ImportAdapterResponse,
) -> types.PublishedAdapter:
    """A PublishedAdapter."""
    return types.PublishedAdapter(
        adapter_from_proto(message.adapter), version_from_proto(message.version), message.created
    )


def worker_from_proto(message: fleet_pb2.WorkerView) -> types.Worker:
    """A Worker."""
    status = message.status
    return types.Worker(
        worker_id=status.worker_id,
        address=message.address,
        is_attached=message.is_attached,
        base_model=status.base_model,
        num_dispatched=message.dispatched_count,
        request_window=status.request_window,
        num_running=status.running_count,
        num_waiting=status.waiting_count,
        total_pages=status.total_page_count,
        free_pages=status.free_page_count,
        kv_pages=status.kv_page_count,
        adapter_pages=status.adapter_page_count,
        page_size_bytes=status.page_size_bytes,
        step_ms=status.step_ms,
        num_output_tokens=status.output_token_count,
        num_preemptions=status.preemption_count,
        is_draining=message.is_draining,
        labels=dict(status.labels),
        tenants=tuple(status.tenants),
        resident={entry.digest: _TIERS[entry.tier] for entry in status.residency if entry.tier in _TIERS},
    )


def fleet_from_proto(message: fleet_pb2.GetFleetResponse) -> types.Fleet:
    """A Fleet."""
    policy = message.policy
    return types.Fleet(
        workers=tuple(worker_from_proto(worker) for worker in message.workers),
        num_queued=message.queued_count,
        num_dispatched=message.dispatched_count,
        policy=types.Policy(
            policy.name,
            policy.digest,
            policy.yaml,
            policy.pending_error,
            policy.version,
            _SOURCES.get(policy.source, types.PolicySource.FILE),
            policy.shadowed_file,
        ),
        is_state_store_reachable=message.is_state_store_reachable,
        control_planes=tuple(
            types.ControlPlane(
                view.control_plane_id,
                view.address,
                view.in_flight_count,
                view.policy_version,
                view.policy_digest,
            )
            for view in message.control_planes
        ),
    )


def check_from_proto(message: fleet_pb2.CheckPolicyResponse) -> types.PolicyCheck:
    """A CheckPolicyResponse."""
    return types.PolicyCheck(
        problems=tuple(map(_problem, message.problems)), warnings=tuple(map(_problem, message.warnings))
    )


def _problem(message: fleet_pb2.PolicyProblem) -> types.PolicyProblem:
    return types.PolicyProblem(message.line, message.path, message.message)
