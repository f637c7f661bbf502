"""Rewriting: each template on a sentence that it fits, and no result for other sentences."""

import pytest

from heal_tasks.questions.extractive.rewrite import as_claim, as_question, reduced


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("However, the enzyme (E2) strongly inhibits apoptosis.", "The enzyme inhibits apoptosis"),
        ("Here we show that vitamin D also regulates renin in mice.", "Vitamin D regulates renin in mice"),
        ("RESULTS DNA repair was impaired by the mutation.", "DNA repair was impaired by the mutation"),
        ("Results:Potentiation was abolished in mice.", "Potentiation was abolished in mice"),
        ("In knockout mice, the drug impairs insulin uptake.", "The drug impairs insulin uptake in knockout mice"),
        ("In mice, rats, and humans, it grows.", "In mice, rats, and humans, it grows"),
        ("If x is empty, otherwise y is taken instead of z.", "If x is empty, otherwise y is taken instead of z"),
        ("Although costs rose, hospitals admitted elderly patients.", "Hospitals admitted elderly patients"),
        ("The solver uses a sparse factorisation, which is faster.", "The solver uses a sparse factorisation"),
        ("Calls f(x) twice.", "Calls f(x) twice"),
    ],
)  # fmt: skip
def test_reduced(sentence: str, expected: str) -> None:
    assert reduced(sentence) == expected


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("Compute the singular values of a matrix.", "How do I compute the singular values of a matrix?"),
        ("Returns the indices of the largest eigenvalues.", "How do I get the indices of the largest eigenvalues?"),
        ("Return True if the graph is bipartite.", "How do I check whether the graph is bipartite?"),
        ("Exception raised when the solver diverges.", "Which exception is raised when the solver diverges?"),
        ("Base class for all tokenizers.", "Which base class is there for all tokenizers?"),
        ("Cisplatin is a chemotherapy drug against sarcoma.", "What is a chemotherapy drug against sarcoma?"),
        ("Malnutrition of infants was followed by rickets.", "Was malnutrition of infants followed by rickets?"),
        ("The stiffness matrix is computed using Gaussian quadrature.", "How is the stiffness matrix computed?"),
        ("Low neural input results in palsy because of lesions.", "Why does low neural input result in palsy?"),
        ("A convergence warning is emitted if the residual stagnates.", "When is a convergence warning emitted?"),
        ("Activated macrophages promote renal fibrosis.", "Do activated macrophages promote renal fibrosis?"),
    ],
)  # fmt: skip
def test_questions(sentence: str, question: str) -> None:
    assert as_question(reduced(sentence)) == question


@pytest.mark.parametrize(
    "sentence",
    [
        "It inhibits apoptosis in hepatocytes.",
        "This method computes eigenvalues of matrices.",
        "Measure of the interior angles.",
        "Given f = x + y, the polynomial is reducible.",
        "See the documentation of eigensolvers.",
        "Mice that lack insulin receptors develop diabetes.",
        "A list of the polynomials.",
        "and is then reduced by the eigensolver.",
        "Use of the eigensolver, of matrices.",
        "Five samples were taken three times.",
        "The (m,n)-tadpole = graph.",
        "Yes.",
        "",
    ],
)
def test_sentences_that_need_their_context_give_no_question(sentence: str) -> None:
    assert as_question(reduced(sentence)) is None


@pytest.mark.parametrize(
    ("sentence", "claim"),
    [
        (
            "Together, these data suggest that hepcidin (HAMP) lowers serum iron in most cases, which is rare.",
            "Hepcidin lowers serum iron in most cases.",
        ),
        (
            "In contrast, macrophage depletion worsened renal fibrosis in diabetic mice.",
            "Macrophage depletion worsened renal fibrosis in diabetic mice.",
        ),
    ],
)
def test_claims(sentence: str, claim: str) -> None:
    assert as_claim(reduced(sentence)) == claim


@pytest.mark.parametrize(
    "sentence",
    [
        "Compute the eigenvalues of a Hermitian matrix quickly.",
        "We measured renal fibrosis in diabetic mice over weeks.",
        "These mice developed renal fibrosis within weeks of birth.",
        "Overview of renal fibrosis and diabetic nephropathy in mice.",
        "It was fibrosis of the kidney in diabetic mice.",
        "Density-based spatial clustering of noisy hyperspectral applications.",
        "DBSCAN - clustering that merged hyperspectral noise in applications.",
    ],
)
def test_other_sentences_give_no_claim(sentence: str) -> None:
    assert as_claim(reduced(sentence)) is None
