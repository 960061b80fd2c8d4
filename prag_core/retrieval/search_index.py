"""Search indexes of other programs: questions go in, the k best documents they know come out.

lancedb, lancedb:URI       LanceDB, a library: in a temporary folder, or in one that stays (a path,
                           s3://bucket/index, db://...), which many processes and machines read
elasticsearch:URL/INDEX    an Elasticsearch server, as in the paper (BM25 of its `english` analyzer)

LanceDB is given the terms that `analyzer` makes, and so finds what BM25 of this package finds but
for the constants of the formula. Neither weighs how much of a question a document covers
(`least_coverage`): one common term is enough. A question of stop words alone finds nothing.

An index that stays may hold documents of others, which are passed over while they are few. It has
a text that several corpora share once. Where one of them removes it, the others write it again at
their next search; on Elasticsearch at the first that finds another number of documents.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from errno import ENOSPC, ETIMEDOUT
from typing import Any, Protocol

from prag_core.corpus.documents import Document, as_documents
from prag_core.files import FULL, is_full, remove_with
from prag_core.retrieval.analyzer import analyze
from prag_core.retrieval.retriever import DocumentsById, Hit, check_questions

TABLE = "documents"
BATCH = 10_000  # documents written together
MOST_FOREIGN = 1000  # documents of others in an index
SERVER = "the Elasticsearch server"


@contextmanager
def clear_index_errors(program: str) -> Iterator[None]:
    """Let errors of another program say got, expected and remedy.

    Raises:
        OSError: of number ETIMEDOUT, where it fails or does not answer; ENOSPC, where a disk is
            full.
    """
    try:
        yield
    # They have a message of their own, or are defects of this package.
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        raise
    except Exception as error:  # its own kinds: connection, rights, version
        if is_full(error):
            raise OSError(ENOSPC, FULL.format(f"the index of {program}")) from error
        raise OSError(
            ETIMEDOUT,
            f"got a failure of {program} ({type(error).__name__}: {error}), expected one that "
            "answers and lets you in: see its reason, check address, name and password",
        ) from error


class SearchIndex(Protocol):
    """What another program keeps and searches; it fails by OSError."""

    def ids(self) -> set[str]:
        """Return the ids of all documents that it holds."""
        ...

    def version(self) -> int:
        """Return a number that changes when anyone, this opening included, changes documents."""
        ...

    def add(self, documents: Sequence[Document]) -> None:
        """Take documents; one that is there already stays once."""
        ...

    def delete(self, document_ids: Collection[str]) -> None:
        """Remove documents."""
        ...

    def search(self, question: str, k: int, among: Collection[str] | None) -> list[Hit]:
        """Return the k best documents, best first."""
        ...


class IndexRetriever:
    """Retriever over a search index (protocol `Retriever`)."""

    def __init__(self, index: SearchIndex, documents: Iterable[Document] = ()) -> None:
        """Take the index, which may hold documents already, and the first documents."""
        self._index = index
        self._version = index.version()  # before the ids: a change in between is noticed later
        self._held = index.ids()  # of anyone
        self._documents = DocumentsById()  # added here: all that is searched
        self.add(documents)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._documents)

    def add(self, documents: Iterable[Document]) -> None:
        """Add documents; those that the index holds are not written again."""
        unique = {document.id: document for document in as_documents(documents)}
        self._write(unique)
        self._documents.add(unique.values())

    def delete(self, document_ids: Iterable[str]) -> None:
        """Remove documents, from the index too.

        Raises:
            ValueError: an id that is not there; then nothing is removed.
        """
        removed = self._documents.require(document_ids)
        if removed:
            self._index.delete(removed)  # first: where it fails, they stay here, too
            self._documents.delete(removed)
            self._held -= removed

    def retrieve(
        self, questions: Sequence[str], k: int = 3, among: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Return the k best documents of each question, best first; fewer where fewer match.

        Raises:
            ValueError: k below 1, one string instead of a sequence of questions, or an index of
                many documents that were not added here.
        """
        check_questions(questions, k)
        self._restore()
        foreign = len(self._held) - len(self._documents)
        if foreign > MOST_FOREIGN:
            raise ValueError(
                f"got an index with {foreign:,} documents of others, expected {MOST_FOREIGN:,} at "
                "most: name an index for this corpus alone"
            )
        if among is not None:
            among = self._documents.all.keys() & set(among)
        if not self._documents or (among is not None and not among):
            return [[] for _ in questions]
        return [self._own_hits(question, k, k + foreign, among) for question in questions]

    def _own_hits(
        self, question: str, k: int, limit: int, among: Collection[str] | None
    ) -> list[Hit]:
        while True:
            hits = self._index.search(question, limit, among)
            # By id: LanceDB has twice what two processes write at the same moment.
            own = {hit.document_id: hit for hit in hits if hit.document_id in self._documents.all}
            if len(own) >= k or len(hits) < limit:
                return list(own.values())[:k]
            limit *= 2  # others may have added documents since this index was opened

    def _restore(self) -> None:
        """Write documents again that another process, whose corpus has them too, removed."""
        if (version := self._index.version()) != self._version:
            # What others added is not taken in: a large addition would be refused as foreign
            # until its documents are added here.
            self._held &= self._index.ids()
            self._write(self._documents.all)
            self._version = version

    def _write(self, documents: Mapping[str, Document]) -> None:
        """Write the documents, by their ids, that the index does not hold."""
        new = [document for i, document in documents.items() if i not in self._held]
        for start in range(0, len(new), BATCH):
            self._index.add(new[start : start + BATCH])
        self._held |= documents.keys()


