"""heal.find against a slow search of every chunk, and against the search in memory that chooses its weights."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from heal_tasks.core.ids import document_id
from heal_tasks.core.types import Record
from heal_tasks.evaluation.ranking import top_k
from heal_tasks.lexicon.lexicon import Lexicon
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.lexicon.search import LexicalSearch, Words
from heal_tasks.lexicon.terms import count_stems
from heal_tasks.store.db import connect
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.topics import Labels, TopicRepository, TopicRow
from heal_tasks.store.generations.generations import Generation, IndexKind
from heal_tasks.store.generations.lexicon import StemDictionary
from heal_tasks.store.generations.served import Served
from tests.store.sample_store import SOURCE, SampleStore

DOCUMENTS, VOCABULARY, WIDTH, LEAVES = 400, 150, 16, 4
CURVE = {"text": {"scores": [0.3, 0.6, 0.8], "shares": [0.1, 0.5, 0.9]}}
Filters = dict[str, object]


def made_of(rng: np.random.Generator, length: int) -> list[str]:
    """Words with a Zipf law, which PostgreSQL leaves as they are; the last ones are in few documents."""
    share = 1 / np.arange(1, VOCABULARY + 1)
    return [f"w{number}" for number in rng.choice(VOCABULARY, size=length, p=share / share.sum())]


class World:
    """Documents of one chunk each, in four topics and two colours; every tenth is a duplicate of the other colour."""

    def __init__(self, store: SampleStore) -> None:
        self.store = store
        rng = np.random.default_rng(3)
        bodies = [" ".join(made_of(rng, int(rng.integers(4, 15)))) + f" n{number}" for number in range(DOCUMENTS)]
        bodies[7] = "w3 " * 300 + "w8"  # PostgreSQL keeps 255 positions
        records = [
            Record(f"d{number}", "T", body, {"colour": ["red", "blue"][number % 2]})
            for number, body in enumerate(bodies)
        ]
        copies = [
            Record(f"copy{number}", "T", bodies[number], {"colour": ["blue", "red"][number % 2]})
            for number in range(0, DOCUMENTS, 10)
        ]
        for loaded in (records, copies):
            store.documents.apply_records(SOURCE, loaded, lambda title, body: [("", body)])
        self.space = store.space(dims=WIDTH)
        self.run = self._insert_topics()
        chunks = Corpus(store.conn).chunks(self.run)
        names = {document_id(SOURCE, f"d{number}"): number for number in range(DOCUMENTS)}
        self.numbers = np.array([names[int(document)] for document in chunks.document_ids])
        self.ids, self.leaves = chunks.chunk_ids, chunks.leaves
        self.words = [Counter(bodies[number].split()) for number in self.numbers]
        self.texts = [bodies[number] for number in self.numbers]
        self.has_copy = self.numbers % 10 == 0

    def _insert_topics(self) -> int:
        ids = np.array([document_id(SOURCE, f"d{number}") for number in range(DOCUMENTS)], dtype=np.int64)
        leaves = np.arange(DOCUMENTS, dtype=np.int32) // 3 % LEAVES
        flat = np.zeros(DOCUMENTS, dtype=np.float32)
        tree = [TopicRow(1, None, 0, 0, LEAVES - 1, ["all"], LEAVES, None, DOCUMENTS)]
        tree += [TopicRow(10 + leaf, 1, 1, leaf, leaf, ["leaf"], 0, None, 100) for leaf in range(LEAVES)]
        tree += [TopicRow(20, 1, 1, 1, 2, ["two leaves"], 2, None, 200)]
        return TopicRepository(self.store.conn).insert_run(
            fingerprint="f", uri="/t", churn=None, mean_residual=0.1, topics=tree,
            labels=Labels(ids, leaves, [[10 + int(leaf)] for leaf in leaves], flat, flat),
        )  # fmt: skip

    def serve(self, metric: str, indexed: bool) -> Generation:
        """Publish a generation; with inner products its vectors have lengths between a half and two."""
        made = self.store.generations.create(
            run_id="r",
            space=self.space,
            topic_run_id=self.run,
            metric=metric,
            lexicon=None,  # type: ignore[arg-type]
        )
        self.store.generations.create_tables(made)
        served = self.store.wanted(made)
        if metric == "inner_product":
            lengths = np.random.default_rng(4).uniform(0.5, 2, size=(len(self.ids), 1)).astype(np.float32)
            served = Served(served.chunk_ids, served.document_ids, served.leaves, served.vectors * lengths)
        self.store.generations.set_fields(made.generation_id, ef_search=1000)
        kind: IndexKind = "vector" if indexed else "none"
        self.lexicon = self.store.publish(made, served, kind, words_weight=0.3, relevance=CURVE)
        self.vectors = served.vectors
        return self.store.generations.get(made.generation_id)

    def passing(self, filters: Filters) -> NDArray[np.bool_]:
        """The chunks that a topic and a filter leave."""
        passes = np.ones(len(self.ids), dtype=bool)
        if "topic" in filters:
            first, last = {20: (1, 2)}.get(int(str(filters["topic"])), (int(str(filters["topic"])) - 10,) * 2)
            passes &= (self.leaves >= first) & (self.leaves <= last)
        if "filter" in filters:
            colour = filters["filter"].obj["colour"]  # type: ignore[attr-defined]
            passes &= self.has_copy | (self.numbers % 2 == ["red", "blue"].index(colour))
        return passes

    def expected(self, question: str, k: int, filters: Filters) -> list[tuple[int, float, float]]:
        """Chunk ids with score and similarity, from the definitions: every chunk is compared."""
        n, passes = len(self.ids), self.passing(filters)
        rows = {stem: row for row, (_, stem) in enumerate(self.lexicon.stems)}
        asked = sorted({word for word in question.split() if word in rows})
        having = {word: np.array([words[word] > 0 for words in self.words]) for word in asked}
        weight = {word: np.log(1 + n / having[word].sum()) for word in asked}
        total = sum(
            (self.lexicon.vectors[rows[word]] * weight[word]).astype(np.float16).astype(float) for word in asked
        )
        similarity = self.vectors @ (total / np.linalg.norm(total))
        near = [row for row in np.argsort(-similarity) if passes[row]][: max(20, 2 * k)]
        candidates, known = set(near), 0
        for word in sorted(asked, key=lambda word: (having[word].sum(), word)):
            known += having[word].sum()
            if known <= 20:
                candidates |= set(np.flatnonzero(having[word] & passes))
        shared = {
            row: sum(
                weight[word] * sum(1 / place**2 for place in range(1, min(self.words[row][word], 255) + 1))
                for word in asked
            )
            for row in candidates
        }
        score = {row: similarity[row] + 0.3 * shared[row] / (max(shared.values()) or 1) for row in candidates}
        best = sorted(score, key=lambda row: (-score[row], self.ids[row]))[:k]
        return [(int(self.ids[row]), float(score[row]), float(similarity[row])) for row in best]

    def find(self, question: str, k: int, filters: Filters) -> list[tuple]:
        extra = "".join(f", {name} => %({name})s" for name in filters)
        statement = f"SELECT chunk_id, score, distance, relevance FROM heal.find(%(question)s, %(k)s::int{extra})"
        return self.store.conn.execute(statement, {"question": question, "k": k, **filters}).fetchall()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world(module_database_url: str) -> Iterator[World]:
    with connect(module_database_url, autocommit=True) as conn:
        yield World(SampleStore(conn))


def questions(count: int, seed: int) -> list[str]:
    """Questions of words that documents have, of rare ones too, and of some that no document has."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        words = made_of(rng, int(rng.integers(1, 8)))
        words += [f"w{rng.integers(VOCABULARY)}", f"n{rng.integers(DOCUMENTS)}"][: number % 3]
        made.append(" ".join([*words, *["unheardof"] * (number % 5 == 0)]))
    return made


