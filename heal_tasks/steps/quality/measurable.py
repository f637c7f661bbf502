"""Says why a run cannot measure quality: which step gave nothing, and what to do."""

from heal_tasks.core.settings import Settings
from heal_tasks.steps.quality.scoring import HUMAN, SEEN, UNSEEN
from heal_tasks.store.questions.question_counts import QuestionCounts

_SHOWN = 3


def held_out_counts(counts: QuestionCounts) -> dict[str, int]:
    """Numbers of held-out questions by the question sets of the gate."""
    return {
        UNSEEN: counts.generated.get("unseen_test", 0),
        SEEN: counts.generated.get("seen_test", 0),
        HUMAN: counts.human.get("unseen_test", 0) + counts.human.get("seen_test", 0),
    }


def why_unmeasured(counts: QuestionCounts, settings: Settings) -> str:
    """The reason why the gate cannot judge, with the cure; empty if it can."""
    held_out, least = held_out_counts(counts), settings.gate_min_questions
    if max(held_out.values()) >= least:
        return ""
    if not counts.documents:
        return f"there are no documents; HEAL_SOURCES names {' '.join(settings.sources)}"
    if not counts.chunks:
        return f"the {counts.documents} documents have no text that could be cut into chunks"
    if not counts.questions and not counts.asked:
        return f"there are no questions about the {counts.chunks} chunks yet; heal.question_state shows why"
    if not counts.questions and not counts.dropped:
        return f"0 questions from {counts.asked} chunks; {_writer_cure(settings)}"
    if not counts.questions:
        filters = f" ({', '.join(counts.dropped_by[:_SHOWN])})" if counts.dropped_by else ""
        return (
            f"all {counts.dropped} questions about {counts.asked} chunks were dropped by filters{filters}; "
            f"heal.question_dropped has samples. Loosen HEAL_QUESTION_FILTERS, or {_writer_cure(settings)}"
        )
    sets = ", ".join(f"{number} of {name}" for name, number in held_out.items())
    return (
        f"of {counts.questions} questions too few are held out: {sets}; one set needs HEAL_GATE_MIN_QUESTIONS={least}. "
        "Add documents, raise HEAL_QUESTIONS_PER_CHUNK, import judgments, or lower HEAL_GATE_MIN_QUESTIONS"
    )


def _writer_cure(settings: Settings) -> str:
    if settings.llm_configured:
        return f"see what {settings.llm_model} replied in heal.llm_call, or import judgments"
    return (
        "the extractive writer found none in these texts: set HEAL_LLM_BASE_URL or HEAL_LLM_API_KEY to have a language "
        "model write them, or import judgments"
    )
