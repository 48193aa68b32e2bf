"""The whole stack on this machine, once for all end-to-end tests."""

from pathlib import Path

import pytest

from multitude import Client
from multitude.local import LocalConfig, LocalStack

DEMO_MODEL = Path(__file__).parents[2] / "examples" / "demo_model"


@pytest.fixture(scope="session")
def stack():
    config = LocalConfig(
        model=DEMO_MODEL / "base",
        model_name="demo",
        num_workers=2,
        address="127.0.0.1:0",
        store_address="127.0.0.1:0",
        worker_settings={"threads": 1, "status_interval_s": 0.1},
    )
    with LocalStack(config) as stack:
        yield stack


@pytest.fixture(scope="session")
def client(stack):
    """A client of the stack, with every demo adapter published as demo/<name>."""
    with Client(stack.address, store_address=stack.store_address) as client:
        for directory in sorted(path.parent for path in (DEMO_MODEL / "adapters").glob("*/adapter_config.json")):
            client.adapters.create(f"demo/{directory.name}", directory)
        yield client
