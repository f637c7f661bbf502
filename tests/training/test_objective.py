import dataclasses

import numpy as np
import pytest
import torch

from heal_tasks.training.config import TrainingConfig
from heal_tasks.training.data import UNKNOWN, TrainingData
from heal_tasks.training.heal_loss import heal_loss
from heal_tasks.training.objective import BaseVectors, Objective
from heal_tasks.training.ranking_losses import ABSENT, base_loss, own_document_loss
from tests.training.pairs import data


def objective(pairs: TrainingData, base_vectors: BaseVectors | None = None, **change) -> Objective:
    options = {
        "heal_weight": 0.25,
        "own_document_temperature": 0.1,
        "base_weight": 0.5,
    }
    return Objective(torch.nn.Identity(), pairs, TrainingConfig(**{**options, **change}), base_vectors)


def four_pairs() -> TrainingData:
    """Two pairs in one leaf, and two in one branch."""
    return data(
        questions=list("abcd"), documents=list("ABCD"), document_ids=np.arange(1, 5),
        labels=np.array([[0, 2], [0, 2], [1, 3], [1, -1]]), leaves=np.array([0, 0, 1, 1], np.int32),
        negatives=[[]] * 4,
    )  # fmt: skip


def test_terms_add_up_and_can_be_switched():
    torch.manual_seed(0)
    pairs, rows = four_pairs(), torch.arange(4)
    columns = [torch.randn(4, 6), torch.randn(4, 6)]
    both, paths = torch.cat(columns), torch.from_numpy(pairs.labels).repeat(2, 1)
    terms = objective(pairs).loss_of_embeddings(columns, rows)
    assert set(terms) == {"own_document", "heal"}
    expected = 0.25 * heal_loss(both, paths)
    torch.testing.assert_close(terms["heal"], expected)
    features = [{"sentence_embedding": column} for column in columns]
    called = objective(pairs)(features, rows)
    torch.testing.assert_close(called, terms)
    assert set(objective(pairs, heal_weight=0.0).loss_of_embeddings(columns, rows)) == {"own_document"}
    paper = objective(pairs, paper=True, heal_weight=0.0).loss_of_embeddings(columns, rows)
    assert set(paper) == {"heal"}
    published = heal_loss(both, paths, paper_compat=True)
    torch.testing.assert_close(paper["heal"], published)


@pytest.mark.parametrize("known_owners", [True, False])
def test_ids_leaves_and_negatives_are_those_of_the_rows(known_owners):
    torch.manual_seed(0)
    owners, leaves = np.array([[5, 6], [2**61, 8]]), np.array([[1, 2], [4, 3]], dtype=np.int32)
    pairs = data(**({"negative_document_ids": owners, "negative_leaves": leaves} if known_owners else {}))
    columns = [torch.randn(2, 6) for _ in range(4)]
    rows = torch.tensor([1, 0])
    negative_ids = torch.tensor([[2**61, ABSENT], [5, 6]] if known_owners else [[UNKNOWN, ABSENT], [UNKNOWN] * 2])
    expected = own_document_loss(
        columns[0], columns[1], torch.stack(columns[2:], dim=1), document_ids=torch.tensor([7, 2**62]),
        leaves=torch.tensor([-1, 4]), negative_document_ids=negative_ids,
        negative_leaves=torch.tensor([[4, 3], [1, 2]] if known_owners else [[-1, -1], [-1, -1]]), temperature=0.1,
        mask_same_leaf=True, known_answers=torch.zeros(2, 6, dtype=torch.bool), copies=torch.zeros(6, dtype=torch.bool),
    )  # fmt: skip
    torch.testing.assert_close(objective(pairs).loss_of_embeddings(columns, rows)["own_document"], expected)


