import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.training.heal_loss import heal_loss, level_weights


def prefix(path: list[int]) -> list[int]:
    return [label for label in path if label >= 0]


def slow_heal_loss(embeddings, labels, temperature, weights, paper_compat):
    """The specification, one pair at a time."""
    z = [row / np.linalg.norm(row) for row in embeddings.double().numpy()]
    paths = labels.tolist()
    n, levels = labels.shape
    losses: dict[tuple[int, int], float] = {}
    for i in range(n):
        for level in range(levels):
            positives, denominator = [], []
            for j in range(n):
                if j == i:
                    continue
                mine, other = paths[i][level], paths[j][level]
                if mine != -1 and other != -1:
                    denominator.append(j)
                    if mine == other:
                        positives.append(j)
                else:
                    shared = min(len(prefix(paths[i])), len(prefix(paths[j])))
                    # Truth unknown where the shorter path's end is an ancestor of the other; else a negative.
                    if prefix(paths[i])[:shared] != prefix(paths[j])[:shared]:
                        denominator.append(j)
            if positives:
                total = sum(math.exp(z[i] @ z[a] / temperature) for a in denominator)
                terms = [math.log(math.exp(z[i] @ z[p] / temperature) / total) for p in positives]
                losses[i, level] = -sum(terms) / len(positives)
    if paper_compat:
        return sum(weights[level] * loss for (_, level), loss in losses.items()) / n
    result = 0.0
    for level in range(levels):
        anchors = [i for i, used in losses if used == level]
        for i in anchors:
            scale = sum(weights[used] for anchor, used in losses if anchor == i)
            result += weights[level] / scale * losses[i, level] / len(anchors)
    return result


@st.composite
def trees(draw):
    """Embeddings with paths of varying depth in a tree whose labels are unique."""
    n, levels = draw(st.integers(2, 9)), draw(st.integers(1, 4))
    paths = []
    for _ in range(n):
        depth = draw(st.integers(0, levels))
        label, path = 1, []
        for _ in range(depth):
            label = label * 3 + draw(st.integers(0, 1))
            path.append(label)
        paths.append(path + [-1] * (levels - depth))
    seed = draw(st.integers(0, 2**31))
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)), torch.tensor(paths)


