"""The `multitude` command.

Exit codes: 0 done; 1 the service or this machine is at fault; 2 the call is (bad usage, bad input, unknown name); 3 try
again later (unreachable, overloaded, too late); 130 interrupted.
"""

import os
import sys
from typing import Any

import click

from multitude.cli.adapters import adapters
from multitude.cli.completion import completion
from multitude.cli.config import Connection
from multitude.cli.generation import chat, generate
from multitude.cli.operations import drain, status
from multitude.cli.output import Output
from multitude.cli.policies import policy
from multitude.cli.serving import serve
from multitude.errors import (
    CancelledByCallerError,
    DeadlineError,
    InternalServiceError,
    LocalStackError,
    MultitudeError,
    OverloadedError,
    UnavailableError,
)

_LATER = (UnavailableError, OverloadedError, DeadlineError)
_INTERRUPTED = 130


class _Root(click.Group):
    """Ends well when nobody reads its output any more, as in `multitude adapters list | head -1`."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, SystemExit) as end:
            # Rich turns the error into an exit.
            if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is written at the very end
            ctx.exit(0)


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--address",
    envvar="MULTITUDE_ADDRESS",
    default=Connection.address,
    show_default=True,
    help="The control plane, host:port.  [env: MULTITUDE_ADDRESS]",
)
@click.option(
    "--store-address",
    envvar="MULTITUDE_STORE_ADDRESS",
    default=Connection.store_address,
    show_default=True,
    help="The adapter store, host:port.  [env: MULTITUDE_STORE_ADDRESS]",
)
@click.option("--timeout", "timeout_s", type=float, default=Connection.timeout_s, show_default=True, help="Seconds.")
@click.option(
    "--tenant", envvar="MULTITUDE_TENANT", default="", help="Whose requests these are.  [env: MULTITUDE_TENANT]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one document or one line an item.")
@click.version_option(package_name="multitude")
@click.pass_context
def root(
    context: click.Context, address: str, store_address: str, timeout_s: float, tenant: str, as_json: bool
) -> None:
    """Serve thousands of LoRA adapters of one base model, and use them."""
    context.obj = Connection(address, store_address, timeout_s, Output(as_json=as_json), tenant)


for command in (serve, generate, chat, adapters, status, drain, policy, completion):
    root.add_command(command)


def main() -> None:
    """Runs the command; turns errors into one line on stderr and an exit code."""
    try:
        sys.exit(root(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except UnicodeEncodeError as error:
        click.echo(f"error an argument is not valid Unicode: {error.reason} at position {error.start}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt, CancelledByCallerError):
        sys.exit(_INTERRUPTED)
    except OSError as error:
        click.echo(f"error {error}", err=True)
        sys.exit(1)
    except MultitudeError as error:
        Output.report_error(error)
        sys.exit(_exit_code(error))


def _exit_code(error: MultitudeError) -> int:
    if isinstance(error, _LATER):
        return 3
    return 1 if isinstance(error, InternalServiceError | LocalStackError) else 2
