"""Prose: sentences of running text are found with their exact text, and nothing else is."""

from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.questions.extractive.prose import plain, sentences

NUMPYDOC = """Compute the ``condition number`` of a matrix.

Uses :func:`~numpy.linalg.svd`
internally. Rank-deficient input gives
infinity, e.g. for zeros [1]_.

.. versionadded:: 1.2
   The directive's own text is skipped.

.. note::
   The norm must be Frobenius here.

Parameters
----------
x : (..., M, N) array_like
    The matrix whose condition number is sought is described here.

Returns
-------
c : float
    Nothing of this is prose for questions.

Notes
-----
The condition number is defined as the norm times the norm of the inverse::

    cond = norm(x) * norm(inv(x))
    This literal line is code.

* Large values mean trouble. See
  https://example.org/cond for details.

========  =======
p         norm
========  =======

Examples
--------
>>> cond(a)
This output is not prose.
"""

GOOGLE = """Opens a file for reading.

The file is closed when the reader goes away. It holds about 3.5 bytes per row.

Args:
    path: The path is never followed through links.

Returns:
    A handle that nobody asked for.

```python
Print this sentence never.
```
param : int
    Described only for the machine.
:param other: Described for the other machine.
| a | b |
Handles are reused by Dr. Smith et al. in J. R. Test. Done well!
"""


def texts(text: str) -> list[str]:
    return [sentence.text for sentence in sentences(text)]


def test_numpydoc() -> None:
    assert texts(NUMPYDOC) == [
        "Compute the condition number of a matrix.",
        "Uses svd internally.",
        "Rank-deficient input gives infinity, e.g. for zeros.",
        "The norm must be Frobenius here.",
        "The condition number is defined as the norm times the norm of the inverse::",
        "Large values mean trouble.",
        "See for details.",
    ]


def test_google_style_and_markdown() -> None:
    assert texts(GOOGLE) == [
        "Opens a file for reading.",
        "The file is closed when the reader goes away.",
        "It holds about 3.5 bytes per row.",
        "Handles are reused by Dr. Smith et al. in J. R. Test.",
        "Done well!",
    ]


def test_evidence_is_verbatim_and_flags_are_right() -> None:
    found = sentences(NUMPYDOC)
    assert all(sentence.evidence in NUMPYDOC for sentence in found)
    assert found[1].evidence == "Uses :func:`~numpy.linalg.svd`\ninternally."
    assert [sentence.first for sentence in found] == [True] + [False] * 6
    assert [sentence.complete for sentence in found] == [True] * 4 + [False] + [True] * 2


def test_a_fence_in_a_longer_one_ends_nothing() -> None:
    text = "````\n```\nThis is code.\n```\nThis is code too.\n````\nThis is prose."
    assert [sentence.text for sentence in sentences(text)] == ["This is prose."]


def test_plain_removes_markup() -> None:
    marked = (
        "A *fast* **and** `short <x.html>`_ :class:`~a.b.C` and :meth:`._orm.x.D`, <b>bold</b> [link](http://x.org/a) "
        "at http://y.org/q, 2*3*4"
    )
    assert plain(marked) == "A fast and short C and x.D, bold link at, 2*3*4"


@given(st.text(alphabet="Ab. :>`-=|*\n\t#[]_(\u00e9", max_size=300))
def test_any_text_gives_verbatim_evidence_in_order(text: str) -> None:
    position = 0
    for sentence in sentences(text):
        assert sentence.evidence
        position = text.index(sentence.evidence, position) + len(sentence.evidence)
