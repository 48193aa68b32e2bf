"""What the fleet was measured to do, for the doubts about a policy."""

from control_plane.core.snapshot import DirectorSnapshot
from control_plane.policy.warnings import MeasuredService


def measured_service(director: DirectorSnapshot, context_length: int) -> MeasuredService:
    """The service of the attached workers; a worker's rate is the mean of those that are known."""
    rates = [worker.prefill_tokens_per_s for worker in director.workers if worker.prefill_tokens_per_s > 0]
    return MeasuredService(
        prefill_tokens_per_s=sum(rates) / len(rates) if rates else 0.0,
        requests_per_s=director.requests_per_s,
        longest_prompt_tokens=context_length - 1,
        overhead_s=director.predictor.overhead_s,
    )
