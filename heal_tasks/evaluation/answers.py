"""Metrics of answers, which measure the retrieval that they were made from, as in HEAL (arXiv 2412.04661)."""

from heal_tasks.core.scripts import letters_or_words

ANSWERED = "answered by the language model"
"""Name of the question set."""

METRICS = ("answer_document", "answer_rouge_l", "answer_given", "answer_unsupported")
"""Share of questions whose first passage is from the right document; mean ROUGE-L to the right answer, 0 where none was
given; share of questions with an answer; share with an answer whose quotation is not in the passages."""


class _Words:
    """Tokenizer of every script: rouge-score's own drops all characters but ASCII letters and digits."""

    def tokenize(self, text: str) -> list[str]:
        return letters_or_words(text.casefold())


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, ignoring case and punctuation.

    From 0, no word in common, to 1; 0 if one text has no word.
    """
    # It loads nltk and scipy.stats, which takes over 2 s.
    from rouge_score.rouge_scorer import RougeScorer

    score = RougeScorer(["rougeL"], tokenizer=_Words()).score(reference, answer)["rougeL"]
    return float(score.fmeasure)
