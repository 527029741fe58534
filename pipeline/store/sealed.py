"""JSON objects of a store with a SHA-256, so that a flipped bit is detected.

    {"sha256": "<of the bytes of the value>",
    "<name>": <value>}

The digest covers the exact bytes of the value, so a change in either line is detected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import parse_json


def seal(name: str, value: Any) -> bytes:
    """Return a value as JSON under its SHA-256."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    digest = hashlib.sha256(body).hexdigest()
    return b'{"sha256": "%s",\n"%s": %s}\n' % (digest.encode(), name.encode(), body)


def unseal(data: bytes, name: str, key: str) -> Any:
    """Read what `seal` wrote.

    Raises:
        PipelineError: the object `key` is damaged.
    """
    head, _, rest = data.partition(b"\n")
    start, end = b'"%s": ' % name.encode(), b"}\n"
    body = rest.removeprefix(start).removesuffix(end)
    is_whole = len(body) + len(start) + len(end) == len(rest)
    if not is_whole or head != b'{"sha256": "%s",' % hashlib.sha256(body).hexdigest().encode():
        raise PipelineError(f"{key} of the store is damaged: it does not match its SHA-256.")
    try:
        return parse_json(body)
    except ValueError as error:
        raise PipelineError(f"{key} of the store is damaged: it is not JSON ({error}).") from error


def digest_of(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain data, independent of the order of its keys and of spaces in its JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
