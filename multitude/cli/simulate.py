"""`multitude policy simulate`."""

from pathlib import Path

import click

from multitude.cli.config import Connection
from multitude.cli.files import FILE, read_text
from multitude.plot import plot_outcomes
from multitude.types import SimulatedOutcome

IN_FORCE = "(in force)"


@click.command()
@click.argument("trace", type=FILE)
@click.option("--policy", "policies", type=FILE, multiple=True, help="A policy file; may be repeated.")
@click.option("--workers", "num_workers", type=click.IntRange(1, 10_000), help="Default: as many as are attached.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of chance; the same gives the same result.")
@click.option(
    "--cost",
    "costs",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A measured machine, such as h200-llama-7b, or a number of the workers' cost model.",
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the comparison into this PNG file.")
@click.pass_obj
def simulate(
    connection: Connection,
    trace: Path,
    policies: tuple[Path, ...],
    num_workers: int | None,
    seed: int,
    costs: tuple[str, ...],
    plot: Path | None,
) -> None:
    """Play TRACE against policies in virtual time and compare them; one policy is compared with the one in force.

    TRACE has a JSON object a line: at_s, prompt_tokens, output_tokens and, if they matter, adapter_id, rank,
    size_bytes, max_tokens, tenant, priority, first_token_deadline_s.
    """
    if plot is not None and plot.suffix.lower() != ".png":
        raise click.BadParameter(f"{plot} must end with .png", param_hint="--plot")
    texts = {label: read_text(file) for label, file in zip(_labels(policies), policies, strict=True)}
    with connection.client() as client:
        if len(texts) < 2:
            texts = {IN_FORCE: client.fleet().policy.yaml, **texts}
        outcomes = client.simulate_policies(
            read_text(trace),
            texts,
            num_workers=num_workers or 0,
            seed=seed,
            service=_service(costs),
            costs=dict(_cost(text) for text in costs if "=" in text),
        )
    if plot is not None:
        plot_outcomes(outcomes, plot)
    if connection.output.as_json:
        connection.output.document(list(outcomes))
        return
    _print(connection, outcomes)
    if plot is not None:
        connection.output.line(f"drawn in {plot}")


def _share(outcome: SimulatedOutcome, value: float) -> str:
    """How something was divided; where nothing finished, there was nothing to divide."""
    return f"{value:.3f}" if outcome.num_finished else "-"


def _print(connection: Connection, outcomes: tuple[SimulatedOutcome, ...]) -> None:
    """One column for each policy: rows are compared."""
    rows: list[tuple[str, ...]] = [
        ("requests finished", *(f"{o.num_finished} of {o.num_requests}" for o in outcomes)),
        ("attainment", *(f"{o.attainment:.3f}" for o in outcomes)),
        ("satisfaction", *(f"{o.satisfaction:.3f}" for o in outcomes)),
        ("fairness among tenants", *(_share(o, o.fairness) for o in outcomes)),
        ("first token p50 / p99, ms", *(f"{o.first_token.p50_ms:.0f} / {o.first_token.p99_ms:.0f}" for o in outcomes)),
        (
            "between tokens p50 / p99, ms",
            *(f"{o.output_token.p50_ms:.1f} / {o.output_token.p99_ms:.1f}" for o in outcomes),
        ),
        ("error of predictions, ms", *(f"{o.prediction_error_ms:.0f}" for o in outcomes)),
        ("output tokens/s", *(f"{o.output_tokens_per_s:.0f}" for o in outcomes)),
        ("requests/s", *(f"{o.requests_per_s:.2f}" for o in outcomes)),
        ("adapter loads / fetches", *(f"{o.num_adapter_loads} / {o.num_adapter_fetches}" for o in outcomes)),
        ("balance of workers", *(_share(o, o.load_balance) for o in outcomes)),
    ]
    reasons = sorted({reason for outcome in outcomes for reason in outcome.errors})
    rows += [(reason, *(str(o.errors.get(reason, 0)) for o in outcomes)) for reason in reasons]
    connection.output.table(("", *(f"{outcome.label} #" for outcome in outcomes)), rows, empty="")
    tenants = [tenant.tenant for tenant in outcomes[0].tenants]
    if len(tenants) > 1:
        shares = [{tenant.tenant: tenant.attainment for tenant in outcome.tenants} for outcome in outcomes]
        parts = [(tenant, *(f"{share[tenant]:.3f}" for share in shares)) for tenant in tenants]
        columns = ("attainment of tenant", *(f"{outcome.label} #" for outcome in outcomes))
        connection.output.table(columns, parts, empty="")


def _labels(policies: tuple[Path, ...]) -> list[str]:
    """File names; whole paths where names are alike."""
    names = [file.stem for file in policies]
    if len(set(names)) == len(names):
        return names
    if len(set(policies)) != len(policies):
        raise click.BadParameter("a file is named twice", param_hint="--policy")
    return [str(file) for file in policies]


def _service(costs: tuple[str, ...]) -> str:
    """The machine that is named; empty for none."""
    names = [text for text in costs if "=" not in text]
    if len(names) > 1:
        raise click.BadParameter(f"{' and '.join(names)} are two machines: name one", param_hint="--cost")
    return names[0] if names else ""


def _cost(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        if name:
            return name, float(value)
    except ValueError:
        pass
    raise click.BadParameter(f"{text!r} is not NAME=NUMBER, such as step_s=0.01", param_hint="--cost")
