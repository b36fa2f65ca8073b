"""Texts -> token ids, once, with the model's own tokenizer (the Rust one; no torch). Safe from any thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from deploytool.st_server.errors import RequestError, bad_request


class Pair(list[int]):
    """Token ids of two texts; the second one begins at `second` (token type 1 where a model has types)."""

    def __init__(self, ids: Sequence[int], second: int) -> None:
        super().__init__(ids)
        self.second = second


def second_part(ids: Sequence[int]) -> int | None:
    """Where the second text of a pair begins; None for a single text."""
    return ids.second if isinstance(ids, Pair) else None


class TextTokenizer:
    """Encodes as the model's own preprocessing does: prompt, special tokens, and truncation where asked for.

    `max_length` counts special tokens. `vocabulary` is the number of ids the model has a vector for.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        vocabulary: int,
        prompt: str = "",
        side: Literal["left", "right"] = "right",
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._cutting: Tokenizer | None = None  # for pairs
        self._special = tokenizer.num_special_tokens_to_add(is_pair=False)
        self._prompt = prompt
        self._side = side
        self.max_length = max_length
        self.vocabulary = vocabulary

    @property
    def backend(self) -> Tokenizer:
        return self._tokenizer

    def save(self, file: Path) -> None:
        """So that `Tokenizer.from_file` brings it back."""
        self._tokenizer.save(str(file))

    def encode(
        self, texts: Sequence[str], *, truncate: bool = False, prompt: str | None = None
    ) -> list[list[int]]:
        """Token ids of each text behind `prompt` (None: the model's default one).

        Raises RequestError where one is too long and is not to be truncated.
        """
        prompt = self._prompt if prompt is None else prompt
        given = [prompt + text for text in texts] if prompt else list(texts)
        try:
            found = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(given)]
        except TypeError as error:
            raise _not_unicode(texts, "input") or _not_tokenized("input") from error
        for index, ids in enumerate(found):
            if len(ids) > self.max_length:
                if not truncate:
                    raise self._too_long(f"input[{index}]", len(ids))
                found[index] = self._cut(given[index])
        return found

    def pairs(self, query: str, documents: Sequence[str], *, truncate: bool = False) -> list[Pair]:
        """Token ids of (query, document) for each document.

        `truncate` shortens the longer of the two, as CrossEncoder does. Raises RequestError like `encode`.
        """
        given = [(query, document) for document in documents]
        try:
            found = self._tokenizer.encode_batch_fast(given)
        except TypeError as error:
            wrong = _not_unicode([query], "query") or _not_unicode(documents, "documents")
            raise wrong or _not_tokenized("documents") from error
        pairs = [_pair(encoding) for encoding in found]
        for index, pair in enumerate(pairs):
            if len(pair) > self.max_length:
                if not truncate:
                    raise self._too_long(f"query and documents[{index}]", len(pair), "documents", "have")
                pairs[index] = _pair(self._cutter().encode(*given[index]))
        return pairs

    def _cutter(self) -> Tokenizer:
        """A copy that truncates: the setting is the tokenizer's, not the call's."""
        if self._cutting is None:
            copy = Tokenizer.from_str(self._tokenizer.to_str())
            copy.enable_truncation(self.max_length, strategy="longest_first", direction=self._side)
            self._cutting = copy
        return self._cutting

    def check(self, rows: Sequence[list[int]], *, truncate: bool = False) -> list[list[int]]:
        """Ids that a client sent, as they are. Raises RequestError where one is not in the vocabulary."""
        checked = []
        for index, row in enumerate(rows):
            for token in (min(row), max(row)):
                if not 0 <= token < self.vocabulary:
                    raise bad_request(
                        f"input[{index}] has the token id {_short(token)}; "
                        f"the model's ids are 0 to {self.vocabulary - 1}",
                        param="input",
                        code="token_out_of_vocabulary",
                    )
            if len(row) > self.max_length:
                if not truncate:
                    raise self._too_long(f"input[{index}]", len(row))
                row = row[: self.max_length] if self._side == "right" else row[-self.max_length :]  # noqa: PLW2901
            checked.append(row)
        return checked

    def _cut(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        encoding.truncate(max(0, self.max_length - self._special), direction=self._side)
        ids: list[int] = self._tokenizer.post_process(encoding).ids
        return ids

    def _too_long(self, place: str, length: int, field: str = "input", verb: str = "has") -> RequestError:
        return bad_request(
            f"{place} {verb} {length} tokens; the model reads {self.max_length} "
            '(send "truncate": true to have it cut)',
            param=field,
            code="context_length_exceeded",
        )


def lone_surrogate(place: str, field: str = "input") -> RequestError:
    return bad_request(
        f"{place} is not valid Unicode: it has a lone surrogate", param=field, code="invalid_text"
    )


def _pair(encoding: Any) -> Pair:
    ids, types = encoding.ids, encoding.type_ids
    return Pair(ids, types.index(1) if 1 in types else len(ids))


def _not_unicode(texts: Sequence[str], field: str) -> RequestError | None:
    for index, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError:
            return lone_surrogate(field if field == "query" else f"{field}[{index}]", field)
    return None


def _not_tokenized(field: str) -> RequestError:
    return bad_request(f"{field} cannot be tokenized", param=field, code="invalid_text")


def _short(number: int) -> str:
    """The number, or its size where it would fill the message (str() refuses the hugest)."""
    return str(number) if abs(number) < 10**20 else f"of {number.bit_length()} bits"
