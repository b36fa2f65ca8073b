"""Where workers show each other their metrics: a nameless file each, which all of them and the parent hold.

Nothing is left behind however they end. A page is its length, its checksum and the text; one that is read
while it is written does not match and is read again.
"""

from __future__ import annotations

import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Sequence

HEAD = 16
TRIES = 20
SAMPLE = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?( .*)$")


class Board:
    """The pages by their descriptors, one for each worker."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self.descriptors = tuple(descriptors)

    @classmethod
    def make(cls, pages: int) -> Board:
        descriptors = []
        for _ in range(pages):
            with tempfile.TemporaryFile() as file:
                descriptors.append(os.dup(file.fileno()))
        return cls(descriptors)

    def write(self, page: int, text: bytes) -> None:
        head = len(text).to_bytes(8, "little") + zlib.crc32(text).to_bytes(8, "little")
        os.pwrite(self.descriptors[page], head + text, 0)

    def read(self, page: int) -> bytes:
        """The page's text; empty where its worker is not up."""
        for _ in range(TRIES):
            head = os.pread(self.descriptors[page], HEAD, 0)
            size, check = int.from_bytes(head[:8], "little"), int.from_bytes(head[8:], "little")
            text = os.pread(self.descriptors[page], size, HEAD)
            if zlib.crc32(text) == check and len(text) == size:
                return text
        return b""

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def merged(pages: Iterable[tuple[int, bytes]]) -> bytes:
    """Prometheus texts of several workers as one: each sample with a label `worker`, each family once."""
    families: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    for worker, text in pages:
        samples: list[bytes] = []
        for line in text.splitlines():
            if line.startswith(b"# HELP "):
                heads, samples = families.setdefault(line.split(b" ")[2], ([], []))
                if len(heads) < 2:
                    heads.append(line)
            elif line.startswith(b"# TYPE "):
                heads = families[line.split(b" ")[2]][0]
                if len(heads) < 2:
                    heads.append(line)
            elif (found := SAMPLE.match(line)) is not None:
                name, labels, rest = found.groups()
                inner = b'worker="%d"' % worker + (b"," + labels if labels else b"")
                samples.append(b"%b{%b}%b" % (name, inner, rest))
    lines = [line for heads, samples in families.values() for line in (*heads, *samples)]
    return b"\n".join(lines) + b"\n"
