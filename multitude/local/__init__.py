"""All services on this machine, as processes: what `multitude serve` and the demo run."""

from multitude.local.stack import LocalConfig, LocalStack

__all__ = ["LocalConfig", "LocalStack"]
