"""Stems that came after a lexicon was fitted: of the chunks of a night, and of questions about them."""

import numpy as np

from heal_tasks.lexicon.lexicon import AnsweredQuestions, asked_weight, extend
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.steps.vectors.corpus_stems import lexicon_over, stem_matrix
from heal_tasks.store.arrays import Int64Array
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.lexicon import LexiconRepository, StemDictionary, StoredLexicon
from heal_tasks.store.spaces.spaces import SpaceRepository


def count_new_stems(conn: Connection, generation: Generation, chunk_ids: Int64Array) -> int:
    """The number of stems of some chunks, int64, shape (n,), that ``extend_lexicon`` would add."""
    if generation.lexicon is None:
        return 0
    public = LexiconRecord.from_json(generation.lexicon).public
    chunk_ids = Corpus(conn).public_chunks(chunk_ids) if public else chunk_ids
    return len(LexiconRepository(conn).unknown_stems(generation, chunk_ids, public=public))


def extend_lexicon(conn: Connection, generation: Generation, chunk_ids: Int64Array) -> int:
    """Add the stems of some chunks and their questions that a generation's lexicon lacks, and return their number.

    Known stems keep their vectors. The cost depends on these chunks, int64, shape (n,), alone.
    """
    if generation.lexicon is None:  # made by an older release; the next realignment makes one
        return 0
    repository, record = LexiconRepository(conn), LexiconRecord.from_json(generation.lexicon)
    if record.public:
        chunk_ids = Corpus(conn).public_chunks(chunk_ids)
    of_chunks = repository.unknown_stems(generation, chunk_ids, public=record.public)
    none = chunk_ids[:0]
    asked, answers = repository.answered(chunk_ids if record.question_weight > 0 else none, by_people=record.by_people)
    of_questions = repository.asked_stems(asked)
    if not of_chunks and not of_questions:
        return 0
    ids, targets = SpaceRepository(conn).load_chunks(SpaceRepository(conn).get(generation.space_id), chunk_ids)
    there = np.isin(answers, ids)
    asked, answers = asked[there], answers[there]
    dictionary, first = StemDictionary([*of_chunks, *of_questions]), len(of_chunks)
    chunk_stems, question_stems = repository.chunk_stems(dictionary, ids), repository.question_stems(dictionary, asked)
    lexicon = lexicon_over(dictionary, repository.load(generation, dictionary.stems))
    places = dictionary.numbers_of(of_questions)
    of_questions_alone = places[(places >= first) & (lexicon.weights[places] == 0)]
    new, size = np.concatenate([np.arange(first), of_questions_alone]), len(dictionary)
    if not len(new):
        return 0
    corpus = max(record.chunks, len(ids))
    lexicon.chunks[:first] = list(of_chunks.values())
    lexicon.weights[:first] = np.log1p(corpus / lexicon.chunks[:first])
    lexicon.weights[of_questions_alone] = asked_weight(corpus)
    questions = AnsweredQuestions(stem_matrix(question_stems, len(asked), size), targets[np.searchsorted(ids, answers)])
    extend(
        lexicon, stem_matrix(chunk_stems, len(ids), size), targets, new, ridge=record.ridge,
        questions=questions, question_weight=record.question_weight,
    )  # fmt: skip
    stems = dictionary.stems
    added = StoredLexicon(
        [stems[number] for number in new.tolist()], lexicon.chunks[new], lexicon.weights[new], lexicon.vectors[new]
    )
    return repository.add(generation, added, ids)
