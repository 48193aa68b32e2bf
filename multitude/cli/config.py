"""Where the command connects."""

from dataclasses import dataclass, field

from multitude.cli.output import Output
from multitude.client import Client


@dataclass(frozen=True)
class Connection:
    """The services' addresses and how to print what they say."""

    address: str = "127.0.0.1:7000"
    store_address: str = "127.0.0.1:7001"
    timeout_s: float = 60.0
    output: Output = field(default_factory=Output)
    tenant: str = ""

    def client(self) -> Client:
        """A client; use it in a `with` block."""
        return Client(self.address, store_address=self.store_address, timeout_s=self.timeout_s, tenant=self.tenant)
