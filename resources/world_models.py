"""Where this machine has the checkpoints of world models, and what its GPUs may be used for."""

import dagster as dg
from pydantic import Field

from resources.model_hub import ModelHub
from worldloop.cosmos.models import model


class WorldModels(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Checkpoints and GPUs of one machine.

    Attributes:
        checkpoint_dir: Folder that holds the model folders (`worldloop models download` fills it).
        guardrail_dir: Folder of the guardrail; empty takes `checkpoint_dir`.
        device: `auto`, `cpu` or `cuda`.
        cp_size: GPUs that work on one clip together (context parallelism); 1 runs one job a GPU.
        memory_cap_gb: Memory of a GPU that a job may use; 0: all of it.
        usd_per_gpu_hour: What an hour of one GPU costs.
    """

    checkpoint_dir: str
    guardrail_dir: str = ""
    device: str = "auto"
    cp_size: int = Field(default=1, ge=1, le=8)
    memory_cap_gb: float = Field(default=0.0, ge=0)
    usd_per_gpu_hour: float = Field(default=0.0, ge=0)

    def revision(self, name: str) -> str:
        """What a plan pins of a model: the commit that was downloaded here, else the registered revision."""
        return ModelHub(checkpoint_dir=self.checkpoint_dir).revision(model(name).name)

    def cost_usd(self, gpu_s: float) -> float:
        """What so many GPU seconds cost."""
        return gpu_s / 3600 * self.usd_per_gpu_hour
