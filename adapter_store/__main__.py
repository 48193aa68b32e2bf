"""`python -m adapter_store [--config FILE.yaml] [--set key=value ...]`."""

import asyncio
import logging
import sys

from adapter_store.config import load_config
from adapter_store.errors import ConfigInvalid
from adapter_store.server import serve


def main() -> int:
    """Serves until told to stop; 2 if the configuration cannot be served."""
    try:
        config = load_config(sys.argv[1:])
        logging.basicConfig(
            level=config.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        logging.getLogger("adapter_store").info("config %s", config.model_dump_json())
        asyncio.run(serve(config))
    except ConfigInvalid as error:
        sys.stderr.write(error.message + "\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
