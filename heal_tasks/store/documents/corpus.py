"""Reads across documents, chunks, topics and questions, as arrays for the algorithms."""

from dataclasses import dataclass, fields
from datetime import datetime
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.types import Split
from heal_tasks.store.arrays import Int64Array, arrays, rows_of, streamed_arrays
from heal_tasks.store.db import Repository, scalar, stream


@dataclass(frozen=True)
class ChunkTable:
    """All live chunks, ordered by chunk id."""

    chunk_ids: Int64Array  # (n,)
    document_ids: Int64Array  # (n,)
    leaves: NDArray[np.int32]  # (n,); -1 where the document has no label
    paths: Int64Array  # (n, depth); topic ids from level 1 down, -1 after the end of the path
    public: NDArray[np.bool_]  # (n,); True if everybody may read the document

    def rows(self, chunk_ids: Int64Array) -> Int64Array:
        """Row of each chunk id, -1 where it is not a live chunk; int64, same shape."""
        return rows_of(self.chunk_ids, chunk_ids)

    def of_documents(self, document_ids: Int64Array) -> tuple[Int64Array, Int64Array]:
        """All chunks of some documents, int64, shape (m,).

        Returns:
            Two int64, shape (c,): the index in ``document_ids`` of each chunk's document, and the chunk's row here.
        """
        order = np.argsort(self.document_ids, kind="stable")
        ordered = self.document_ids[order]
        first = np.searchsorted(ordered, document_ids)
        sizes = np.searchsorted(ordered, document_ids, side="right") - first
        place = np.repeat(np.arange(len(document_ids)), sizes)
        within = np.arange(len(place)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return place, order[first[place] + within]


@dataclass(frozen=True)
class QuestionTable:
    """Questions of live chunks, ordered by question id."""

    question_ids: Int64Array  # (q,)
    chunk_ids: Int64Array  # (q,); of a judgment the chunk of the document that is nearest to the question
    document_ids: Int64Array  # (q,)
    splits: NDArray[np.str_]  # (q,); a core.types.Split each
    texts: Int64Array  # (q,); equal where only case differs: a question that several chunks answer has several rows
    human: NDArray[np.bool_]  # (q,); True if a person asked it
    moves: NDArray[np.bool_]  # (q,); True if its split moves rows (``heal.moves_rows``)
    extracted: NDArray[np.bool_]  # (q,); True if it has its chunk's own words: the extractive writer's
    near_rows: Int64Array  # (p,); rows of human questions that move another chunk beside their own
    near_chunk_ids: Int64Array  # (p,); that chunk, which is of the same document and nearly as near

    def none(self) -> "QuestionTable":
        """The table without its rows."""
        return QuestionTable(*(getattr(self, item.name)[:0] for item in fields(self)))

    def in_splits(self, *splits: Split) -> NDArray[np.bool_]:
        """Mask of the questions in any of the splits."""
        return np.isin(self.splits, splits)

    def deciding_mask(self, by_people: bool) -> NDArray[np.bool_]:
        """Mask of the questions that decide: human questions, or all."""
        return self.human | (not by_people)

    def teaching_mask(self, by_people: bool) -> NDArray[np.bool_]:
        """Mask of the questions that a lexicon may be fitted to: human ones, or those of a language model."""
        return self.moves & (self.human if by_people else ~self.human & ~self.extracted)


@dataclass(frozen=True)
class Pending:
    """Changes that the live generation does not serve yet."""

    chunks: int  # live chunks without a served vector
    superseded: int  # chunks still served whose text is gone
    documents: int  # live documents, exact duplicates included
    moved: int  # documents that are new, changed or deleted since the last realignment, without exact duplicates


class Corpus(Repository):
    """Reads of the whole corpus."""

    def hash(self) -> str:
        """One hash of all live canonical documents."""
        query = """
            SELECT document_id || ':' || content_hash FROM heal.document
            WHERE deleted_at IS NULL AND duplicate_of IS NULL ORDER BY document_id"""
        # Here and not by the server, which joins at most 1 GB: 12 million documents.
        digest, before = sha256(), ""
        for (item,) in stream(self._conn, query):
            digest.update(f"{before}{item}".encode())
            before = ","
        return digest.hexdigest() if before else ""

    def document_ids(self) -> Int64Array:
        """Ids of the live canonical documents, int64, shape (n,), ascending."""
        query = "SELECT document_id FROM heal.document WHERE deleted_at IS NULL AND duplicate_of IS NULL ORDER BY 1"
        (found,) = streamed_arrays(stream(self._conn, query), np.int64)
        return found

    def texts(
        self,
        unlabelled_in: int | None = None,
        since: datetime | None = None,
        *,
        public: bool = False,
        among: Int64Array | None = None,
    ) -> tuple[list[int], list[str]]:
        """Ids, ascending, and texts (title, newline, body) of documents, all or those without a label of a topic run.

        A document that has changed since the topic run counts as unlabelled. With ``since`` only documents that are
        new or changed since then are read, with ``public`` only those that everybody may read, with ``among`` only
        those of these ids, int64, shape (m,).
        """
        rows = stream(
            self._conn,
            """SELECT d.document_id, d.title || E'\\n' || d.body FROM heal.document d
            WHERE d.deleted_at IS NULL AND d.duplicate_of IS NULL AND (%(run)s::bigint IS NULL
                OR NOT EXISTS (SELECT FROM heal.document_topic t
                    WHERE t.topic_run_id = %(run)s AND t.document_id = d.document_id)
                OR d.changed_at > (SELECT r.created_at FROM heal.topic_run r WHERE r.topic_run_id = %(run)s))
                AND (%(since)s::timestamptz IS NULL OR d.changed_at > %(since)s)
                AND (NOT %(public)s OR d.acl IS NULL)
                AND (%(among)s::bigint[] IS NULL OR d.document_id = ANY (%(among)s))
            ORDER BY d.document_id""",
            {
                "run": unlabelled_in,
                "since": since,
                "public": public,
                "among": None if among is None else among.tolist(),
            },
        )
        texts = dict(rows)
        return list(texts), list(texts.values())

    def restricted(self) -> list[int]:
        """Ids of the canonical documents that have a list of readers, ascending."""
        query = """
            SELECT document_id FROM heal.document
            WHERE deleted_at IS NULL AND duplicate_of IS NULL AND acl IS NOT NULL ORDER BY 1"""
        return [document_id for (document_id,) in self._conn.execute(query)]

    def restricted_since(self, time: datetime) -> bool:
        """True if the readers of any document have, or may have, changed since a time, and are not everybody now.

        A time to come is that of a clock which was wrong, and says nothing.
        """
        query = """SELECT EXISTS (SELECT FROM heal.document
            WHERE acl IS NOT NULL AND (acl_changed_at > %(time)s OR %(time)s > now()))"""
        return bool(scalar(self._conn, query, {"time": time}))

    def sampled_texts(self) -> list[str]:
        """Texts of at most 2,000 live chunks, chosen by hash, so that new documents hardly change the sample."""
        query = "SELECT text FROM heal.chunk WHERE superseded_at IS NULL ORDER BY content_hash LIMIT 2000"
        return [text for (text,) in self._conn.execute(query)]

    def chunks(self, topic_run_id: int | None) -> ChunkTable:
        """All live chunks with the labels of a topic run."""
        rows = stream(
            self._conn,
            """SELECT c.chunk_id, c.document_id, coalesce(t.leaf, -1), d.acl IS NULL, coalesce(t.path, '{}')
            FROM heal.chunk c JOIN heal.document d USING (document_id)
                LEFT JOIN heal.document_topic t ON t.document_id = c.document_id AND t.topic_run_id = %s
            WHERE c.superseded_at IS NULL ORDER BY c.chunk_id""",
            (topic_run_id,),
        )
        known = dict[tuple[int, ...], int]()  # the few different paths
        numbered = ((*row, known.setdefault(tuple(path), len(known))) for *row, path in rows)
        types = (np.int64, np.int64, np.int32, np.bool_, np.int64)
        chunk_ids, document_ids, leaves, public, paths = streamed_arrays(numbered, *types)
        padded = np.full((len(known), max(map(len, known), default=0) or 1), -1, dtype=np.int64)
        for path, number in known.items():
            padded[number, : len(path)] = path
        return ChunkTable(chunk_ids, document_ids, leaves, padded[paths], public)

    def public_chunks(self, chunk_ids: Int64Array) -> Int64Array:
        """Those of some chunks, int64, shape (n,), whose document everybody may read, ascending."""
        query = """
            SELECT c.chunk_id FROM heal.chunk c JOIN heal.document d USING (document_id)
            WHERE c.chunk_id = ANY (%s) AND d.acl IS NULL ORDER BY 1"""
        (found,) = arrays(self._conn.execute(query, (chunk_ids.tolist(),)).fetchall(), np.int64)
        return found

    def chunk_texts(self, chunk_ids: Int64Array) -> dict[int, tuple[str, str]]:
        """Title line and text of chunks, by chunk id."""
        rows = self._conn.execute(
            """SELECT c.chunk_id, heal.title_line(d.title, c.heading), c.text
            FROM heal.chunk c JOIN heal.document d USING (document_id) WHERE c.chunk_id = ANY(%s)""",
            (chunk_ids.tolist(),),
        )
        return {chunk_id: (title, text) for chunk_id, title, text in rows}

    def questions(self) -> QuestionTable:
        """All questions of live chunks that no filter has dropped."""
        rows = stream(
            self._conn,
            """SELECT q.question_id, q.chunk_id, c.document_id, q.split, heal.text_key(q.text), q.writer = 'human',
                heal.moves_rows(q.split), q.writer = 'extractive'
            FROM heal.question q JOIN heal.chunk c USING (chunk_id)
            WHERE c.superseded_at IS NULL AND q.dropped_by IS NULL ORDER BY q.question_id""",
        )
        types = (np.int64, np.int64, np.int64, np.str_, np.int64, np.bool_, np.bool_, np.bool_)
        columns = streamed_arrays(rows, *types)
        near = stream(self._conn, "SELECT question_id, chunk_id FROM heal.near_chunk ORDER BY 1, 2")
        near_questions, near_chunk_ids = streamed_arrays(near, np.int64, np.int64)
        near_rows = rows_of(columns[0], near_questions)
        used = near_rows >= 0
        return QuestionTable(*(*columns, near_rows[used], near_chunk_ids[used]))

    def question_texts(self, question_ids: Int64Array) -> dict[int, str]:
        """Text of questions, by question id."""
        rows = self._conn.execute(
            "SELECT question_id, text FROM heal.question WHERE question_id = ANY(%s)", (question_ids.tolist(),)
        )
        return dict(rows.fetchall())

    def right_answers(self, question_ids: Int64Array) -> dict[int, tuple[str, str]]:
        """Text and right answer of the questions that have one, by question id."""
        rows = self._conn.execute(
            "SELECT question_id, text, answer FROM heal.question WHERE question_id = ANY(%s) AND answer <> ''",
            (question_ids.tolist(),),
        )
        return {question_id: (text, answer) for question_id, text, answer in rows}

    def new_questions(self, since: datetime) -> float:
        """The share of the questions in use that were stored after a time."""
        query = """SELECT coalesce(avg((created_at > %s)::int), 0) FROM heal.question WHERE dropped_by IS NULL"""
        return float(scalar(self._conn, query, (since,)))

    def pending(self, generation_id: int | None, since: datetime | None) -> Pending:
        """Count the changes that a generation does not serve yet: without one, all live chunks.

        Documents have moved if they changed after ``since``, the end of the last realignment; none have without one.
        """
        served: sql.Composable = sql.SQL("false")
        if generation_id is not None:
            served = sql.SQL("EXISTS (SELECT FROM {} v WHERE v.chunk_id = c.chunk_id)").format(
                sql.Identifier("heal", f"vec_g{generation_id:06d}")
            )
        query = sql.SQL(
            """SELECT count(*) FILTER (WHERE c.superseded_at IS NULL AND NOT {served}),
                   count(*) FILTER (WHERE c.superseded_at IS NOT NULL),
                   (SELECT count(*) FROM heal.document WHERE deleted_at IS NULL),
                   (SELECT count(*) FROM heal.document
                    WHERE duplicate_of IS NULL AND (changed_at > %(since)s OR deleted_at > %(since)s))
            FROM heal.chunk c"""
        ).format(served=served)
        return Pending(*self._conn.execute(query, {"since": since}).fetchall()[0])