def check(world: World, question: str, k: int, filters: Filters, one: float) -> None:
    found, expected = world.find(question, k, filters), world.expected(question, k, filters)
    assert [row[0] for row in found] == [row[0] for row in expected], (question, found, expected)
    np.testing.assert_allclose([row[1] for row in found], [row[1] for row in expected], atol=1e-3)
    np.testing.assert_allclose([one - row[2] for row in found], [row[2] for row in expected], atol=1e-3)
    curve = CURVE["text"]
    shares = np.interp([row[1] for row in found], curve["scores"], curve["shares"])
    np.testing.assert_allclose([row[3] for row in found], shares, atol=1e-9)


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_it_finds_what_a_comparison_of_all_chunks_finds(world: World, metric: str, indexed: bool) -> None:
    generation = world.serve(metric, indexed)
    assert (generation.index_kind != "none") == indexed
    one = 1.0 if metric == "cosine" else 0.0
    cases: Sequence[tuple[int, Filters]] = [
        (10, {}),
        (1, {}),
        (25, {}),
        (10, {"topic": 12}),
        (5, {"topic": 20, "filter": Jsonb({"colour": "red"})}),
        (30, {"filter": Jsonb({"colour": "blue"})}),
    ]
    world.store.conn.execute("SET track_functions = 'pl'")
    for number, question in enumerate(questions(90, seed=5)):
        check(world, question, *cases[number % len(cases)], one)
    planned = "SELECT coalesce(sum(calls), 0) FROM pg_stat_xact_user_functions WHERE funcname = 'find_planned'"
    with world.store.conn.transaction():
        before = world.store.conn.execute(planned).fetchall()[0][0]
        world.find("w1 w2", 10, {})
        assert world.store.conn.execute(planned).fetchall() == [(before + indexed,)]


