"""Memory that ran out: which errors of torch say so, and how much can be given back at once.

What is done about it (decode later, offload more, decode in chunks) is for `batches.Studio`.
"""

from typing import Any

from worldloop.errors import JobFailedError

_SIGNS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def memory_error(error: RuntimeError) -> RuntimeError:
    """The error, if memory ran out, without what it holds of it; any other ends the job in clear words.

    Raises:
        JobFailedError: If the GPU is lost.
    """
    import torch

    words = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(sign in words for sign in _SIGNS):
        return error.with_traceback(None)
    if "CUDA" in words:
        raise JobFailedError(
            f"The GPU stopped answering: {error}. Finished clips are kept; run the partition again, on "
            "another GPU if this one stays lost."
        ) from error
    raise error


def empty_cache(device: Any) -> None:
    """Give memory that torch keeps for later back to the device."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
