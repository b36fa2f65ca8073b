"""Word-matching baselines: BM25 by `bm25s` and TF-IDF by scikit-learn, over one choice of words.

Words are lower-cased; stemmed by Snowball for languages that have a stemmer there; Chinese is cut into words
by `jieba`. The language is that of the documents, guessed from their script unless it is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploytool.errors import BadInput, UnknownName, missing_extra
from deploytool.retrieval.search import Ranking, rank_scores

if TYPE_CHECKING:
    from deploytool.retrieval.search import Matrix

PACKAGES = {"bm25": ("bm25s", "bm25s"), "tfidf": ("scikit-learn", "sklearn")}  # method -> package, module
METHODS = tuple(PACKAGES)
CHINESE = "chinese"
PLAIN = "none"
_WORD = re.compile(r"(?u)\b\w\w+\b")  # as bm25s and scikit-learn cut by default
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
SAMPLE = 200

Analyzer = Callable[[str], list[str]]
Rows = Callable[[list[list[str]]], "Iterable[Matrix]"]  # queries as words -> scores of all documents, by row


@dataclass(frozen=True)
class Words:
    """How texts are cut into words: `language` is a Snowball name, "chinese", or "none"."""

    language: str
    analyze: Analyzer


def words_for(documents: Sequence[str], language: str | None = None) -> Words:
    """The words of a language; guessed where it is None. UnknownName, or NotAvailable without its package."""
    language = language or guess_language(documents)
    if language == PLAIN:
        return Words(PLAIN, _plain)
    if language == CHINESE:
        return Words(CHINESE, _chinese())
    return Words(language, _stemmed(language))


def guess_language(documents: Sequence[str]) -> str:
    """Chinese where a fifth of the letters are Han characters, else English. By script alone."""
    step = max(1, len(documents) // SAMPLE)
    sample = "".join(documents[::step])
    letters = sum(character.isalpha() for character in sample)
    return CHINESE if letters and len(_HAN.findall(sample)) > 0.2 * letters else "english"


def _plain(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _stemmed(language: str) -> Analyzer:
    try:
        import Stemmer
    except ImportError as error:
        raise missing_extra("PyStemmer", "eval", "stemming") from error
    known = [*Stemmer.algorithms(), CHINESE, PLAIN]
    if language not in known:
        raise UnknownName("language", language, known)
    stemmer = Stemmer.Stemmer(language)
    stop = _stopwords(language)

    def analyze(text: str) -> list[str]:
        found: list[str] = stemmer.stemWords([word for word in _plain(text) if word not in stop])
        return found

    return analyze


def _stopwords(language: str) -> frozenset[str]:
    """The stop words that bm25s ships, for English; other languages go without."""
    if language != "english":
        return frozenset()
    try:
        from bm25s.stopwords import STOPWORDS_EN
    except ImportError as error:
        raise missing_extra("bm25s", "eval", "bm25") from error
    return frozenset(STOPWORDS_EN)


def _chinese() -> Analyzer:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and pkg_resources in jieba's own source
            import jieba
    except ImportError as error:
        raise missing_extra("jieba", "chinese", "word matching in Chinese") from error
    import logging

    jieba.setLogLevel(logging.ERROR)

    def analyze(text: str) -> list[str]:
        return [word for word in jieba.lcut(text.lower()) if any(map(str.isalnum, word))]

    return analyze


@dataclass(frozen=True)
class WordIndex:
    """Documents, cut into words and indexed. `size_bytes` is of the index's arrays, without ids and words."""

    ids: tuple[str, ...]
    words: Words
    rows: Rows
    size_bytes: int

    def search(self, queries: Sequence[str], k: int) -> Ranking:
        """For each query its `k` best documents that share a word with it."""
        asked = [self.words.analyze(query) for query in queries]
        return rank_scores(self.rows(asked), self.ids, len(queries), k, above=0.0)


def word_index(method: str, documents: dict[str, str], words: Words) -> WordIndex:
    """The index of `bm25` or `tfidf`. BadInput where no text has words."""
    ids = sorted(documents)
    texts = [words.analyze(documents[name]) for name in ids]
    if not any(texts):
        raise BadInput(
            "no document has a word", hint=f"cut as {words.language}; choose another with --language"
        )
    rows, size_bytes = {"bm25": _bm25, "tfidf": _tfidf}[method](texts)
    return WordIndex(tuple(ids), words, rows, size_bytes)


def rank_lexical(
    method: str, queries: Sequence[str], documents: dict[str, str], words: Words, k: int
) -> Ranking:
    """For each query its `k` best documents that share a word with it. BadInput where no text has words."""
    return word_index(method, documents, words).search(queries, k)


def _bm25(documents: list[list[str]]) -> tuple[Rows, int]:
    """Lucene's BM25, k1 1.5, b .75: the defaults of bm25s."""
    try:
        import bm25s
    except ImportError as error:
        raise missing_extra("bm25s", "eval", "bm25") from error
    import numpy as np

    index = bm25s.BM25()
    index.index(documents, show_progress=False)
    known = index.vocab_dict

    def rows(queries: list[list[str]]) -> Iterable[Matrix]:
        for query in queries:
            found = [word for word in query if word in known]
            yield index.get_scores(found) if found else np.zeros(len(documents), dtype=np.float32)

    return rows, sum(int(index.scores[part].nbytes) for part in ("data", "indices", "indptr"))


def _tfidf(documents: list[list[str]]) -> tuple[Rows, int]:
    """Cosine of log-scaled TF-IDF vectors."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise missing_extra("scikit-learn", "eval", "tfidf") from error

    vectorizer: Any = TfidfVectorizer(analyzer=lambda words: words, sublinear_tf=True)
    matrix = vectorizer.fit_transform(documents)

    def rows(queries: list[list[str]]) -> Iterable[Matrix]:
        for start in range(0, len(queries), 256):
            yield from (vectorizer.transform(queries[start : start + 256]) @ matrix.T).toarray()

    return rows, sum(int(part.nbytes) for part in (matrix.data, matrix.indices, matrix.indptr))
