"""The lexicon of a generation in Postgres, and the stems of chunks and questions that it is made from."""

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector
from psycopg import sql

from heal_tasks.store.arrays import Float32Array, Int64Array, arrays
from heal_tasks.store.db import Repository, scalar, stream
from heal_tasks.store.documents.chunks import lock_shared
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.search import named_errors
from heal_tasks.store.spaces.vector_tables import copy_rows

Stem = tuple[str, str]
"""Language (the text search configuration of the document) and stem: a stem of two languages is two."""

_LEXEME = re.compile(r"'((?:[^']|'')*)':([\d,A-D]+)")


@dataclass(frozen=True)
class StemCounts:
    """Stems of texts, entry by entry."""

    texts: NDArray[np.integer]  # (e,): row of the text, in the order of the ids asked for
    stems: NDArray[np.integer]  # (e,): number of the stem
    counts: NDArray[np.uint8]  # (e,): its occurrences in the text; 255 stands for more


@dataclass(frozen=True)
class StoredLexicon:
    """The stems of a generation."""

    stems: list[Stem]
    chunks: Int64Array  # (v,): chunks that have the stem; 0 for one that only answered questions have
    weights: Float32Array  # (v,): inverse document frequency
    vectors: Float32Array  # (v, d): as fitted, not multiplied by the weight


class StemDictionary:
    """Numbers of stems, given in the order of their first appearance."""

    def __init__(self, stems: Iterable[Stem] = ()) -> None:
        self._numbers = dict[Stem, int]()
        self.add(stems)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def stems(self) -> list[Stem]:
        """All stems by number."""
        return list(self._numbers)

    @property
    def languages(self) -> list[str]:
        """The languages of the stems."""
        return sorted({language for language, _ in self._numbers})

    def add(self, stems: Iterable[Stem]) -> None:
        """Give numbers to stems that have none."""
        for stem in stems:
            self._numbers.setdefault(stem, len(self._numbers))

    def numbers_of(self, stems: Iterable[Stem]) -> Int64Array:
        """The number of each stem, int64, shape (n,); -1 where the dictionary does not have it."""
        return np.array([self._numbers.get(stem, -1) for stem in stems], dtype=np.int64)

    def parse(self, rows: Iterable[tuple[int, str, str]], ids: Int64Array, *, known: bool = False) -> StemCounts:
        """Count the stems of texts given as (id, language, tsvector as text), whose ids are in ``ids``, ascending.

        With ``known`` stems that the dictionary does not have are left out; otherwise they get the next numbers.
        """
        owners, texts, stems, counts = list[int](), array("i"), array("i"), array("B")
        numbers = self._numbers
        for owner, language, words in rows:
            found = 0
            for lexeme, positions in _LEXEME.findall(words):
                stem = (language, lexeme.replace("''", "'").replace("\\\\", "\\"))
                number = numbers.get(stem, -1) if known else numbers.setdefault(stem, len(numbers))
                if number >= 0:
                    stems.append(number)
                    counts.append(min(positions.count(",") + 1, 255))
                    found += 1
            owners.append(owner)
            texts.append(found)
        place = np.searchsorted(ids, np.array(owners, dtype=np.int64)).astype(np.int32)
        # Views, because there are 60 entries for a chunk.
        sizes, numbered = (
            np.frombuffer(values, np.int32) if values else np.empty(0, np.int32) for values in (texts, stems)
        )
        return StemCounts(
            np.repeat(place, sizes), numbered, np.frombuffer(counts, np.uint8) if counts else np.empty(0, np.uint8)
        )


