"""What a good policy file would do that its operator hardly wants."""

from collections.abc import Mapping
from dataclasses import dataclass

from control_plane.core.placement.filters.min_free_pages import MinFreePages
from control_plane.core.policy import AdmissionMode, FairnessScheme, Policy

_DEADLINE = "admission.default_first_token_deadline_s"

# Overtaking for so many deadlines means that what costs little always goes first.
_MOST_DEADLINES_OVERTAKEN = 10


@dataclass(frozen=True, slots=True)
class MeasuredService:
    """What is known of the fleet that a policy is for; 0 for what is not."""

    prefill_tokens_per_s: float = 0.0
    """Of one worker."""
    requests_per_s: float = 0.0
    """That the fleet takes from a queue."""
    longest_prompt_tokens: int = 0
    """That the model has room for."""
    overhead_s: float = 0.0
    """From dispatch to first token, beyond the prompt's own time."""


@dataclass(frozen=True, slots=True)
class PolicyWarning:
    """A doubtful setting: its path in the file, and what to change. If it `starves`, no request is ever served.

    `beside` is the setting that makes it doubtful, which the file may give where it leaves this one out.
    """

    path: str
    message: str
    starves: bool = False
    beside: str = ""


def policy_warnings(
    policy: Policy, measured: MeasuredService | None = None, *, filters_at: Mapping[str, str] | None = None
) -> list[PolicyWarning]:
    """Every doubt about a policy, the ones that starve first; more can be doubted if the fleet was measured.

    `filters_at` is the path of each profile's filters, by the profile's name; `filters` for those that it leaves out.
    """
    found = [
        *_starving(policy),
        *_about_filters(policy, filters_at or {}),
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
        found.append(PolicyWarning("admission.abort_margin_s", message, starves=True, beside=_DEADLINE))
    return found


def _about_filters(policy: Policy, filters_at: Mapping[str, str]) -> list[PolicyWarning]:
    placement = policy.placement
    message = "keeps every page free, so that a worker that runs anything gets no more: make it less than 1"
    # Profiles share the filters that they take from another: by path, so that each is named once.
    paths = {
        f"{filters_at.get(profile.name, 'filters')}[{index}].share": None
        for profile in (placement.default, *(each.profile for each in placement.selected))
        for index, each in enumerate(profile.filters)
        if isinstance(each, MinFreePages) and each.share >= 1.0
    }
    return [PolicyWarning(path, message) for path in paths]


def _about_deadlines(policy: Policy) -> list[PolicyWarning]:
    admission, found = policy.admission, []
    deadline_s = admission.default_first_token_deadline_s
    if not deadline_s:
        return []
    if admission.mode in {AdmissionMode.FCFS, AdmissionMode.LCFS}:
        message = f"nothing is refused or dropped in mode {admission.mode.value}: the deadline is only a wish"
        found.append(PolicyWarning(_DEADLINE, message))
    most_s = _MOST_DEADLINES_OVERTAKEN * deadline_s
    if admission.mode is AdmissionMode.EARLY_ABORT and admission.overtaking_s > most_s:
        message = (
            f"is more than {_MOST_DEADLINES_OVERTAKEN} times the deadline of {deadline_s:g} s: cheaper requests "
            f"overtake one until it is late; make it at most {most_s:g}"
        )
        found.append(PolicyWarning("admission.overtaking_s", message, beside=_DEADLINE))
    if policy.clustering.max_age_s >= deadline_s:
        message = f"clustering may hold a request back past its deadline of {deadline_s:g} s: make it less"
        found.append(PolicyWarning("clustering.max_age_s", message, beside=_DEADLINE))
    if policy.dispatch.retry_delay_s >= deadline_s:
        message = f"a request that a worker fails cannot be in time on another: make it less than {deadline_s:g} s"
        found.append(PolicyWarning("dispatch.retry_delay_s", message, beside=_DEADLINE))
    return found


def _about_queues(policy: Policy) -> list[PolicyWarning]:
    admission, found = policy.admission, []
    if admission.max_queued_per_tenant >= admission.max_queued and admission.max_queued > 1:
        message = f"one tenant may fill the whole queue of {admission.max_queued}: make it less"
        found.append(PolicyWarning("admission.max_queued_per_tenant", message, beside="admission.max_queued"))
    if admission.default_retry_delay_s > admission.max_retry_delay_s:
        message = f"is cut to max_retry_delay_s, {admission.max_retry_delay_s:g}: make it at most that"
        found.append(PolicyWarning("admission.default_retry_delay_s", message, beside="admission.max_retry_delay_s"))
    return found


def _about_fairness(policy: Policy) -> list[PolicyWarning]:
    fairness, found = policy.fairness, []
    if fairness.scheme is FairnessScheme.VTC:
        if not fairness.prompt_token_weight and not fairness.output_token_weight:
            message = "no token counts anything, so tenants are not told apart: weigh prompt or output"
            path = "fairness.output_token_weight"
            found.append(PolicyWarning(path, message, beside="fairness.prompt_token_weight"))
    else:
        weighed = [index for index, tenant in enumerate(fairness.tenants) if tenant.weight != 1.0]
        message = "has no effect in scheme arrival: use vtc"
        found += [PolicyWarning(f"fairness.tenants[{index}].weight", message) for index in weighed]
    rates = [("fairness.default_tokens_per_s", fairness.default_tokens_per_s)]
    rates += [(f"fairness.tenants[{n}].tokens_per_s", tenant.tokens_per_s) for n, tenant in enumerate(fairness.tenants)]
    for path, tokens_per_s in rates:
        if 0 < tokens_per_s * fairness.quota_burst_s < 1:
            message = (
                f"lets less than one token through in quota_burst_s, {fairness.quota_burst_s:g} s: each request uses "
                "up far more; raise it, or quota_burst_s"
            )
            found.append(PolicyWarning(path, message, beside="fairness.quota_burst_s"))
    return found


def _about_service(policy: Policy, measured: MeasuredService) -> list[PolicyWarning]:
    admission, found = policy.admission, []
    deadline_s = admission.default_first_token_deadline_s
    if not deadline_s:
        return []
    if measured.overhead_s > deadline_s:
        message = f"no first token comes before {measured.overhead_s:.3g} s: no request is in time; allow more"
        found.append(PolicyWarning(_DEADLINE, message))
    elif measured.prefill_tokens_per_s > 0:
        prefill_s = measured.longest_prompt_tokens / measured.prefill_tokens_per_s
        if prefill_s > deadline_s:
            message = (
                f"a prompt of {measured.longest_prompt_tokens} tokens takes {prefill_s:.3g} s alone, longer than "
                f"{deadline_s:g} s: such requests are never in time; allow more"
            )
            found.append(PolicyWarning(_DEADLINE, message))
    if measured.requests_per_s > 0:
        most = max(1, int(measured.requests_per_s * deadline_s))
        for name in ("max_queued", "max_queued_per_tenant"):
            bound = getattr(admission, name)
            if bound > 2 * most:
                message = (
                    f"{bound} requests take {bound / measured.requests_per_s:.3g} s to serve, far past the deadline of "
                    f"{deadline_s:g} s: about {most} can be in time"
                )
                found.append(PolicyWarning(f"admission.{name}", message, beside=_DEADLINE))
    return found
