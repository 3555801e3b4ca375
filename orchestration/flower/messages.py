"""Files and facts as the content of a Flower message.

Files travel as arrays of bytes: Flower cuts large arrays into chunks, but not bytes of its other records.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from worldloop.errors import MalformedRecordError

_FILES, _FACTS = "files", "facts"
_BYTES = "uint8"


def packed(files: Mapping[str, bytes], facts: Mapping[str, Any]) -> Any:
    """The content of a message.

    Args:
        files: By key.
        facts: Texts, numbers and lists of them.

    Returns:
        A `flwr.app.RecordDict`.
    """
    from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

    arrays = {key: Array(np.frombuffer(content, _BYTES)) for key, content in files.items()}
    return RecordDict({_FILES: ArrayRecord(arrays), _FACTS: ConfigRecord(dict(facts))})


def unpacked(content: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files and facts of a message.

    Args:
        content: A `flwr.app.RecordDict` that `packed` made.

    Raises:
        MalformedRecordError: If somebody else made it.
    """
    try:
        arrays, facts = content.array_records[_FILES], dict(content.config_records[_FACTS])
        found = {str(key): array.numpy() for key, array in arrays.items()}
    except (KeyError, ValueError, TypeError) as error:
        raise _no_parcel(type(error).__name__) from None
    for key, array in found.items():
        if array.dtype != _BYTES or array.ndim != 1:
            raise _no_parcel(f"{key[:80]} as {array.dtype} of {array.ndim} axes")
    return {key: array.tobytes() for key, array in found.items()}, facts


def _no_parcel(found: str) -> MalformedRecordError:
    return MalformedRecordError(
        "message over Flower",
        found,
        "files as bytes, and facts",
        "Run the same release of worldloop at both ends.",
    )
