"""`multitude policy explain`."""

import click

from multitude.cli.config import Connection
from multitude.types import Explanation, PlacementDecision, RequestStory

_AT_LEAST_ONE = click.IntRange(min=1)


@click.command()
@click.argument("request_id", required=False)
@click.option("-a", "--adapter", help="Explain a made-up request for this adapter; the base model by its name.")
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Of the made-up request."
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Of the made-up request."
)
@click.option("--priority", type=int, default=0, help="Of the made-up request.")
@click.option("--workers", "num_shown", type=click.IntRange(min=1), default=20, show_default=True, help="Most to show.")
@click.pass_obj
def explain(
    connection: Connection,
    request_id: str | None,
    adapter: str | None,
    prompt_tokens: int,
    max_tokens: int,
    priority: int,
    num_shown: int,
) -> None:
    """Say why a request goes where it goes: every worker's filter verdicts and score terms, as they are now.

    With a REQUEST_ID, also what was decided for it and when.
    """
    if (request_id is None) == (adapter is None):
        raise click.UsageError("name a REQUEST_ID or an --adapter, one of the two")
    with connection.client() as client:
        if request_id is not None:
            explanation = client.explain_placement(request_id=request_id)
        else:
            explanation = client.explain_placement(
                adapter=adapter or "",
                tenant=connection.tenant,
                num_prompt_tokens=prompt_tokens,
                max_tokens=max_tokens,
                priority=priority,
            )
    if connection.output.as_json:
        connection.output.document(explanation)
        return
    _print(connection, explanation, num_shown)


def _print(connection: Connection, explanation: Explanation, num_shown: int) -> None:
    if explanation.story is not None:
        _print_story(connection, explanation.story)
        connection.output.line("")
    decision = explanation.decision
    if decision.worker_id:
        verdict = f"now it would go to {decision.worker_id}"
    elif decision.verdicts:
        verdict = f"now it would wait: {decision.emptied_by} refuses the last worker left"
    else:
        verdict = "now it would wait: no worker is attached"
    connection.output.line(f"{verdict} (policy {decision.policy_name}, profile {decision.profile}, {decision.picker})")
    if decision.verdicts:
        _print_verdicts(connection, decision, num_shown)


def _print_story(connection: Connection, story: RequestStory) -> None:
    what = story.adapter or "the base model"
    connection.output.line(
        f"request {story.request_id} of tenant {story.tenant}, {what}: {story.state} on {story.control_plane_id}"
    )
    rows: list[tuple[object, ...]] = [
        (f"{story.arrival_time:%Y-%m-%d %H:%M:%S}", "", f"arrived with {story.num_prompt_tokens} prompt tokens")
    ]
    rows += [
        ("", _after(step.placed_ms), f"sent to {step.worker_id}: {_REASONS[step.reason]}") for step in story.placements
    ]
    if story.first_token_ms is not None:
        rows.append(("", _after(story.first_token_ms), "first token"))
    if story.ended_ms is not None:
        error = f", {story.error_reason}: {story.error_message}" if story.error_reason else ""
        rows.append(("", _after(story.ended_ms), f"{story.state}, {story.num_output_tokens} output tokens{error}"))
    connection.output.table(("time (UTC)", "after #", "what"), rows, empty="")


_REASONS = {
    "base": "it needs no adapter",
    "pool": "its adapter was in the pool",
    "host": "its adapter was in host memory",
    "cold": "its adapter was not there",
    "rerouted": "an earlier worker was lost or failed it",
}


def _print_verdicts(connection: Connection, decision: PlacementDecision, num_shown: int) -> None:
    """Candidates first, best first; then those that filters refuse."""
    ranked = sorted(
        decision.verdicts,
        key=lambda verdict: (
            verdict.worker_id != decision.worker_id,
            bool(verdict.refused_by),
            -verdict.score,
            verdict.worker_id,
        ),
    )
    terms = [f"{term.scorer} x{term.weight:g} #" for term in decision.verdicts[0].scores]
    rows = [
        (
            "→" if verdict.worker_id == decision.worker_id else "",
            verdict.worker_id,
            "-" if verdict.refused_by else f"{verdict.score:.3f}",
            *("-" if verdict.refused_by else f"{term.value:.3f}" for term in verdict.scores),
            ", ".join(verdict.refused_by),
        )
        for verdict in ranked[:num_shown]
    ]
    connection.output.table(("", "worker", "score #", *terms, "refused by"), rows, empty="")
    if len(ranked) > num_shown:
        connection.output.line(f"and {len(ranked) - num_shown} more; --workers N or --json shows them")


def _after(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms"
