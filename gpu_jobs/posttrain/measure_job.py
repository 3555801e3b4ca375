"""Runs `measure` as a job of its own: `python -m gpu_jobs.posttrain.measure_job SPEC`."""

import sys

from gpu_jobs.common.entry import run_job
from gpu_jobs.posttrain.measure import measure
from gpu_jobs.posttrain.spec import MeasureSpec

if __name__ == "__main__":
    sys.exit(run_job(MeasureSpec, measure))
