"""Golden vectors: what a model's vectors are, computed once in float32, to compare any server's with.

`document` is the file (version 1), `files` finds the one of a model and says why another is not taken. They
are made by `reference` and compared in `probes.golden`.
"""

from __future__ import annotations

from deploytool.golden.document import Golden, Text, Weights, Wrong, digest, pack, unpack
from deploytool.golden.files import Found, find, folder_of, read, weights_of

__all__ = [
    "Found",
    "Golden",
    "Text",
    "Weights",
    "Wrong",
    "digest",
    "find",
    "folder_of",
    "pack",
    "read",
    "unpack",
    "weights_of",
]