@settings(max_examples=120)
@given(trees(), st.booleans())
def test_equals_the_specification_pair_by_pair(case, paper_compat):
    embeddings, labels = case
    weights = level_weights(labels.shape[1]).tolist()
    expected = slow_heal_loss(embeddings, labels, 0.2, weights, paper_compat)
    actual = heal_loss(embeddings.double(), labels, temperature=0.2, paper_compat=paper_compat)
    assert actual.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_level_is_supervised_contrastive_learning():
    torch.manual_seed(1)
    embeddings, labels = torch.randn(10, 6, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    z = torch.nn.functional.normalize(embeddings, dim=1)
    anchors = []
    for i in range(10):
        others = torch.tensor([j for j in range(10) if j != i])
        log_probabilities = torch.log_softmax(z[i] @ z[others].T / 0.07, dim=0)
        if (labels[others] == labels[i]).any():
            anchors.append(-log_probabilities[labels[others] == labels[i]].mean())
    assert len(anchors) == 9
    torch.testing.assert_close(heal_loss(embeddings, labels[:, None]), torch.stack(anchors).mean())


@pytest.mark.parametrize(
    ("levels", "table"),
    [(1, [1.0]), (2, [0.667, 0.333]), (3, [0.571, 0.286, 0.143]), (4, [0.533, 0.267, 0.133, 0.067])],
)
def test_level_weights_of_the_published_table(levels, table):
    assert level_weights(levels).tolist() == pytest.approx(table, abs=5e-4)


@pytest.mark.parametrize("levels", range(1, 9))
def test_level_weights_sum_to_one(levels):
    assert level_weights(levels).sum().item() == pytest.approx(1)


@settings(max_examples=40)
@given(trees(), st.randoms(use_true_random=False), st.booleans())
def test_order_of_the_batch_and_names_of_labels_do_not_matter(case, random, paper_compat):
    embeddings, labels = case
    expected = heal_loss(embeddings.double(), labels, paper_compat=paper_compat)
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled = heal_loss(embeddings.double()[order], labels[order], paper_compat=paper_compat)
    torch.testing.assert_close(shuffled, expected)
    renamed = torch.where(labels >= 0, (labels * 7919) % 104_729, labels)
    torch.testing.assert_close(heal_loss(embeddings.double(), renamed, paper_compat=paper_compat), expected)


@pytest.mark.parametrize("paper_compat", [False, True])
@pytest.mark.parametrize(
    "labels",
    [
        [[0, 4], [1, 5], [2, 6], [3, 7]],  # all different
        [[-1, -1]] * 4,  # nobody has a path: nothing left in any denominator
        [[0, -1], [1, -1], [2, -1], [-1, -1]],
    ],
)
def test_without_positives_the_loss_is_zero_and_gradients_are_finite(labels, paper_compat):
    embeddings = torch.randn(4, 3, requires_grad=True)
    loss = heal_loss(embeddings, torch.tensor(labels), paper_compat=paper_compat)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(embeddings.grad, torch.zeros(4, 3))


@settings(max_examples=40)
@given(trees())
def test_a_level_that_nobody_reaches_changes_nothing(case):
    embeddings, labels = case
    longer = torch.cat([labels, torch.full((len(labels), 1), -1)], dim=1)
    torch.testing.assert_close(heal_loss(embeddings.double(), longer), heal_loss(embeddings.double(), labels))
    levels = labels.shape[1]
    scale = (level_weights(levels + 1)[0] / level_weights(levels)[0]).item()
    published = heal_loss(embeddings.double(), labels, paper_compat=True)
    with_level = heal_loss(embeddings.double(), longer, paper_compat=True)
    torch.testing.assert_close(with_level, published * scale)


def test_parting_leaf_mates_costs_more_than_parting_branch_mates():
    # Two leaves below one branch, another branch far away; all four items of the branch at the same place.
    labels = torch.tensor([[0, 2], [0, 2], [0, 3], [0, 3], [1, 4], [1, 4]])
    angles = torch.tensor([0.0, 0.0, 0.0, 0.0, 2.5, 2.5], dtype=torch.float64)

    def loss(moved: torch.Tensor) -> float:
        return heal_loss(torch.stack([moved.cos(), moved.sin()], dim=1), labels, temperature=0.5).item()

    together = loss(angles)
    leaf_mates_part = loss(angles - torch.tensor([0.5, 0, 0, 0, 0, 0]))
    leaves_part = loss(angles - torch.tensor([0.5, 0.5, 0, 0, 0, 0]))
    assert leaf_mates_part - together > leaves_part - together


@pytest.mark.parametrize("paper_compat", [False, True])
def test_gradient_against_finite_differences(paper_compat):
    torch.manual_seed(2)
    embeddings = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 2, 5], [0, 2, 5], [0, 3, -1], [0, 3, -1], [1, 4, 6], [1, -1, -1]])
    assert torch.autograd.gradcheck(lambda z: heal_loss(z, labels, paper_compat=paper_compat), embeddings)


def test_bfloat16_is_close_and_small_temperatures_do_not_overflow():
    torch.manual_seed(3)
    embeddings, labels = torch.randn(32, 16), torch.arange(32)[:, None] // torch.tensor([[16, 4]])
    labels = labels + torch.tensor([[0, 2]])
    exact = heal_loss(embeddings, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = heal_loss(embeddings.bfloat16(), labels)
        assert heal_loss(embeddings, labels).item() == exact.item()
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-2)
    small = embeddings.clone().requires_grad_()
    loss = heal_loss(small, labels, temperature=0.01)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(small.grad).all()
