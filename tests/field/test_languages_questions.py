"""Texts of every language get questions, chunks and topics, or it is said that the model does not read them."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from heal_tasks.cli.doctor import examine
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Record
from heal_tasks.questions.extractive.any_language import is_english
from heal_tasks.questions.extractive.prose import sentences
from heal_tasks.questions.extractive.writer import ExtractiveWriter
from heal_tasks.questions.filters import check_drafts
from heal_tasks.questions.writer import ChunkToAsk, Draft, Drafts
from heal_tasks.sources.chunking import chunk_text, embedding_text, token_counter
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.quality.scripts import lost_questions
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.topics.tfidf import TOKEN_PATTERN, still_words
from tests.field.texts import ENGLISH, SAMPLES

ALL = [(language, sample.text) for language, samples in SAMPLES.items() for sample in samples]
ENGLISH_WORDS = re.compile(r"\b(?:what|which|how|when|why|is|are|does|do|the)\b", re.IGNORECASE)


def write(text: str, count: int = 6) -> Drafts:
    (written,) = ExtractiveWriter(count).write([ChunkToAsk(1, "", text, "h")])
    assert written.value is not None
    return written.value


@pytest.mark.parametrize(("language", "text"), ALL)
def test_every_text_gets_keywords_and_a_claim_in_its_own_words(language: str, text: str) -> None:
    drafts = write(text)
    assert {draft.kind for draft in drafts} == {"keyword", "claim"}
    for draft in drafts:
        assert draft.evidence in text
        assert not ENGLISH_WORDS.search(draft.text)
        if draft.kind == "claim":
            assert draft.text in text
        else:
            assert all(part in text for part in draft.text.split())


@pytest.mark.parametrize(("text", "english"), [
    *((text, False) for _, text in ALL), (ENGLISH, True), ("Compute the sum.", True), ("Return n.", True),
    ("Müller cells and β-catenin of naïve mice are known.", True), ("Het water wordt niet warm.", False),
    ("La bomba se para con el agua.", False), ("Pompę należy naprawić.", False), ("", True),
])  # fmt: skip
def test_english_is_told_from_other_languages(text: str, english: bool) -> None:
    assert is_english(text) is english


@pytest.mark.parametrize(("text", "expected"), [
    ("水泵坏了。“换垫圈！”他说：好。", ["水泵坏了。", "“换垫圈！”", "他说：好。"]),
    ("Насос сломан. См. рис. 5 и прочее. Замените.", ["Насос сломан.", "См. рис. 5 и прочее.", "Замените."]),
    ("توقفت المضخة. هل الضغط منخفض؟ نعم.", ["توقفت المضخة.", "هل الضغط منخفض؟", "نعم."]),
    ("पंप बंद है। वाल्व साफ करें।", ["पंप बंद है।", "वाल्व साफ करें।"]),
    ("ტუმბო გაჩერდა. სარქველი სუფთაა.", ["ტუმბო გაჩერდა.", "სარქველი სუფთაა."]),
    ("Die Pumpe, vgl. Nr. 5, steht. Élan gut.", ["Die Pumpe, vgl. Nr. 5, steht.", "Élan gut."]),
    ("ปั๊มน้ำเสีย ช่างซ่อม", ["ปั๊มน้ำเสีย", "ช่างซ่อม"]),
    ("Remarque : la pompe doit être arrêtée avant que la vanne ne soit ouverte ou remplacée.",
     ["Remarque : la pompe doit être arrêtée avant que la vanne ne soit ouverte ou remplacée."]),
])  # fmt: skip
def test_sentences_end_where_their_script_ends_them(text: str, expected: list[str]) -> None:
    assert [sentence.evidence for sentence in sentences(text)] == expected


WRITTEN = {
    "Chinese": ("为什么水泵的压力在生产线运行几个小时以后会突然明显下降？", "水泵 压力下降 原因"),
    "Japanese": (
        "ポンプの圧力が低下する主な原因として考えられるものは何であり、どのように対処しますか？",
        "圧力低下 原因",
    ),
    "Thai": ("ช่างเทคนิคต้องทำความสะอาดวาล์วของปั๊มน้ำบ่อยแค่ไหนเมื่อแรงดันของน้ำลดลงมาก", "ทำความสะอาด วาล์ว"),
    "Arabic": ("متى يجب صيانة المضخة؟", "صيانة المضخة الضغط"),
    "Korean": ("펌프를 언제 정비해야 합니까?", "펌프 정비 압력"),
    "Hindi": ("पंप का रखरखाव कब करना चाहिए?", "पंप रखरखाव दबाव"),
    "Russian": ("Когда необходимо обслуживать насос?", "обслуживание насоса давление"),
}  # fmt: skip


@pytest.mark.parametrize("language", WRITTEN)
def test_questions_of_a_language_model_pass_the_filters(language: str) -> None:
    text = SAMPLES[language][0].text
    question, keywords = WRITTEN[language]
    evidence = sentences(text)[0].evidence
    drafts = [Draft("question", question, "a", evidence), Draft("keyword", keywords, "a", evidence)]
    assert [reason for _, reason in check_drafts(drafts, ChunkToAsk(1, "", text, "h"))] == [None, None]


def test_a_text_of_one_letter_or_of_a_page_is_no_question() -> None:
    chunk = ChunkToAsk(1, "", "水泵在压力下降时必须维护。", "h")
    drafts = [Draft("keyword", "水", "a", chunk.text), Draft("question", "水泵压力" * 25, "a", chunk.text)]
    assert [reason for _, reason in check_drafts(drafts, chunk)] == ["short", "long"]


@pytest.mark.parametrize("language", SAMPLES)
def test_chunks_fit_the_model_and_are_not_tiny(settings: Settings, language: str) -> None:
    count = token_counter(resolve_model(settings.model))
    body = " ".join(sample.text for sample in SAMPLES[language] * 60)
    chunks = [chunk.text for chunk in chunk_text("", body, count, 128)]
    assert len(chunks) > 1
    assert max(count(embedding_text("", chunk)) for chunk in chunks) <= 128
    assert min(map(len, chunks)) >= max(map(len, chunks)) / 4
    joined = "".join("".join(chunks).split())
    assert joined == "".join(body.split())
    assert not any(re.match("[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u102b-\u103e\u093e-\u094d]", chunk)
                   for chunk in chunks), "a chunk begins with a mark of the letter before"  # fmt: skip


PARTS = ("水泵", "阀门", "压力表", "电动机", "垫圈", "管道")
STATES = ("压力下降", "温度升高", "噪音很大", "流量停止", "出现泄漏")


@pytest.fixture(scope="module")
def chinese(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, Connection]]:
    """Sixty Chinese documents with topics, of an earlier version's words before, questions and vectors."""
    folder = tmp_path_factory.mktemp("var")
    settings = load_settings(
        var_dir=folder,
        database_url=module_database_url,
        topic_max_k=4,
        topic_perturbations=2,
        sources=[f"file:{folder}/in"],
        source_roots=[f"file:{folder}"],
    )
    with connect(module_database_url, autocommit=True) as conn:
        records = [
            Record(
                f"{part}{state}{hall}",
                f"维护说明{part}",
                f"{hall}车间的{part}在{state}时必须维护。技术人员每天检查{part}。",
                {},
            )
            for (part, state), hall in product(product(PARTS, STATES), ("东边", "西边"))
        ]
        documents, runs = DocumentRepository(conn), RunRepository(conn)
        documents.apply_records("s", records[1:], lambda title, body: [("", body)])
        with pytest.MonkeyPatch.context() as earlier:
            earlier.setattr("heal_tasks.topics.tfidf._words", re.compile(TOKEN_PATTERN).findall)
            runs.open_run("r0")
            load_step("label").run(settings, Manifest(run_id="r0"))
        documents.apply_records("s", records[:1], lambda title, body: [("", body)])
        runs.open_run("r1")
        for step in ("label", "ask", "embed_base"):
            load_step(step).run(settings, Manifest(run_id="r1"))
        yield settings, conn


