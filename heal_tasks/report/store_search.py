"""A search by text for a person: what ``heal.find`` finds, and for every hit why."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

from psycopg.errors import Diagnostic

from heal_tasks.core.errors import InputError
from heal_tasks.core.scripts import PAIRED
from heal_tasks.core.text import storable
from heal_tasks.store.db import Connection, select, storable_json
from heal_tasks.store.documents.topics import TopicRepository, TopicRow
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.search import NotSearchable, TextHit, find_by_text, named_errors

MOST_HITS = 10
_BEGIN, _END = "\x02", "\x03"


@dataclass(frozen=True)
class Query:
    """The fields of the search form, as they were sent; all but the text may be empty."""

    text: str = ""
    topic: str = ""  # its id
    filter: str = ""  # a JSON object
    language: str = ""  # text search configuration


class Stem(NamedTuple):
    """A stem of the question, as ``heal.explain_find`` counts it."""

    stem: str
    config: str
    chunks: int
    weight: float
    share: float


class Piece(NamedTuple):
    """A part of a text, marked where it has a stem of the question."""

    text: str
    marked: bool


class FoundText(NamedTuple):
    """A hit with its reasons."""

    hit: TextHit
    source: str
    similarity: float  # the part of the score that comes from the vector
    words: float  # and from the words
    stems: list[str]  # of the question, that chunk or title has
    title: list[Piece]
    text: list[Piece]


@dataclass(frozen=True)
class Answer:
    """The result of a search; ``problem`` is a sentence if there is none."""

    found: list[FoundText]
    stems: list[Stem]
    seconds: float
    problem: str = ""

    @property
    def known(self) -> list[Stem]:
        """The stems that the lexicon has, by their share of the question."""
        return [stem for stem in self.stems if stem.weight]

    @property
    def unknown(self) -> list[str]:
        """Stems that the lexicon lacks, in the languages in which others are known, or in all where none is."""
        languages = {stem.config for stem in self.known}
        missing = (stem for stem in self.stems if not stem.weight and (stem.config in languages or not languages))
        return sorted({stem.stem for stem in missing})


class Choices(NamedTuple):
    """Choices of the form: topics of the live generation in tree order, without the root; languages of documents."""

    topics: list[TopicRow]
    languages: list[str]


_LANGUAGES = """
WITH RECURSIVE used AS (
    (SELECT language FROM heal.document ORDER BY 1 LIMIT 1)
    UNION ALL
    SELECT (SELECT d.language FROM heal.document d WHERE d.language > u.language ORDER BY 1 LIMIT 1)
    FROM used u WHERE u.language IS NOT NULL
)
SELECT language FROM used WHERE language IS NOT NULL
"""

# ts_headline stems the words of a text as the chunk's own stems were made.
_REASONS = """
SELECT c.chunk_id, d.source || ': ' || d.external_id, shared.stems, t.title, t.text
FROM unnest(%(ids)s::bigint[], %(titles)s::text[]) AS h (chunk_id, title)
JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(q.stem ORDER BY q.share DESC, q.stem), '{}') AS stems,
           coalesce(string_agg(quote_literal(q.stem), ' | '), '')::tsquery AS query
    FROM unnest(%(stems)s::text[], %(configs)s::text[], %(shares)s::float8[]) AS q (stem, config, share)
    WHERE q.config = d.language AND c.words @@ quote_literal(q.stem)::tsquery
) shared
CROSS JOIN LATERAL (
    SELECT ts_headline(config, translate(h.title, %(marks)s, ''), shared.query, %(options)s) AS title,
           ts_headline(config, translate(c.text, %(marks)s, ''), shared.query, %(options)s) AS text
    FROM heal.text_config(d.language) config
) t
"""


def read_choices(conn: Connection) -> Choices:
    """Read what the form offers."""
    active = GenerationRepository(conn).active()
    topics = TopicRepository(conn).topics(active.topic_run_id) if active and active.topic_run_id else []
    return Choices([topic for topic in topics if topic.level], [row[0] for row in conn.execute(_LANGUAGES)])


def search_store(conn: Connection, query: Query) -> Answer:
    """Search the live generation as ``heal.find`` does, and explain each hit; a refusal is a sentence."""
    start, notices = perf_counter(), list[str]()

    def hear(diagnostic: Diagnostic) -> None:
        sentence = (diagnostic.message_primary or "").removeprefix("no row: ")
        notices.append(f"{sentence[:1].upper()}{sentence[1:]}.")

    conn.add_notice_handler(hear)
    try:
        language = storable(query.language) or None
        hits = find_by_text(conn, query.text, MOST_HITS, _topic(query.topic), _filter(query.filter), language)
        with named_errors():
            stems = select(conn, Stem, "FROM heal.explain_find(%s, %s::text)", (storable(query.text), language))
        found = list(_explained(conn, hits, stems))
    except (InputError, NotSearchable) as error:
        return Answer([], [], perf_counter() - start, str(error))
    finally:
        conn.remove_notice_handler(hear)
    problem = "" if found else next(iter(notices), "Nothing was found: no document passes topic and filter.")
    return Answer(found, stems, perf_counter() - start, problem)


def _topic(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\d{1,18}", text):
        raise InputError(f"the topic must be the id of a topic, got {text[:80]!r}")
    return int(text)


def _filter(text: str) -> dict[str, Any] | None:
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f'the filter must be a JSON object such as {{"language": "english"}}, got {text[:80]!r}')
    return storable_json(value)  # type: ignore[return-value]


def _explained(conn: Connection, hits: Sequence[TextHit], stems: Sequence[Stem]) -> Iterator[FoundText]:
    """Each hit with its reasons."""
    active = GenerationRepository(conn).active()
    nearest = 0.0 if active and active.metric == "inner_product" else 1.0  # similarity at distance 0
    values = {
        "ids": [hit.chunk_id for hit in hits], "titles": [hit.title for hit in hits],
        "stems": [stem.stem for stem in stems], "configs": [stem.config for stem in stems],
        "shares": [stem.share for stem in stems], "marks": _BEGIN + _END,
        "options": f"HighlightAll=true, StartSel={_BEGIN}, StopSel={_END}",
    }  # fmt: skip
    reasons = {row[0]: row[1:] for row in conn.execute(_REASONS, values)} if hits else {}
    for hit in hits:
        if hit.chunk_id not in reasons:  # deleted this moment
            continue
        source, shared, title, text = reasons[hit.chunk_id]
        similarity = nearest - hit.distance
        words = max(0.0, hit.score - similarity)
        yield FoundText(hit, source, similarity, words, shared, _pieces(title, shared), _pieces(text, shared))


def _pieces(marked: str, stems: Sequence[str]) -> list[Piece]:
    """A text in parts, by the marks of ts_headline; stems of scripts without blanks are parts of the text itself."""
    letters = [stem for stem in stems if re.search(f"[{PAIRED}]", stem)]
    inside = re.compile("|".join(map(re.escape, sorted(letters, key=len, reverse=True)))) if letters else None
    parts = re.split(f"{_BEGIN}([^{_END}]*){_END}", marked)
    pieces = list[Piece]()
    for number, part in enumerate(parts):
        if number % 2 or inside is None:
            pieces.append(Piece(part, bool(number % 2)))
            continue
        place = 0
        for match in inside.finditer(part):
            pieces += [Piece(part[place : match.start()], False), Piece(match[0], True)]
            place = match.end()
        pieces.append(Piece(part[place:], False))
    return [piece for piece in pieces if piece.text]