def test_another_answer_to_the_same_question_is_no_negative():
    torch.manual_seed(0)
    # Rows 0 and 2 have one question, which documents 7 and 9 answer; document 9 is also the mined negative of row 1.
    asked = data(
        questions=["a", "b", "a"], documents=["A", "B", "C"], document_ids=np.array([7, 8, 9]),
        labels=np.full((3, 1), -1), leaves=np.full(3, -1, np.int32), negatives=[["X"], ["Z"], ["Y"]],
        negative_document_ids=np.array([[1], [9], [2]]), negative_leaves=np.full((3, 1), -1, np.int32),
        question_ids=np.array([5, 3, 5]),
    )  # fmt: skip
    columns = [torch.randn(3, 6) for _ in range(3)]
    known = torch.zeros(3, 6, dtype=torch.bool)
    known[0, [0, 2, 4]] = known[2, [0, 2, 4]] = True
    expected = own_document_loss(
        columns[0], columns[1], columns[2][:, None], document_ids=torch.tensor([7, 8, 9]),
        leaves=torch.full((3,), -1), negative_document_ids=torch.tensor([[1], [9], [2]]),
        negative_leaves=torch.full((3, 1), -1), temperature=0.1, mask_same_leaf=True, known_answers=known,
        copies=torch.zeros(6, dtype=torch.bool),
    )  # fmt: skip
    loss = objective(asked).loss_of_embeddings(columns, torch.arange(3))["own_document"]
    torch.testing.assert_close(loss, expected)
    alone = dataclasses.replace(asked, question_ids=np.arange(3))
    assert loss < objective(alone).loss_of_embeddings(columns, torch.arange(3))["own_document"]