def test_relevance_is_flat_outside_the_curve(world: World) -> None:
    world.serve("inner_product", True)
    scores = {row[3] for question in questions(30, seed=6) for row in world.find(question, 100, {})}
    assert {0.1, 0.9} < scores, "scores lie below the first point and above the last"


def test_a_repeated_word_counts_once(world: World) -> None:
    world.serve("cosine", True)
    assert world.find("w5 w60 w5, w5! W5", 10, {}) == world.find("w60 w5", 10, {})


def test_under_a_filter_the_duplicate_that_passes_is_shown(world: World) -> None:
    world.serve("cosine", True)
    text = world.texts[int(np.flatnonzero(world.numbers == 20)[0])]
    for colour, name in (("red", "d20"), ("blue", "copy20")):
        (row,) = world.store.conn.execute(
            "SELECT document_id, text FROM heal.find('n20', 1, filter => %s)", (Jsonb({"colour": colour}),)
        ).fetchall()
        assert row == (document_id(SOURCE, name), text)
    assert world.store.conn.execute("SELECT document_id FROM heal.find('n20', 1)").fetchall() == [
        (document_id(SOURCE, "d20"),)
    ]


@pytest.mark.parametrize("indexed", [True, False])
def test_the_search_in_memory_ranks_alike(world: World, indexed: bool) -> None:
    generation = world.serve("cosine", indexed)
    stored = world.store.lexicons.load(generation)
    dictionary = StemDictionary(stored.stems)
    found = world.store.lexicons.chunk_stems(dictionary, world.ids)
    counts = count_stems(found.texts, found.stems, found.counts, (len(world.ids), len(dictionary)))
    assert len(dictionary) == len(stored.stems)
    asked = questions(300, seed=7)
    vectors = [
        (number, "english", world.store.conn.execute("SELECT to_tsvector('english', %s)::text", (text,)).fetchone()[0])  # type: ignore[index]
        for number, text in enumerate(asked)
    ]
    stems = dictionary.parse(vectors, np.arange(len(asked)), known=True)
    question_counts = count_stems(stems.texts, stems.stems, stems.counts, (len(asked), len(dictionary)))
    lexicon = Lexicon(stored.chunks, stored.weights, stored.vectors)
    search = LexicalSearch(
        LexiconRecord(words_weight=0.3),
        lexicon,
        Words.of(counts),
        question_counts,
        lexicon.question_vectors(question_counts),
    )
    near, _ = top_k(search.vectors, world.vectors, 20)
    ranked, scores = search.add_words(near, search.vectors, np.arange(len(asked)), world.vectors)
    for number, question in enumerate(asked):
        rows = world.find(question, 10, {})
        assert [row[0] for row in rows] == world.ids[ranked[number, :10]].tolist(), question
        np.testing.assert_allclose([row[1] for row in rows], scores[number, :10], atol=1e-3)
