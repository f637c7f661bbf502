"""What answers say about the retrieval that they were made from, as HEAL reports it (arXiv 2412.04661)."""

import re

ANSWERED = "answered by the language model"
"""Name of the question set."""

METRICS = ("answer_document", "answer_rouge_l", "answer_given", "answer_unsupported")
"""Share of questions whose first passage is of the right document; mean ROUGE-L to the right answer, 0 where none was
given; share of questions that were answered; share with an answer whose quotation does not stand in the passages."""

_WORD = re.compile(r"\w+")


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, case and punctuation aside.

    Args:
        answer: what was answered.
        reference: the right answer.

    Returns:
        From 0, no word in common, to 1; 0 where one of them has no word.
    """
    given, right = _WORD.findall(answer.casefold()), _WORD.findall(reference.casefold())
    # longest[j]: of the words so far and the first j of the reference.
    longest = [0] * (len(right) + 1)
    for word in given:
        before = longest[:]
        for place, other in enumerate(right, 1):
            longest[place] = before[place - 1] + 1 if word == other else max(longest[place - 1], before[place])
    return 2 * longest[-1] / (len(given) + len(right)) if longest[-1] else 0.0
