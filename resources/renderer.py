"""Which device draws procedural clips."""

import dagster as dg


class Renderer(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The device that procedural clips are drawn on.

    The default gives the same bytes for the same recipe on every machine. A CUDA device draws many
    times faster, but its bytes are its own: frames look like the CPU's, with some pixels apart. So a
    shard whose clips have been published is drawn again where they were drawn, whatever stands here.
    Sketches of training rounds and previews are always drawn on a CPU.

    Attributes:
        device: Warp's name of it, `cpu` or `cuda:<n>`; a job that does not find it fails at its start.
    """

    device: str = "cpu"
