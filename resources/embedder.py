"""Which model embeds clips and search texts."""

import dagster as dg


class Embedder(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The embedding model of a site; its id stands in every vector's key.

    Attributes:
        name: An open_clip model, e.g. `hf-hub:org/model`; empty for the starter that ships here.
        revision: Revision of a hub model.
        batch_size: Frames in one forward pass.
        device: `cpu` or `cuda:0`.
    """

    name: str = ""
    revision: str = ""
    batch_size: int = 64
    device: str = "cpu"
