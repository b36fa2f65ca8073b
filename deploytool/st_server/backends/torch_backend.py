"""PyTorch through Sentence Transformers: computing. This module and torch_model are the only ones with torch.

Texts are tokenized outside; the ids are padded here and go through the model's own pipeline (transformer,
pooling, normalisation ...), so that the vectors are those of `SentenceTransformer.encode`. That is not
assumed: `prove` computes a few texts both ways before the server is ready.

Threads (measured with all-MiniLM-L6-v2 on two cores, texts of 32 to 64 tokens): one lane of two OpenMP
threads computes 7.5 tokens per ms, two lanes of one thread 8.1, and lanes do not wait for each other where
something else takes a core. For one text alone two threads are faster (9.4 against 14.4 ms): a batch that is
alone gets them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from deploytool.st_server.backends import probe, torch_model
from deploytool.st_server.backends.base import MAX_LANES, MAX_THREADS_ALONE, ModelInfo, Stage
from deploytool.st_server.backends.padding import Padding, overhead
from deploytool.st_server.config import Config
from deploytool.st_server.errors import (
    BackendError,
    DeviceLost,
    DoesNotFit,
    LoadFailed,
    NotServable,
    OutOfMemory,
)
from deploytool.st_server.packing import Limits
from deploytool.st_server.tokens import TextTokenizer
from deploytool.st_server.vectors import unit

Vectors = npt.NDArray[np.float32]

# A CPU is no faster beyond this: 16 texts of 64 tokens compute at the rate of 64 such texts.
CPU_BATCH_TOKENS = 1024


def load(config: Config, folder: Path, stage: Stage) -> TorchBackend:
    """Raises StartError."""
    torch.set_num_threads(config.threads)
    loaded = torch_model.load(config, folder, stage)
    backend = TorchBackend(loaded, config)
    stage("comparing vectors")
    backend.prove(config)
    return backend


class TorchBackend:
    """A loaded model and how it is driven. See backends.base.Backend."""

    reranks = False

    def __init__(self, loaded: torch_model.Loaded, config: Config) -> None:
        self._model = model = loaded.model
        self._device = loaded.device
        self.own_length = torch_model.own_length(model)
        length = torch_model.max_length(model, config)
        model.max_seq_length = length
        tokenizer = model.tokenizer
        self.padding = Padding(
            tokenizer.pad_token_id or 0,
            left=tokenizer.padding_side == "left",
            type_ids="token_type_ids" in tokenizer.model_input_names,
        )
        self.prompt = model.prompts.get(model.default_prompt_name or "") or ""
        self._normalize = config.normalize or type(model[-1]).__name__ == "Normalize"
        on_cpu = self._device.type == "cpu"
        self.lanes = config.lanes or (min(config.threads, MAX_LANES) if on_cpu else 1)
        self._threads = max(1, config.threads // self.lanes)
        self._threads_alone = max(self._threads, min(config.threads, MAX_THREADS_ALONE))
        self._budget = min(config.max_batch_tokens, CPU_BATCH_TOKENS) if on_cpu else config.max_batch_tokens
        rows = model.transformers_model.get_input_embeddings().num_embeddings
        self.info = ModelInfo(
            model=config.model,
            dimensions=1 if self.reranks else _dimensions(model),
            max_length=length,
            vocabulary=min(rows, len(tokenizer)),
            normalized=self._normalize,
            backend="torch",
            dtype=str(loaded.dtype).removeprefix("torch."),
            device=str(self._device),
            reranks=self.reranks,
        )
        self._some_token = min(1000, self.info.vocabulary - 1)
        self.warmed_mib: float | None = None
        self.tokenizer: TextTokenizer

    def prove(self, config: Config) -> None:
        """Compare with `encode`, then take the tokenizer over. Raises NotServable."""
        model = self._model
        if self.prompt and not getattr(_pooling(model), "include_prompt", True):
            raise NotServable("the model leaves its default prompt out of the pooling: not served yet")
        expected = model.encode(
            list(probe.PROBES), normalize_embeddings=config.normalize, show_progress_bar=False
        )
        self.tokenizer = self._tokenizer()
        ours = self.embed(self.tokenizer.encode(probe.PROBES, truncate=True), alone=True)
        cosines = probe.cosines(ours, np.asarray(expected, np.float32))
        # fp16 and bf16 round differently in differently padded batches.
        floor = probe.SAME if self.info.dtype == "float32" else 0.995
        if not (np.isfinite(ours).all() and cosines.min() >= floor):
            raise NotServable(
                "the vectors are not those of SentenceTransformer.encode "
                f"(lowest cosine {cosines.min():.6f}, at least {floor} expected)"
            )

    def _tokenizer(self) -> TextTokenizer:
        own = self._model.tokenizer
        return TextTokenizer(
            own.backend_tokenizer,
            max_length=self.info.max_length,
            vocabulary=self.info.vocabulary,
            prompt=self.prompt,
            side=own.truncation_side,
        )

    def warm_up(self) -> Limits:
        """Every length once; on a GPU with full batches, so that a lack of memory shows now.

        What they took stays reserved there: nobody else can take it between two requests.
        """
        lengths, length = [], 8
        while length < self.info.max_length:
            lengths.append(length)
            length *= 2
        full = self._device.type != "cpu"
        if full:
            lengths.append(self.info.max_length)
        else:
            lengths = lengths[:5]
        before = self._reserved_mib(empty_first=True)
        for length in reversed(lengths):
            texts = max(1, self._budget // length) if full else 1
            # One text is shorter, as among real ones: only then there is an attention mask.
            rows = [[self._some_token] * length] * texts
            try:
                self.embed([*rows[1:], rows[0][: length - 1 if texts > 1 else length]], alone=False)
            except OutOfMemory as error:
                raise DoesNotFit(
                    f"a forward of {texts} texts with {length} tokens does not fit into memory: {error}",
                    hint=f"--max-batch-tokens below {texts * length}, or a smaller --max-length",
                ) from error
            except DeviceLost as error:
                raise LoadFailed(f"the device failed while warming up: {error}") from error
        cost = overhead(
            lambda batch: self.embed(batch, alone=False),
            token=self._some_token, budget=self._budget, longest=self.info.max_length,
        )  # fmt: skip
        if before is not None:
            self.warmed_mib = round((self._reserved_mib() or before) - before, 1)
        return Limits(self._budget, cost)

    def _reserved_mib(self, *, empty_first: bool = False) -> float | None:
        """Card memory that torch holds, used or not; None without a card."""
        if self._device.type != "cuda":
            return None
        if empty_first:
            torch.cuda.empty_cache()
        return round(int(torch.cuda.memory_reserved(self._device)) / 2**20, 1)

    def embed(self, batch: Sequence[Sequence[int]], *, alone: bool) -> Vectors:
        """float32 [len(batch), dimensions]; raises OutOfMemory or DeviceLost."""
        self._use_threads(self._threads_alone if alone else self._threads)
        problem: BackendError | None = None
        try:
            return self._forward(batch)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            problem = _known(error)
            if problem is None:
                raise
        # Raised only here: the first error's traceback would keep the failed forward's tensors alive.
        if isinstance(problem, OutOfMemory) and self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise problem

    def _forward(self, batch: Sequence[Sequence[int]]) -> Vectors:
        with torch.inference_mode():
            features = {name: torch.from_numpy(array) for name, array in self.padding.arrays(batch).items()}
            if self._device.type != "cpu":
                features = {name: tensor.to(self._device) for name, tensor in features.items()}
            vectors: Vectors = self._rows(features).float().cpu().numpy()
        # Half precision leaves norms 1e-3 off: again in float32.
        return unit(vectors) if self._normalize else vectors

    def _rows(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        rows: torch.Tensor = self._model(features)["sentence_embedding"]
        return rows[:, : self.info.dimensions]

    def _use_threads(self, count: int) -> None:
        """OpenMP's count is per thread, MKL's is the process's: set anew, another lane may have."""
        if self._device.type == "cpu":
            torch.set_num_threads(count)


def _dimensions(model: object) -> int:
    named = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension  # type: ignore[attr-defined]
    size = named()
    if not size:
        raise NotServable("the model does not say how many dimensions its vectors have")
    return int(size)


def _pooling(model: object) -> object | None:
    return next((part for part in model if type(part).__name__ == "Pooling"), None)  # type: ignore[attr-defined]


def _known(error: RuntimeError) -> BackendError | None:
    """OutOfMemory or DeviceLost where the message says so."""
    text = str(error)
    if (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    ):
        return OutOfMemory(_first_line(error))
    if "CUDA error" in text or type(error).__name__ == "AcceleratorError":
        return DeviceLost(_first_line(error))
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
