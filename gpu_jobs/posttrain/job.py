"""Post-trains a model on a folder of footage: `python -m gpu_jobs.posttrain.job SPEC`.

Under `torchrun --nproc_per_node=N` the processes share every batch; the first one reports. Needs
torch, diffusers, transformers, safetensors, numpy and PyAV; no Dagster and no polars.
"""

import sys

from gpu_jobs.common.entry import run_job
from gpu_jobs.posttrain.spec import PosttrainReport, PosttrainSpec
from gpu_jobs.posttrain.training import train


def posttrain(spec: PosttrainSpec) -> PosttrainReport:
    """Train, write what was trained, say what it cost; see `training.train`."""
    return train(spec)


def main() -> None:
    """Read the spec from Pipes or from argv, do the work, report."""
    sys.exit(run_job(PosttrainSpec, posttrain))


if __name__ == "__main__":
    main()
