"""What a good policy file would do that its operator hardly wants."""

from dataclasses import dataclass

from control_plane.core.placement.filters.min_free_pages import MinFreePages
from control_plane.core.policy import AdmissionMode, FairnessScheme, Policy


@dataclass(frozen=True, slots=True)
class MeasuredService:
    """What is known of the fleet that a policy is for; 0 for what is not."""

    prefill_tokens_per_s: float = 0.0
    """Of one worker."""
    requests_per_s: float = 0.0
    """That the fleet finishes when it is full."""
    longest_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PolicyWarning:
    """A doubtful setting: its path in the file, and what to change. If it `starves`, no request is ever served."""

    path: str
    message: str
    starves: bool = False


def policy_warnings(policy: Policy, measured: MeasuredService | None = None) -> list[PolicyWarning]:
    """Every doubt about a policy, the ones that starve first; more can be doubted if the fleet was measured."""
    found = [
        *_starving(policy),
        *_about_filters(policy),
        *_about_deadlines(policy),
        *_about_queues(policy),
        *_about_fairness(policy),
        *(_about_service(policy, measured) if measured is not None else ()),
    ]
    return sorted(found, key=lambda warning: not warning.starves)


def _starving(policy: Policy) -> list[PolicyWarning]:
    found = []
    admission = policy.admission
    deadline_s, margin_s = admission.default_first_token_deadline_s, admission.abort_margin_s
    if admission.mode is AdmissionMode.PAPER_ABORT and 0 < deadline_s <= margin_s:
        message = f"drops every request at once: make it less than the deadline of {deadline_s:g} s"
        found.append(PolicyWarning("admission.abort_margin_s", message, starves=True))
    return found


def _about_filters(policy: Policy) -> list[PolicyWarning]:
    found = []
    placement = policy.placement
    profiles = [("", placement.default)]
    profiles += [(f"profiles.{each.profile.name}.", each.profile) for each in placement.selected]
    for prefix, profile in profiles:
        for each in profile.filters:
            if isinstance(each, MinFreePages) and each.share >= 1.0:
                message = "keeps every page free, so that a worker that runs anything gets no more: make it less than 1"
                found.append(PolicyWarning(f"{prefix}filters.min_free_pages.share", message))
    return found


def _about_deadlines(policy: Policy) -> list[PolicyWarning]:
    admission, found = policy.admission, []
    deadline_s = admission.default_first_token_deadline_s
    if not deadline_s:
        return []
    if admission.mode in {AdmissionMode.FCFS, AdmissionMode.LCFS}:
        message = f"nothing is refused or dropped in mode {admission.mode.value}: the deadline is only a wish"
        found.append(PolicyWarning("admission.default_first_token_deadline_s", message))
    if policy.clustering.max_age_s >= deadline_s:
        message = f"clustering may hold a request back past its deadline of {deadline_s:g} s: make it less"
        found.append(PolicyWarning("clustering.max_age_s", message))
    if policy.dispatch.retry_delay_s >= deadline_s:
        message = f"a request that a worker fails cannot be in time on another: make it less than {deadline_s:g} s"
        found.append(PolicyWarning("dispatch.retry_delay_s", message))
    return found


def _about_queues(policy: Policy) -> list[PolicyWarning]:
    admission, found = policy.admission, []
    if admission.max_queued_per_tenant >= admission.max_queued and admission.max_queued > 1:
        message = f"one tenant may fill the whole queue of {admission.max_queued}: make it less"
        found.append(PolicyWarning("admission.max_queued_per_tenant", message))
    if admission.default_retry_delay_s > admission.max_retry_delay_s:
        message = f"is cut to max_retry_delay_s, {admission.max_retry_delay_s:g}: make it at most that"
        found.append(PolicyWarning("admission.default_retry_delay_s", message))
    return found


def _about_fairness(policy: Policy) -> list[PolicyWarning]:
    fairness = policy.fairness
    if fairness.scheme is FairnessScheme.VTC:
        if fairness.prompt_token_weight or fairness.output_token_weight:
            return []
        return [PolicyWarning("fairness", "no token counts anything, so tenants are not told apart: weigh one of them")]
    if any(tenant.weight != 1.0 for tenant in fairness.tenants):
        return [PolicyWarning("fairness.tenants", "weights have no effect in scheme arrival: use vtc")]
    return []


def _about_service(policy: Policy, measured: MeasuredService) -> list[PolicyWarning]:
    admission, found = policy.admission, []
    deadline_s = admission.default_first_token_deadline_s
    if not deadline_s:
        return []
    if measured.prefill_tokens_per_s > 0:
        prefill_s = measured.longest_prompt_tokens / measured.prefill_tokens_per_s
        if prefill_s > deadline_s:
            message = (
                f"a prompt of {measured.longest_prompt_tokens} tokens takes {prefill_s:.3g} s alone, longer than "
                f"{deadline_s:g} s: such requests are never in time; allow more"
            )
            found.append(PolicyWarning("admission.default_first_token_deadline_s", message))
    if measured.requests_per_s > 0:
        most = max(1, int(measured.requests_per_s * deadline_s))
        for name in ("max_queued", "max_queued_per_tenant"):
            bound = getattr(admission, name)
            if bound > 2 * most:
                message = (
                    f"{bound} requests take {bound / measured.requests_per_s:.3g} s to serve, far past the deadline of "
                    f"{deadline_s:g} s: about {most} can be in time"
                )
                found.append(PolicyWarning(f"admission.{name}", message))
    return found
