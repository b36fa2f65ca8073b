"""What ONNX Runtime and OpenVINO share: an exported graph, driven without torch. See exports.py.

The vectors are compared with those of float32 torch at every start: the export remembers them.

Threads: each lane computes with its own, and none spins while it waits. With all-MiniLM-L6-v2 on two busy
cores two lanes of one thread computed 5.8 tokens per ms in ONNX Runtime, one lane of two threads 2.9. A batch that
is alone is computed with all threads, by the same graph opened a second time, where that is small: one text of 45
tokens took 12 in place of 17 ms in ONNX Runtime, and 17 in place of 26 in OpenVINO.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from deploytool.st_server import exports
from deploytool.st_server.backends import probe
from deploytool.st_server.backends.base import MAX_LANES, MAX_THREADS_ALONE, ModelInfo, Stage, max_length
from deploytool.st_server.backends.padding import Arrays, Padding, overhead
from deploytool.st_server.config import Config
from deploytool.st_server.errors import BadUsage, DoesNotFit, LoadFailed, OutOfMemory
from deploytool.st_server.exports import Export, NotExportable
from deploytool.st_server.packing import Limits
from deploytool.st_server.tokens import TextTokenizer
from deploytool.st_server.vectors import unit

Vectors = npt.NDArray[np.float32]
Run = Callable[[Arrays], Vectors]
Open = Callable[[Path, int, int], Run]  # a graph, for so many lanes, with so many threads together

BATCH_TOKENS = 512  # the activations of more leave the second-level cache: 7 to 10 % slower was measured
# A larger graph is opened once: each opening holds its weights. MiniLM's (90 MiB), opened twice, needed 300 MiB in
# ONNX Runtime and 600 in OpenVINO; torch 690.
TWICE_MIB = 256
NO_MEMORY = re.compile(r"bad.?alloc|out of memory|alloc\w* (memory|buffer)|not enough memory", re.IGNORECASE)


def lanes(config: Config) -> int:
    return config.lanes or min(config.threads, MAX_LANES)


def load(kind: str, open_graph: Open, config: Config, folder: Path, stage: Stage) -> ExportedBackend:
    """Raises StartError; NotExportable where this model must be computed by torch."""
    if config.device.startswith("cuda") or config.dtype not in ("auto", "float32"):
        raise BadUsage(f"--backend {kind} computes in float32 on the processor", hint="--backend torch")
    export = exports.get(config, folder, [kind], stage)[kind]
    if isinstance(export, str):
        raise NotExportable(f"{config.model} cannot be exported for {kind}: {export}", hint="--backend torch")
    stage("loading model")
    try:
        run = open_graph(export.graph, lanes(config), config.threads)
        alone = run
        if lanes(config) > 1 and _mib(export.folder) <= TWICE_MIB:
            alone = open_graph(export.graph, 1, min(config.threads, MAX_THREADS_ALONE))
    except Exception as error:  # both runtimes raise classes of their own over a damaged graph
        exports.discard(export)
        raise LoadFailed(
            f"{kind} cannot open the exported model: {' '.join(str(error).split())[:200]}",
            hint="start again: it is then exported anew",
        ) from error
    backend = ExportedBackend(kind, export, config, run, alone)
    stage("comparing vectors")
    backend.prove(export)
    return backend


def _mib(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 2**20


class ExportedBackend:
    """A graph and how it is driven: by `run` from several lanes, by `alone` where one batch has all threads.

    See backends.base.Backend.
    """

    def __init__(self, kind: str, export: Export, config: Config, run: Run, alone: Run) -> None:
        facts = export.facts
        self._run = run
        self._alone = alone
        self._padding = Padding(facts.pad, facts.left, "token_type_ids" in facts.inputs)
        self.lanes = lanes(config)
        self.warmed_mib: float | None = None
        self._budget = min(config.max_batch_tokens, BATCH_TOKENS)
        self.info = ModelInfo(
            model=config.model,
            dimensions=facts.dimensions,
            max_length=max_length(facts.own_length, facts.positions, config),
            vocabulary=facts.vocabulary,
            normalized=facts.normalized,
            backend=kind,
            dtype="float32",
            device="cpu",
        )
        self.tokenizer = TextTokenizer(
            Tokenizer.from_file(str(export.folder / "tokenizer.json")),
            max_length=self.info.max_length,
            vocabulary=facts.vocabulary,
            prompt=facts.prompt,
            side="left" if facts.truncation_side == "left" else "right",
        )

    def prove(self, export: Export) -> None:
        """Against what torch gave, with the length that it was read at. Raises NotExportable."""
        kept = np.load(export.folder / "probes.npz", allow_pickle=False)
        # A text that either had to cut was not the same text.
        length = min(int(kept["max_length"]), self.info.max_length)
        known = [index for index, size in enumerate(kept["lengths"]) if size < length]
        rows = kept["vectors"][known]
        ids = [self.tokenizer.encode([probe.PROBES[index]])[0] for index in known]
        alone = np.concatenate([self.embed([row], alone=True) for row in ids])
        batch = self.embed(ids, alone=False)
        lowest = min(probe.cosines(alone, rows).min(), probe.cosines(batch, rows).min())
        if not lowest >= probe.SAME:  # also where it is NaN
            reason = f"its vectors are not those of torch (lowest cosine {lowest:.6f})"
            exports.refuse(export, reason)
            raise NotExportable(f"{self.info.backend}: {reason}", hint="--backend torch")

    def warm_up(self) -> Limits:
        """Every length once: the runtimes plan their memory by shape."""
        token = min(1000, self.info.vocabulary - 1)
        length = min(512, self.info.max_length)
        try:
            while length >= 8:
                for alone in (False, True):
                    self.embed([[token] * length], alone=alone)
                length //= 2
            cost = overhead(
                lambda batch: self.embed(batch, alone=False),
                token=token, budget=self._budget, longest=self.info.max_length,
            )  # fmt: skip
        except OutOfMemory as error:
            raise DoesNotFit(f"a forward does not fit into memory: {error}") from error
        return Limits(self._budget, cost)

    def embed(self, batch: Sequence[Sequence[int]], *, alone: bool) -> Vectors:
        """float32 [len(batch), dimensions]; raises OutOfMemory."""
        run = self._alone if alone else self._run
        try:
            vectors = run(self._padding.arrays(batch))
        except MemoryError as error:
            raise OutOfMemory(str(error)) from error
        except Exception as error:  # both runtimes raise classes of their own
            if NO_MEMORY.search(str(error)):
                raise OutOfMemory(str(error).strip().splitlines()[0]) from None
            raise
        vectors = vectors[:, : self.info.dimensions]
        return unit(vectors) if self.info.normalized else vectors
