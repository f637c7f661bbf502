"""The extractive writer: the same for a chunk whatever its shard, and questions with the promised properties."""

import gzip
import importlib
import inspect
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.questions.extractive.words import content_words, rarity, rarity_among, words
from heal_tasks.questions.extractive.writer import ExtractiveWriter
from heal_tasks.questions.filters import copies_title
from heal_tasks.questions.writer import Answered, ChunkToAsk, Drafts
from tests.questions.filtering import apply_filters

SCIFACT = Path(__file__).resolve().parents[3] / "shared" / "data" / "scifact" / "corpus.jsonl.gz"

ABSTRACT = """Vitamin D deficiency is common in elderly patients. However, its role in fracture healing remains unclear.
We followed 312 women for two years. Serum calcidiol predicts callus formation in postmenopausal women. Here we show
that supplementation with cholecalciferol (800 IU) reduces nonunion after tibial fractures, which lowers costs."""


def chunk(title: str, text: str, number: int = 1) -> ChunkToAsk:
    return ChunkToAsk(number, title, text, f"h{number}")


def write(asked: ChunkToAsk, questions: int = 3) -> Answered[Drafts]:
    (written,) = ExtractiveWriter(questions).write([asked])
    return written


def docstrings() -> list[ChunkToAsk]:
    """Reference documentation of real packages, as the demo has it."""
    found = []
    for package in ("scipy.linalg", "scipy.signal", "sklearn.metrics", "sklearn.cluster"):
        module = importlib.import_module(package)
        for name, thing in sorted(vars(module).items()):
            text = inspect.getdoc(thing) or ""
            if not name.startswith("_") and callable(thing) and len(text) > 200:
                found.append(chunk(f"{package}.{name}(a, b)", text[:900], len(found)))
    return found


@pytest.fixture(scope="module")
def documentation() -> list[Answered[Drafts]]:
    return list(ExtractiveWriter(3).write(docstrings()))


def test_kinds_and_texts_of_an_abstract() -> None:
    written = write(chunk("Calcidiol and bone", ABSTRACT), questions=15)
    assert {draft.kind for draft in written.value} == {"question", "keyword", "claim"}
    found = {draft.text for draft in written.value}
    assert "What reduces nonunion after tibial fractures?" in found
    assert "Supplementation with cholecalciferol reduces nonunion after tibial fractures." in found
    assert written.calls == ()
    assert written.status == "ok"


def test_depends_on_the_chunk_alone(documentation: list[Answered[Drafts]]) -> None:
    chunks = [written.chunk for written in documentation[:40]]
    together = {written.chunk.chunk_id: written.value for written in ExtractiveWriter(3).write(chunks)}
    for one in reversed(chunks):
        assert write(one).value == together[one.chunk_id]


def test_hash_changes_with_the_number_of_questions() -> None:
    assert ExtractiveWriter(3).author == ExtractiveWriter(3).author != ExtractiveWriter(2).author


def test_asks_for_fewer_gives_a_prefix(documentation: list[Answered[Drafts]]) -> None:
    for written in documentation[:20]:
        assert write(written.chunk, 1).value == written.value[:1]


def test_every_draft_passes_the_filters(documentation: list[Answered[Drafts]]) -> None:
    for written in documentation:
        kept, dropped = apply_filters(written.value, written.chunk)
        assert not dropped
        assert tuple(kept) == written.value


def test_evidence_is_verbatim_and_answers_are_there(documentation: list[Answered[Drafts]]) -> None:
    for draft, text in ((draft, written.chunk.text) for written in documentation for draft in written.value):
        assert draft.evidence in text
        assert draft.answer
        assert ">>>" not in draft.evidence


def test_documentation_gives_questions_that_do_not_name_the_answer(documentation: list[Answered[Drafts]]) -> None:
    drafts = [(written.chunk.title, draft) for written in documentation for draft in written.value]
    naming = [draft for title, draft in drafts if title.split("(")[0].casefold() in draft.text.casefold()]
    assert not naming
    last = [(title.split("(")[0].rsplit(".", 1)[-1], draft.text) for title, draft in drafts]
    technical = [text for name, text in last if "_" in name and name in words(text)]
    assert len(technical) <= 0.05 * len(drafts)
    assert not any(copies_title(draft.text, title) for title, draft in drafts)


def test_documentation_is_covered(documentation: list[Answered[Drafts]]) -> None:
    assert len(documentation) > 150
    assert sum(not written.value for written in documentation) <= 0.05 * len(documentation)
    kinds = Counter(draft.kind for written in documentation for draft in written.value)
    assert min(kinds["question"], kinds["keyword"]) >= 0.5 * len(documentation)
    assert kinds["claim"] > 0