class LexiconRepository(Repository):
    """Lexicons of generations."""

    def chunk_stems(self, dictionary: StemDictionary, chunk_ids: Int64Array, *, known: bool = False) -> StemCounts:
        """Stems of some live chunks, int64, shape (n,), ascending; new ones join the dictionary, unless ``known``."""
        query = (
            "SELECT c.chunk_id, d.language, c.words::text FROM heal.chunk c JOIN heal.document d USING (document_id) "
            "WHERE c.chunk_id = ANY (%s)"
        )
        return dictionary.parse(stream(self._conn, query, (chunk_ids.tolist(),)), chunk_ids, known=known)

    def question_stems(self, dictionary: StemDictionary, question_ids: Int64Array) -> StemCounts:
        """Stems of some questions, int64, shape (m,), ascending, in each language of the dictionary that it has."""
        query = (
            "SELECT q.question_id, l.language, heal.to_words(l.language, q.text)::text "
            "FROM heal.question q CROSS JOIN unnest(%s::text[]) AS l (language) WHERE q.question_id = ANY (%s)"
        )
        values = (dictionary.languages, question_ids.tolist())
        return dictionary.parse(stream(self._conn, query, values), question_ids, known=True)

    def answered(self, chunk_ids: Int64Array, *, by_people: bool) -> tuple[Int64Array, Int64Array]:
        """Questions that move some live chunks, int64, shape (n,): by people, or by a language model.

        Returns:
            int64, shape (m,), ascending, and the chunk of each, int64, shape (m,).
        """
        query = """
            SELECT q.question_id, q.chunk_id FROM heal.question q JOIN heal.chunk c USING (chunk_id)
            WHERE q.chunk_id = ANY (%s) AND c.superseded_at IS NULL AND q.dropped_by IS NULL
                AND heal.moves_rows(q.split) AND q.writer <> 'extractive' AND (q.writer = 'human') = %s ORDER BY 1"""
        rows = self._conn.execute(query, (chunk_ids.tolist(), by_people)).fetchall()
        question_ids, answers = arrays(rows, np.int64, np.int64)
        return question_ids, answers

    def asked_stems(self, question_ids: Int64Array) -> list[Stem]:
        """Stems of some questions, int64, shape (m,), in the language of the document that answers each."""
        query = """
            SELECT DISTINCT d.language, w.lexeme FROM heal.question q JOIN heal.chunk c USING (chunk_id)
                JOIN heal.document d USING (document_id), unnest(heal.to_words(d.language, q.text)) w
            WHERE q.question_id = ANY (%s) ORDER BY 1, 2"""
        return self._conn.execute(query, (question_ids.tolist(),)).fetchall()

    def write(self, generation: Generation, lexicon: StoredLexicon, chunk_ids: Int64Array) -> int:
        """Add stems to a generation's lexicon, those with a weight, and return their number.

        ``chunk_ids`` are the chunks that the stems were read from, int64, shape (n,). Stems of those that were deleted
        meanwhile are left out.
        """
        weighed, table = lexicon.vectors * lexicon.weights[:, None], generation.table("lex")
        rows = (
            (*lexicon.stems[row], int(lexicon.chunks[row]), float(lexicon.weights[row]), HalfVector(weighed[row]))
            for row in np.flatnonzero(lexicon.weights)
        )
        columns = [("language", "text"), ("stem", "text"), ("chunks", "int4"), ("weight", "float4")]
        known = "SELECT count(*) FROM heal.chunk WHERE chunk_id = ANY (%s)"
        with self._conn.transaction():
            lock_shared(self._conn)  # a deletion waits, and then finds the stems
            copy_rows(self._conn, table, [*columns, ("embedding", "halfvec")], rows)
            deleted = 0
            if scalar(self._conn, known, (chunk_ids.tolist(),)) < len(chunk_ids):
                deleted = self.delete_unused(generation)
        self._conn.execute(sql.SQL("ANALYZE {}").format(table))
        return int(np.count_nonzero(lexicon.weights)) - deleted

    def add(self, generation: Generation, lexicon: StoredLexicon, chunk_ids: Int64Array) -> int:
        """As ``write``, where chunks may have come with stems that only questions had: these are replaced."""
        query = sql.SQL(
            "DELETE FROM {} l USING unnest(%s::text[], %s::text[]) a (language, stem) "
            "WHERE l.chunks = 0 AND l.language = a.language AND l.stem = a.stem"
        ).format(generation.table("lex"))
        with self._conn.transaction():
            lock_shared(self._conn)
            self._conn.execute(query, _columns(lexicon.stems))
            return self.write(generation, lexicon, chunk_ids)

    def delete_unused(self, generation: Generation) -> int:
        """Delete the stems of a generation's lexicon that no chunk or question has any more, and return their number.

        A stem that chunks had when it was fitted goes with the last of them, whatever questions have it.
        """
        # First most stems are found in a part of the chunks, by one pass (1 s of a million chunks); then the index is
        # asked about each that is left, which lists all chunks that have it (1.7 ms).
        of_chunks = sql.SQL(
            "WITH rare AS MATERIALIZED (SELECT l.language, l.stem FROM {0} l WHERE l.chunks > 0 AND NOT EXISTS "
            "(SELECT FROM (SELECT DISTINCT w.lexeme FROM (SELECT c.words FROM heal.chunk c LIMIT 20000) c, "
            "unnest(c.words) w) s WHERE s.lexeme = l.stem)) "
            "DELETE FROM {0} l USING rare r WHERE l.language = r.language AND l.stem = r.stem "
            "AND NOT EXISTS (SELECT FROM heal.chunk c WHERE c.words @@ quote_literal(r.stem)::tsquery)"
        )
        of_questions = sql.SQL(
            "DELETE FROM {0} l WHERE l.chunks = 0 AND NOT EXISTS (SELECT FROM (SELECT DISTINCT d.language, w.lexeme "
            "FROM heal.question q JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id), "
            "unnest(heal.to_words(d.language, q.text)) w "
            "WHERE q.writer <> 'extractive' AND EXISTS (SELECT FROM {0} o WHERE o.chunks = 0)) a "
            "WHERE a.language = l.language AND a.lexeme = l.stem)"
        )
        table = generation.table("lex")
        # By statistics older than the stems of questions each is compared with all: 20,000 took more than 100 s.
        self._conn.execute(sql.SQL("ANALYZE {}").format(table))
        return sum(self._conn.execute(query.format(table)).rowcount for query in (of_chunks, of_questions))

    def load(self, generation: Generation, among: Sequence[Stem] | None = None) -> StoredLexicon:
        """The stems of a generation's lexicon, all or those ``among`` given ones, by language and stem."""
        query = sql.SQL("SELECT l.language, l.stem, l.chunks, l.weight, l.embedding FROM {} l {} ORDER BY 1, 2")
        limit = sql.SQL(
            "" if among is None else "JOIN unnest(%s::text[], %s::text[]) a (language, stem) USING (language, stem)"
        )
        values = () if among is None else _columns(among)
        rows = self._conn.execute(query.format(generation.table("lex"), limit), values).fetchall()
        weights = np.array([row[3] for row in rows], dtype=np.float32)
        weighed = np.array([row[4].to_numpy() for row in rows], dtype=np.float32).reshape(len(rows), generation.dims)
        return StoredLexicon(
            [(row[0], row[1]) for row in rows],
            np.array([row[2] for row in rows], dtype=np.int64),
            weights,
            (weighed / np.where(weights > 0, weights, 1)[:, None]).astype(np.float32, copy=False),
        )

    @named_errors()
    def query_vectors(self, generation_id: int, dims: int, questions: Sequence[str]) -> Float32Array:
        """Unit vectors of n questions by a generation's lexicon, float32, shape (n, d); zero without a known stem.

        Raises:
            NotSearchable: the generation is neither active nor previous.
        """
        rows = self._conn.execute(
            "SELECT heal.query_vector(q.text, %s::bigint) FROM unnest(%s::text[]) WITH ORDINALITY AS q (text, number) "
            "ORDER BY q.number",
            (generation_id, list(questions)),
        ).fetchall()
        nothing = np.zeros(dims, dtype=np.float32)
        return np.array([nothing if row[0] is None else row[0].to_numpy() for row in rows], dtype=np.float32)

    def unknown_stems(self, generation: Generation, chunk_ids: Int64Array, *, public: bool = False) -> dict[Stem, int]:
        """Stems of some chunks that a generation's lexicon has of no chunk, each with the number of live chunks.

        With ``public`` the number is of those that everybody may read.
        """
        query = sql.SQL(
            "SELECT s.language, s.stem, (SELECT count(*) FROM heal.chunk c JOIN heal.document d USING (document_id) "
            "WHERE c.words @@ quote_literal(s.stem)::tsquery AND c.superseded_at IS NULL AND d.language = s.language "
            "AND (NOT %(public)s OR d.acl IS NULL)) "
            "FROM (SELECT DISTINCT d.language, w.lexeme AS stem "
            "FROM heal.chunk c JOIN heal.document d USING (document_id), unnest(c.words) w "
            "WHERE c.chunk_id = ANY (%(chunks)s) AND c.superseded_at IS NULL "
            "AND NOT EXISTS (SELECT FROM {} l "
            "WHERE l.language = d.language AND l.stem = w.lexeme AND l.chunks > 0)) s ORDER BY 1, 2"
        ).format(generation.table("lex"))
        rows = self._conn.execute(query, {"public": public, "chunks": chunk_ids.tolist()})
        return {(language, stem): chunks for language, stem, chunks in rows if chunks}


def _columns(stems: Sequence[Stem]) -> tuple[list[str], list[str]]:
    return [language for language, _ in stems], [stem for _, stem in stems]
