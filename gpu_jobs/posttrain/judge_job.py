"""Runs `judge` as a job of its own: `python -m gpu_jobs.posttrain.judge_job SPEC`."""

import sys

from gpu_jobs.common.entry import run_job
from gpu_jobs.posttrain.judge import judge
from gpu_jobs.posttrain.spec import JudgeSpec

if __name__ == "__main__":
    sys.exit(run_job(JudgeSpec, judge))