class TinyEncoder(torch.nn.Module):
    """Vectors of bags of tokens; like the real one it writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.words, self.widest, self.texts = torch.nn.Embedding(50, 16, dtype=torch.float64), 0, 0

    def forward(self, features):
        self.texts += len(features["input_ids"])
        self.widest = max(self.widest, len(features["input_ids"]))
        features["sentence_embedding"] = torch.tanh(self.words(features.pop("input_ids"))).mean(dim=1)
        return features


def repeated(mined: int) -> tuple[TrainingData, list[torch.Tensor], np.ndarray]:
    """Eight pairs that share questions, documents and negatives, their token ids and their text ids."""
    chosen = np.stack(
        [np.random.default_rng(2).integers(low, high, 8) for low, high in ((0, 3), (3, 6), (3, 9))], axis=1
    )
    text_ids = chosen[:, : 2 + mined]
    document = text_ids[:, 1]
    owners = {"negative_document_ids": chosen[:, 2:], "negative_leaves": np.full((8, 1), -1, np.int32)} if mined else {}
    pairs = data(
        questions=[str(text) for text in chosen[:, 0]], documents=[str(text) for text in document],
        document_ids=document, labels=np.stack([document // 4, 10 + document], axis=1),
        leaves=(document // 2).astype(np.int32), negatives=[[str(text)] * mined for text in chosen[:, 2]], **owners,
    )  # fmt: skip
    tokens = torch.randint(0, 50, (9, 4))
    return pairs, [tokens[torch.from_numpy(column)] for column in text_ids.T], text_ids


def test_a_text_that_stands_twice_in_a_batch_is_encoded_once():
    torch.manual_seed(2)
    pairs, columns, text_ids = repeated(0)
    different = dataclasses.replace(pairs, questions=list("abcdefgh"), documents=list("ABCDEFGH"))
    encoded, losses, gradients = [], [], []
    # HEAL alone: it does not ask which texts are copies.
    for batch, micro in ((different, 0), (pairs, 0), (pairs, 2)):
        encoder = TinyEncoder()
        loss = objective(batch, micro_batch_size=micro, paper=True)
        loss.model = encoder
        total = loss([{"input_ids": column.clone()} for column in columns], torch.arange(8))["heal"]
        total.backward()
        encoded.append(encoder.texts)
        losses.append(total.item())
        gradients.append(encoder.words.weight.grad)
    distinct = sum(len(set(column)) for column in text_ids.T)
    assert encoded == [16, distinct, 2 * distinct]
    assert losses == pytest.approx([losses[0]] * 3)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


def test_copies_of_a_document_compete_once():
    torch.manual_seed(2)
    pairs, _, text_ids = repeated(1)
    base = BaseVectors(torch.arange(8), torch.randn(8, 16), torch.randn(8, 16))
    texts = torch.randn(9, 16)
    vectors = [texts[column] for column in torch.from_numpy(text_ids).T]
    terms = objective(pairs, base).loss_of_embeddings(vectors, torch.arange(8))
    seen: set[int] = set()
    copies = []
    for text in [*text_ids[:, 1], *text_ids[:, 2]]:
        copies.append(text in seen)
        seen.add(text)
    own = own_document_loss(
        vectors[0], vectors[1], vectors[2][:, None], document_ids=torch.from_numpy(pairs.document_ids),
        leaves=torch.from_numpy(pairs.leaves), negative_document_ids=torch.from_numpy(pairs.negative_document_ids),
        negative_leaves=torch.full((8, 1), -1), temperature=0.1, mask_same_leaf=True, copies=torch.tensor(copies),
        known_answers=torch.zeros(8, 16, dtype=torch.bool),
    )  # fmt: skip
    torch.testing.assert_close(terms["own_document"], own)
    single = [row for row in range(8) if not copies[row]]
    kept = base_loss(vectors[0], vectors[1][single], base.questions, base.documents[single], temperature=0.1)
    torch.testing.assert_close(terms["base"], 0.5 * kept)
    assert sum(copies) > 8


def test_the_base_term_finds_the_vectors_of_the_batchs_rows():
    torch.manual_seed(3)
    vectors = BaseVectors(torch.tensor([0, 1, 3]), torch.randn(3, 6), torch.randn(3, 6))
    columns = [torch.randn(2, 6), torch.randn(2, 6)]
    terms = objective(four_pairs(), vectors).loss_of_embeddings(columns, torch.tensor([3, 0]))
    before = vectors.questions[[2, 0]], vectors.documents[[2, 0]]
    torch.testing.assert_close(terms["base"], 0.5 * base_loss(*columns, *before, temperature=0.1))


@pytest.mark.parametrize(
    ("pairs", "mined", "micro", "change"),
    [
        (10, 1, 3, {}),
        (10, 0, 1, {"heal_weight": 0.0}),
        (10, 0, 4, {"paper": True}),
        (1024, 0, 64, {}),
    ],
)
def test_the_cached_form_has_the_plain_forms_terms_and_gradient(pairs, mined, micro, change):
    torch.manual_seed(6)
    leaves = np.random.default_rng(6).integers(0, 4, pairs)
    owners = {"negative_document_ids": pairs + np.arange(pairs)[:, None], "negative_leaves": np.full((pairs, 1), -1)}
    given = data(
        questions=[f"q{row}" for row in range(pairs)], documents=[f"d{row}" for row in range(pairs)],
        document_ids=np.arange(pairs), labels=np.stack([leaves // 2, leaves + 2], axis=1),
        leaves=leaves.astype(np.int32), negatives=[[f"n{row}"] * mined for row in range(pairs)],
        **(owners if mined else {}),
    )  # fmt: skip
    ids = [torch.randint(0, 50, (pairs, 4)) for _ in range(2 + mined)]
    base = BaseVectors(torch.arange(pairs), torch.randn(pairs, 8), torch.randn(pairs, 8))
    results = []
    for size in (0, micro):
        encoder = TinyEncoder()
        loss = objective(given, base, micro_batch_size=size, **change)
        loss.model = encoder
        terms = loss([{"input_ids": column.clone()} for column in ids], torch.arange(pairs))
        torch.stack(list(terms.values())).sum().backward()
        assert encoder.widest == (size or pairs)
        results.append(({name: term.item() for name, term in terms.items()}, encoder.words.weight.grad))
    (plain, plain_gradient), (cached, cached_gradient) = results
    assert cached == pytest.approx(plain, rel=1e-9)
    assert plain_gradient.abs().max() > 0
    torch.testing.assert_close(cached_gradient, plain_gradient)
