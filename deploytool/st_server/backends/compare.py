"""The child that times an exported backend: `python -m deploytool.st_server.backends.compare FLAGS -- KIND`.

Prints its score (see probe.py) as the last line: a runtime that is not taken never enters the server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deploytool.st_server import config as configuration
from deploytool.st_server.backends import loader, probe
from deploytool.st_server.errors import StartError
from deploytool.st_server.stages import say_fatal


def main() -> int:
    at = sys.argv.index("--")
    config = configuration.parse(sys.argv[1:at], {})
    try:
        backend = loader(sys.argv[at + 1])(config, Path(config.model), lambda _: None)
    except StartError as error:
        say_fatal(error)
        return error.exit_code
    backend.warm_up()
    sys.stdout.write(f"{probe.score(backend)}\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    os._exit(main())