def test_keywords_are_few_and_weighty(documentation: list[Answered[Drafts]]) -> None:
    keywords = [draft.text for written in documentation for draft in written.value if draft.kind == "keyword"]
    for text in keywords:
        assert 3 <= len(text.split()) <= 7
        assert len(set(words(text))) == len(words(text))
        assert sum(rarity(word) > 0.6 for word in content_words(text)) >= 2


def test_keywords_say_more_than_the_title() -> None:
    text = (
        "The gravitational lens magnifies distant quasars. Its caustic structure depends on dark matter substructure."
    )
    drafts = write(chunk("Gravitational lens quasars", text), 6).value
    keywords = [draft.text for draft in drafts if draft.kind == "keyword"]
    assert keywords
    for keyword in keywords:
        assert len(set(words(keyword)) - {"gravitational", "lens", "quasars"}) >= 2


def test_questions_of_a_chunk_come_from_different_sentences_first() -> None:
    drafts = write(chunk("Calcidiol and bone", ABSTRACT)).value
    assert len({draft.evidence for draft in drafts}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        ">>> svd(a)\narray([1, 2])",
        "Parameters\n----------\nx : int\n    The eigenvalue of the Hermitian matrix is computed.",
        "| eigenvalue matrix | Hermitian solver |",
        "https://example.org/eigenvalue/matrix",
        "12 34 56.",
    ],
)
def test_nothing_to_ask(text: str) -> None:
    assert write(chunk("title", text)).value == ()


@given(st.text(max_size=200), st.text(alphabet="Ab is. the()`:\n>-kernel", max_size=300))
@settings(max_examples=60)
def test_any_chunk_is_written_without_an_exception(title: str, text: str) -> None:
    asked = chunk(title, text)
    kept, dropped = apply_filters(write(asked, 10).value, asked)
    assert len(kept) <= 10
    assert not dropped


@pytest.mark.skipif(not SCIFACT.exists(), reason="the public collections are not beside this checkout")
def test_abstracts_are_covered_by_all_kinds() -> None:
    with gzip.open(SCIFACT, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, 200)]
    chunks = [chunk(row["title"], row["text"][:900], number) for number, row in enumerate(rows)]
    results = list(ExtractiveWriter(3).write(chunks))
    kinds = Counter(draft.kind for written in results for draft in written.value)
    assert sum(len(written.value) == 3 for written in results) >= 0.95 * len(results)
    assert min(kinds[kind] for kind in ("question", "keyword", "claim")) >= 0.5 * len(results)
    assert all(draft.evidence in written.chunk.text for written in results for draft in written.value)


THREAT = (
    "For the adversary, the firmware and the bootloader of a router are a refuge from the antivirus and the forensics."
)


def background() -> list[str]:
    """A hundred texts that all speak of adversaries, and of little else that the chunk speaks of."""
    return [f"An adversary may copy number{number} tokens from a mailbox." for number in range(100)]


def keywords_of(writer: ExtractiveWriter) -> list[str]:
    (written,) = writer.write([chunk("Implants", THREAT)])
    return [draft.text for draft in written.value if draft.kind == "keyword"]


def test_words_of_every_text_in_the_corpus_are_not_keywords() -> None:
    alone = keywords_of(ExtractiveWriter(9))
    among = keywords_of(ExtractiveWriter(9, background))
    assert any("adversary" in text.split() for text in alone)
    assert among
    assert not any("adversary" in text.split() for text in among)


def test_the_background_is_read_once_and_only_where_there_is_something_to_ask() -> None:
    read: list[int] = []

    def texts() -> list[str]:
        read.append(1)
        return background()

    writer = ExtractiveWriter(3, texts)
    assert list(writer.write([])) == []
    assert read == []
    for _ in range(2):
        list(writer.write([chunk("t", ABSTRACT), chunk("t", THREAT)]))
    assert read == [1]


def test_the_background_does_not_change_the_author() -> None:
    assert ExtractiveWriter(3, background).author == ExtractiveWriter(3).author


def test_rarity_among_texts_is_the_share_of_the_largest_idf() -> None:
    texts = ["copper wires"] * 60 + ["a copper wire and zinc"] * 39
    rare = rarity_among(texts)
    assert rare("coppers") == 0.0
    assert rare("zinc") == pytest.approx(math.log(100 / 40) / math.log(100))
    assert rare("wires") == rare("wire") == 0.0
    assert rare("argon") == 1.0
    assert rarity_among(texts[:49]) is rarity