def test_chinese_documents_get_topics_and_questions(chinese: tuple[Settings, Connection]) -> None:
    _, conn = chinese
    ((asked,),) = conn.execute("SELECT count(DISTINCT chunk_id) FROM heal.question").fetchall()
    assert asked == 60
    terms = conn.execute("SELECT unnest(terms) FROM heal.topic WHERE level = 1").fetchall()
    assert {term for (term,) in terms} & {"水泵", "阀门", "垫圈", "管道"}


def test_words_of_an_earlier_version_are_known_as_such() -> None:
    assert still_words(["pump", "水泵", "read_csv"])
    assert not still_words(["压力表在压力", "流量停止时"])
    assert not still_words([])


def test_the_run_the_plan_and_doctor_say_that_the_model_does_not_read_chinese(
    chinese: tuple[Settings, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = chinese
    said = "does not know most letters of 60 of 60 chunks (mostly Chinese script)"
    monkeypatch.setattr("heal_tasks.steps.sift.ROUND_TRIP_K", 0)
    note = load_step("sift").run(settings, Manifest(run_id="r1")).note
    assert said in note
    assert re.search(r"\d+ of \d+ questions in Chinese script were dropped by round_trip", note)
    assert note.endswith("set HEAL_MODEL to a multilingual model")
    assert any(said in finding.text for finding in examine(settings) if finding.level == "note")
    Path(settings.var_dir, "in").mkdir()
    assert any(said in line for line in make_plan(settings).lines())


def test_english_and_few_questions_are_not_named() -> None:
    assert lost_questions([("Why does the pump stop?", True)] * 9 + [("为什么", True)] * 4) == []
    assert lost_questions([("为什么", True)] * 4 + [("为什么", False)] * 5) == []
    assert len(lost_questions([("为什么", True)] * 5 + [("насос", True)] * 6)) == 2