class LanceIndex:
    """A table of LanceDB with a full-text index over terms."""

    @clear_index_errors("LanceDB")
    def __init__(self, uri: str = "") -> None:
        """Open or make the table.

        Raises:
            ValueError: lancedb is not installed.
            OSError: a table that cannot be opened.
        """
        try:
            import lancedb
            import pyarrow as pa
        except ImportError as error:
            raise ValueError(
                f"got no {error.name}, expected LanceDB: pip install 'prag[lancedb]', or choose "
                "the retriever `bm25s`"
            ) from error
        place = uri or tempfile.mkdtemp(prefix="prag-index-")
        if not uri:
            remove_with(self, place)
        # A handle stays at the version it was opened at unless it looks for others' rows at every
        # use; `merge_insert` and `delete` then miss those rows, too.
        database = lancedb.connect(place, read_consistency_interval=timedelta(0))
        schema = pa.schema([("id", pa.string()), ("terms", pa.string())])
        self._table = database.create_table(TABLE, schema=schema, exist_ok=True)

    @clear_index_errors("LanceDB")
    def ids(self) -> set[str]:
        """Return the ids of all documents that the table holds."""
        count = self._table.count_rows()
        rows = self._table.search().select(["id"]).limit(count).to_arrow() if count else {"id": []}
        return {str(i) for i in rows["id"]}

    @clear_index_errors("LanceDB")
    def version(self) -> int:
        """Return the version of the table."""
        return int(self._table.version)

    @clear_index_errors("LanceDB")
    def add(self, documents: Sequence[Document]) -> None:
        """Write terms and bring the index up to date."""
        rows = [
            {"id": d.id, "terms": " ".join(analyze(f"{d.title}\n{d.text}").words)}
            for d in documents
        ]
        # By id, as another process may have written the same document before.
        self._table.merge_insert("id").when_not_matched_insert_all().execute(rows)
        if self._table.list_indices():
            self._table.optimize()
        else:  # the terms are taken as they are
            self._table.create_fts_index(
                "terms", base_tokenizer="whitespace", lower_case=False, stem=False,
                remove_stop_words=False, ascii_folding=False, max_token_length=None,
            )  # fmt: skip

    @clear_index_errors("LanceDB")
    def delete(self, document_ids: Collection[str]) -> None:
        """Remove rows."""
        self._table.delete(_one_of(document_ids))

    @clear_index_errors("LanceDB")
    def search(self, question: str, k: int, among: Collection[str] | None) -> list[Hit]:
        """Return the k best documents by LanceDB's BM25."""
        from lancedb.query import MatchQuery

        if not (words := analyze(question).words):
            return []
        query = self._table.search(MatchQuery(" ".join(words), "terms"), query_type="fts")
        if among is not None:
            query = query.where(_one_of(among), prefilter=True)
        rows = query.select(["id", "_score"]).limit(k).to_list()
        return [Hit(row["id"], float(row["_score"])) for row in rows]


class ElasticIndex:
    """An index of an Elasticsearch server."""

    @clear_index_errors(SERVER)
    def __init__(self, place: str) -> None:
        """Open or make the index.

        Args:
            place: URL/INDEX, such as http://localhost:9200/wiki; name and password may stand in
                the url.

        Raises:
            ValueError: the client is not installed.
            OSError: a server that does not answer.
        """
        try:
            from elasticsearch import Elasticsearch
            from elasticsearch.helpers import bulk, scan
        except ImportError as error:
            raise ValueError(
                f"got no {error.name}, expected the client of Elasticsearch: pip install "
                "'prag[elasticsearch]'"
            ) from error
        url, _, self._name = place.rpartition("/")
        self._bulk, self._scan = bulk, scan
        self._client: Any = Elasticsearch(url)
        text = {"type": "text", "analyzer": "english"}
        if not self._client.indices.exists(index=self._name):
            properties = {"title": text, "text": text}
            self._client.indices.create(index=self._name, mappings={"properties": properties})

    @clear_index_errors(SERVER)
    def ids(self) -> set[str]:
        """Return the ids of all documents that the index holds."""
        rows = self._scan(self._client, index=self._name, _source=False)
        return {row["_id"] for row in rows}

    @clear_index_errors(SERVER)
    def version(self) -> int:
        """Return the number of documents: a removal beside an addition is noticed later."""
        return int(self._client.count(index=self._name)["count"])

    @clear_index_errors(SERVER)
    def add(self, documents: Sequence[Document]) -> None:
        """Write documents; they are found when this returns."""
        actions = (
            {"_index": self._name, "_id": d.id, "title": d.title, "text": d.text} for d in documents
        )
        self._bulk(self._client, actions, refresh="wait_for")

    @clear_index_errors(SERVER)
    def delete(self, document_ids: Collection[str]) -> None:
        """Remove documents."""
        actions = ({"_op_type": "delete", "_index": self._name, "_id": i} for i in document_ids)
        self._bulk(self._client, actions, refresh="wait_for", raise_on_error=False)

    @clear_index_errors(SERVER)
    def search(self, question: str, k: int, among: Collection[str] | None) -> list[Hit]:
        """Return the k best documents by BM25 over title and text together."""
        match = {"multi_match": {"query": question, "fields": ["title", "text"],
                                 "type": "cross_fields"}}  # fmt: skip
        query: dict[str, Any] = {"must": match}
        if among is not None:
            query["filter"] = {"ids": {"values": list(among)}}
        answer = self._client.search(index=self._name, query={"bool": query}, size=k, source=False)
        return [Hit(row["_id"], float(row["_score"])) for row in answer["hits"]["hits"]]


def _one_of(document_ids: Collection[str]) -> str:
    """Write an SQL condition; ids are hex digits, quoted all the same."""
    names = ", ".join("'" + i.replace("'", "''") + "'" for i in document_ids)
    return f"id IN ({names})"
