"""Find lost pictures of an MPEG-1 or MPEG-2 stream by their temporal references."""

from __future__ import annotations

import re

# The start code of a group of pictures, or that of a picture and two bytes that begin with its temporal reference.
STARTS = re.compile(b"\0\0\x01(?:(\xb8)|\0(..))", re.DOTALL)


class TemporalReferences:
    """Track the temporal references, which number the pictures of a group in display order."""

    def __init__(self) -> None:
        self._group: set[int] | None = None  # None before the first start of a group

    def gap(self, packet: bytes) -> str | None:
        """Return what is missing in the group that ends in a packet, as part of a sentence, or None."""
        found = None
        for start in STARTS.finditer(packet):
            if start[1]:
                found = self.end() or found
                self._group = set()
            elif self._group is not None:
                self._group.add(start[2][0] << 2 | start[2][1] >> 6)
        return found

    def end(self) -> str | None:
        """Return what is missing in the last group."""
        # The first pictures of a group may have been cut off together with their references.
        if not self._group or max(self._group) - min(self._group) + 1 == len(self._group):
            return None
        missing = sorted(set(range(min(self._group), max(self._group))) - self._group)
        return f"a group of pictures lacks number {missing[0]}"
