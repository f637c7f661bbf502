from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.core.errors import InputError
from heal_tasks.training.sampler import QuestionBatchSampler


@st.composite
def corpora(draw):
    """Answers of questions in leaves, in any order; without leaves as well."""
    answers = draw(st.lists(st.integers(1, 3), min_size=1, max_size=60))
    rows = np.array(draw(st.permutations([question for question, n in enumerate(answers) for _ in range(n)])))
    leaves = np.array(draw(st.lists(st.integers(-1, 6), min_size=len(rows), max_size=len(rows))))
    return rows * 1_000_003 + 7, draw(st.sampled_from([leaves, None]))


@settings(max_examples=150)
@given(corpora(), st.integers(1, 20), st.integers(0, 5), st.integers(0, 9))
def test_every_batch_is_full_and_no_question_comes_twice_in_an_epoch(corpus, batch_size, seed, epoch):
    question_ids, leaves = corpus
    sampler = QuestionBatchSampler(question_ids, leaves, batch_size, seed=seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    questions = len(set(question_ids))
    assert len(batches) == len(sampler) == max(1, questions // min(batch_size, questions))
    assert {len(batch) for batch in batches} == {min(batch_size, questions)}
    assert max(Counter(question_ids[row] for batch in batches for row in batch).values()) == 1
    assert list(sampler) == batches


@settings(max_examples=60)
@given(corpora(), st.integers(0, 5))
def test_all_answers_of_a_question_take_turns(corpus, seed):
    question_ids, leaves = corpus
    sampler = QuestionBatchSampler(question_ids, leaves, 10**6, seed=seed)
    seen = set()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        seen |= {row for batch in sampler for row in batch}
    assert seen == set(range(len(question_ids)))


def batches_of(leaves: np.ndarray, batch_size: int, epochs: int) -> list[Counter]:
    """Questions per leaf in each batch of some epochs."""
    sampler, found = QuestionBatchSampler(np.arange(len(leaves)), leaves, batch_size, seed=3), []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found += [Counter(leaves[row] for row in batch) for batch in sampler]
    return found


def test_questions_of_a_leaf_are_grouped():
    leaves = np.repeat(np.arange(60), 8)
    # Only at the two ends of a batch a group may be cut.
    assert all(sum(size == 1 for size in sizes.values()) <= 2 for sizes in batches_of(leaves, 32, 3))
    shuffled = np.random.default_rng(0).permutation(leaves)[:32]
    assert sum(size == 1 for size in Counter(shuffled).values()) > 10


def test_a_large_leaf_is_in_every_batch_and_fills_none():
    leaves = np.repeat(np.arange(9), [96, 12, 12, 12, 12, 12, 12, 12, 12])
    assert all(8 <= sizes[0] <= 24 and len(sizes) >= 3 for sizes in batches_of(leaves, 32, 5))


def test_epochs_and_seeds_differ_and_nothing_else_decides():
    ids, leaves = np.arange(64), np.arange(64) // 8

    def batches(seed: int, epoch: int) -> list[list[int]]:
        sampler = QuestionBatchSampler(ids, leaves, 16, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 0) == batches(1, 0)
    assert batches(1, 0) != batches(1, 1)
    assert batches(1, 0) != batches(2, 0)


def test_an_empty_batch_is_refused():
    with pytest.raises(InputError, match="batch size 0"):
        QuestionBatchSampler(np.arange(3), np.arange(3), 0, seed=0)


@settings(max_examples=40)
@given(corpora(), st.integers(1, 20), st.integers(1, 12))
def test_rows_of_the_first_batches(corpus, batch_size, batches):
    sampler = QuestionBatchSampler(*corpus, batch_size, seed=3)
    met: list[list[int]] = []
    epoch = 0
    while len(met) < batches:
        sampler.set_epoch(epoch)
        met += list(sampler)
        epoch += 1
    sampler.set_epoch(1)
    assert sampler.rows_of_first(batches).tolist() == sorted({row for batch in met[:batches] for row in batch})
    assert sampler.epoch == 1
