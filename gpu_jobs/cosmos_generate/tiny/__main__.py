"""Write a tiny checkpoint by hand: python -m gpu_jobs.cosmos_generate.tiny NAME CHECKPOINT_DIR."""

import sys
from pathlib import Path

from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint
from worldloop.errors import WorldloopError


def main(arguments: list[str]) -> int:
    """Write the model that the arguments name; the exit status."""
    if len(arguments) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    name, folder = arguments
    try:
        path = write_tiny_checkpoint(name, Path(folder))
    except WorldloopError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
