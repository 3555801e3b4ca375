"""Guards of prompts and frames, loaded from the published guardrail folder.

`load_guards` gives `Guards`; what is required and what a state means is in `worldloop.cosmos.guards`.
A guard that is missing is refused, and one that fails stops the clip: nothing passes unseen.
"""

from gpu_jobs.cosmos_generate.guardrails.guards import Guards, load_guards
from gpu_jobs.cosmos_generate.guardrails.verdicts import FrameVerdict, Verdict

__all__ = ["FrameVerdict", "Guards", "Verdict", "load_guards"]
