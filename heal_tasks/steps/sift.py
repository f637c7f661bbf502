"""Step sift: drops questions that lead away from their chunk, by the vectors of the base model.

Round trip: a question by which the model does not find its chunk among its first K is more often about nothing, or
about everything, than merely hard. A cross-encoder may judge the rest. What moves rows is sifted: training questions,
and those of validation, which first choose how far. Test questions are not: they judge the models, and a set chosen by
what one of them finds would favour that one.

The nudge route does not come by here: a place among all chunks costs a look at all of them. Its questions wait for the
next realignment.
"""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from heal_tasks.core.batches import batched
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import ROUND_TRIP
from heal_tasks.evaluation.ranking import ranks_of
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.nudge import MOVING
from heal_tasks.steps.vectors.spaces import baseline, in_order
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generation import Generation
from heal_tasks.store.generations.vectors import VectorRepository
from heal_tasks.store.questions.checks import Check, CheckRepository, DroppedBy

if TYPE_CHECKING:
    from heal_tasks.questions.cross_encoder import CrossEncoderJudge

STORE_EVERY = 512


def sift(context: Context) -> Outcome:
    """Check all questions of training and validation, and mark those that are dropped and those that are so no longer.

    Args:
        context: of the step.

    Returns:
        Counts ``checked``, of these ``checked_validation``, and of the filters that are switched on
        ``dropped_round_trip``, ``dropped_cross_encoder``.
    """
    settings, checks = context.settings, CheckRepository(context.conn)
    training, validation = checks.questions("train"), checks.questions(*(name for name in MOVING if name != "train"))
    found = _ranked(context, baseline(context), [*training, *validation])
    switched_on: dict[DroppedBy, bool] = {
        "round_trip": ROUND_TRIP in settings.question_filters, "cross_encoder": bool(settings.cross_encoder),
    }  # fmt: skip
    dropped: Counter[DroppedBy] = Counter({name: 0 for name, on in switched_on.items() if on})
    second, done = _SecondOpinion(context), 0
    for batch in batched(found, STORE_EVERY):
        judged = second.judge(batch) if settings.cross_encoder else batch
        checks.store(context.run_id, judged)
        dropped.update(item.dropped_by for item in judged if item.dropped_by)
        done += len(batch)
        context.progress(done, len(found))
    counts: dict[str, int | float] = {f"dropped_{name}": number for name, number in dropped.items()}
    parts = [f"{len(training)} training and {len(validation)} validation questions checked"]
    parts += [f"{number} dropped by {name}" for name, number in dropped.items()]
    counts |= {"checked": len(found), "checked_validation": len(validation)}
    return Outcome(counts=counts, note=", ".join(parts))


def _ranked(context: Context, generation: Generation, questions: list[Check]) -> list[Check]:
    """The questions with the ranks of their chunks, those beyond K dropped and all others in use."""
    if not questions:
        return []
    settings, vectors = context.settings, VectorRepository(context.conn)
    chunks = Corpus(context.conn).chunks(None)
    ranks = ranks_of(
        in_order(np.array([item.question_id for item in questions]), *vectors.load_questions(generation)),
        in_order(chunks.chunk_ids, *vectors.load_base(generation)),
        chunks.rows(np.array([item.chunk_id for item in questions])),
    )
    most = settings.round_trip_k if ROUND_TRIP in settings.question_filters else len(chunks.chunk_ids)
    return [
        item._replace(round_trip_rank=rank, dropped_by="round_trip" if rank > most else None)
        for item, rank in zip(questions, ranks.tolist(), strict=True)
    ]


class _SecondOpinion:
    """The cross-encoder over what is still in use; loaded for the first question without its score."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._model: CrossEncoderJudge | None = None

    def judge(self, questions: list[Check]) -> list[Check]:
        """The questions with scores, those below the least score dropped."""
        settings = self._context.settings
        unscored = [item for item in questions if not item.dropped_by and item.cross_encoder != settings.cross_encoder]
        scores = dict(zip((item.question_id for item in unscored), self._scores(unscored), strict=True))

        def verdict(item: Check) -> Check:
            if item.question_id in scores:
                item = item._replace(cross_encoder=settings.cross_encoder, cross_encoder_score=scores[item.question_id])
            low = (item.cross_encoder_score or 0.0) < settings.cross_encoder_min_score
            return item._replace(dropped_by="cross_encoder") if low and not item.dropped_by else item

        return [verdict(item) for item in questions]

    def _scores(self, questions: list[Check]) -> list[float]:
        if not questions:
            return []
        corpus = Corpus(self._context.conn)
        asked = corpus.question_texts(np.array([item.question_id for item in questions]))
        texts = corpus.chunk_texts(np.array([item.chunk_id for item in questions]))
        return self._loaded().scores(
            [(asked[item.question_id], embedding_text(*texts[item.chunk_id])) for item in questions]
        )

    def _loaded(self) -> "CrossEncoderJudge":
        if self._model is None:
            from heal_tasks.questions.cross_encoder import CrossEncoderJudge

            settings = self._context.settings
            self._model = CrossEncoderJudge(
                resolve_model(settings.cross_encoder, "HEAL_CROSS_ENCODER"), device=settings.device
            )
        return self._model


SIFT = Step("sift", sift, None)
