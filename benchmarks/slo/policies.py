"""The policies that are compared: the default, and the paper's orders as its program has them."""

from dataclasses import replace

from control_plane.core.policy import AdmissionMode, ClusteringSettings, Policy

ORDERS = ("fcfs", "lcfs", "paper-abort")
DEFAULT = "early-abort"


def policy_of(mode: str) -> Policy:
    """A policy by its mode; the paper's orders stop at the first request that has no room, and group nothing.

    The paper's servers take only what starts at once, so no policy promises their pools.
    """
    policy = Policy(mode)
    policy = replace(
        policy,
        admission=replace(policy.admission, mode=AdmissionMode(mode)),
        dispatch=replace(policy.dispatch, max_promised=0.0),
    )
    if mode == DEFAULT:
        return policy
    return replace(
        policy,
        clustering=ClusteringSettings(max_adapters_per_worker=1_000_000, max_run=1),
        dispatch=replace(policy.dispatch, lookahead=1, prefetch_depth=0),
    )
