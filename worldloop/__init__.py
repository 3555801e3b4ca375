"""worldloop: the domain. Places, scenes, prompts, worlds, curation; no Dagster, torch or cloud SDK."""

__version__ = "0.1.0"
