import pytest
import torch

from heal_tasks.training.data import UNKNOWN
from heal_tasks.training.ranking_losses import ABSENT, base_loss, own_document_loss


def slow_own_document_loss(
    questions,
    documents,
    negatives,
    ids,
    leaves,
    negative_ids,
    negative_leaves,
    mask_same_leaf,
    known,
    copies,
):
    """Cross entropy of the own document, candidate by candidate, temperature 0.1."""

    def cosine(a, b):
        return float(a @ b / a.norm() / b.norm())

    losses = []
    for i in range(len(questions)):
        own = cosine(questions[i], documents[i]) / 0.1
        logits = [own]
        for j in range(len(questions)):
            same_leaf = mask_same_leaf and leaves[i] >= 0 and leaves[j] == leaves[i]
            if j != i and ids[j] != ids[i] and not same_leaf and not known[i, j] and not copies[j]:
                logits.append(cosine(questions[i], documents[j]) / 0.1)
            for k in range(negatives.shape[1]):
                owner, leaf = int(negative_ids[j, k]), negative_leaves[j, k]
                same_leaf = mask_same_leaf and leaves[i] >= 0 and leaf == leaves[i]
                place = len(questions) + j * negatives.shape[1] + k
                foreign = (
                    owner not in (UNKNOWN, int(ids[i])) and not same_leaf and not known[i, place] and not copies[place]
                )
                if owner != ABSENT and ((j == i and not same_leaf) or foreign):
                    logits.append(cosine(questions[i], negatives[j, k]) / 0.1)
        total = float(torch.logsumexp(torch.tensor(logits, dtype=torch.float64), dim=0))
        losses.append(total - own)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("mask_same_leaf", [True, False])
@pytest.mark.parametrize("mined", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_own_document_term_candidate_by_candidate(seed, mined, mask_same_leaf):
    torch.manual_seed(seed)
    questions, documents = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    negatives = torch.randn(7, mined, 5, dtype=torch.float64)
    ids, leaves = torch.randint(0, 5, (7,)), torch.randint(-1, 3, (7,))
    negative_ids, negative_leaves = torch.randint(-2, 6, (7, mined)), torch.randint(-1, 3, (7, mined))
    known, copies = torch.rand(7, 7 + 7 * mined) < 0.2, torch.rand(7 + 7 * mined) < 0.2
    loss = own_document_loss(
        questions, documents, negatives, document_ids=ids, leaves=leaves, negative_document_ids=negative_ids,
        negative_leaves=negative_leaves, temperature=0.1, mask_same_leaf=mask_same_leaf, known_answers=known,
        copies=copies,
    )  # fmt: skip
    expected = slow_own_document_loss(
        questions, documents, negatives, ids, leaves, negative_ids, negative_leaves, mask_same_leaf, known, copies,
    )  # fmt: skip
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_with_everything_masked_the_loss_is_zero_and_gradients_are_finite():
    questions = torch.randn(4, 3, requires_grad=True)
    loss = own_document_loss(
        questions, torch.randn(4, 3), torch.randn(4, 0, 3), document_ids=torch.arange(4),
        leaves=torch.zeros(4, dtype=torch.int64), negative_document_ids=torch.zeros(4, 0, dtype=torch.int64),
        negative_leaves=torch.zeros(4, 0, dtype=torch.int64), temperature=0.05, mask_same_leaf=True,
        known_answers=torch.zeros(4, 4, dtype=torch.bool), copies=torch.zeros(4, dtype=torch.bool),
    )  # fmt: skip
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(questions.grad).all()


def test_the_base_term_is_the_mean_divergence_of_each_questions_ranking():
    torch.manual_seed(4)
    questions, documents, before, beside = (torch.randn(6, 5, dtype=torch.float64) for _ in range(4))
    expected = 0.0
    for question, base_question in zip(questions, before, strict=True):
        moved = torch.softmax(torch.cosine_similarity(question[None], documents) / 0.1, dim=0)
        base = torch.softmax(torch.cosine_similarity(base_question[None], beside) / 0.1, dim=0)
        expected += float((base * (base / moved).log()).sum()) / 6
    loss = base_loss(questions, documents, before, beside, temperature=0.1)
    assert loss.item() == pytest.approx(expected)
    # Vectors turned all together rank as before.
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert base_loss(before @ turn, beside @ turn, before, beside, temperature=0.1).item() == pytest.approx(
        0, abs=1e-12
    )
