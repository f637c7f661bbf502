"""Step sift: assign each human question to the nearest chunks of its document, and drop misleading questions.

Round-trip check: a question whose source chunk is not in the base model's top 100 is usually too vague to be useful,
rather than just hard. A cross-encoder may judge the rest. Only questions that move rows are checked (training and
validation): a test set chosen by one model's hits would favour that model.

Ranking requires scoring every chunk, so questions of the nudge route are checked at the next realignment.
"""

from collections import Counter
from collections.abc import Callable
from functools import cache, partial

import numpy as np

from heal_tasks.core.batches import batched
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import ROUND_TRIP
from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.ranking import ranks_of
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.scripts import lost_questions, unread_chunks
from heal_tasks.steps.vectors.spaces import base_space, in_order
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.questions.placing import place_judgments
from heal_tasks.store.questions.questions import Check, DroppedBy, QuestionRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

ROUND_TRIP_K = 100
"""Rank beyond which a question is dropped. Smaller numbers drop what the model has still to learn: of human questions
6, 15 and 7 % would go at 100 (SciFact, NFCorpus, ATT&CK), 15, 25 and 23 % at 20."""
LEAST_COMPARED, COMPARED_SHARE = 100_000, 0.1
"""Chunks that a question is compared with: a tenth of all, and so many at least. Ranks are then estimates: at rank 100
ten of the tenth are nearer; of questions with rank 60 one in fifteen is dropped, and of those with 150 one is kept."""
STORE_EVERY = 512

_Scores = Callable[[list[tuple[str, str]]], list[float]]  # of pairs of question and chunk text


def sift(context: Context) -> Outcome:
    """Assign human questions to chunks; check all training and validation questions, and mark which are dropped."""
    settings, stored, space = context.settings, QuestionRepository(context.conn), base_space(context)
    placed = place_judgments(context.conn, space)
    training, validation = stored.checkable("train"), stored.checkable("seen_validation", "unseen_validation")
    found = _ranked(context, space, [*training, *validation])
    switched_on: dict[DroppedBy, bool] = {
        "round_trip": ROUND_TRIP in settings.question_filters, "cross_encoder": bool(settings.cross_encoder),
    }  # fmt: skip
    dropped: Counter[DroppedBy] = Counter({name: 0 for name, on in switched_on.items() if on})
    judge, done = cache(partial(_cross_encoder, settings)), 0  # loaded for the first question without its score
    for batch in batched(found, STORE_EVERY):
        judged = _judged(context, judge, batch) if settings.cross_encoder else batch
        stored.store_checks(context.run_id, judged)
        dropped.update(item.dropped_by for item in judged if item.dropped_by)
        done += len(batch)
        context.progress(done, len(found))
    counts: dict[str, int | float] = {f"dropped_{name}": number for name, number in dropped.items()}
    parts = [f"{len(training)} training and {len(validation)} validation questions checked"]
    parts += [f"{number} dropped by {name}" for name, number in dropped.items()]
    parts += _unread(context, found)
    counts |= {"placed": placed, "checked": len(found), "checked_validation": len(validation)}
    gone = sum(dropped.values())
    undone = f"No generated question is in use: all {gone} were dropped ({parts[-1]})" if gone == len(found) > 0 else ""
    return Outcome(counts=counts, note=", ".join(parts), undone=undone)


def _ranked(context: Context, space: Space, questions: list[Check]) -> list[Check]:
    """The questions with the ranks of their chunks; those beyond K are dropped and all others in use."""
    if not questions:
        return []
    settings, spaces = context.settings, SpaceRepository(context.conn)
    chunks = Corpus(context.conn).chunks(None)
    number, rng = len(chunks.chunk_ids), np.random.default_rng(settings.seed)
    compared = max(LEAST_COMPARED, int(COMPARED_SHARE * number))
    ranks = ranks_of(
        in_order(np.array([item.question_id for item in questions]), *spaces.load_questions(space)),
        in_order(chunks.chunk_ids, *spaces.load_chunks(space)),
        chunks.rows(np.array([item.chunk_id for item in questions])),
        sampled=None if compared >= number else rng.choice(number, compared, replace=False),
    )
    most = ROUND_TRIP_K if ROUND_TRIP in settings.question_filters else len(chunks.chunk_ids)
    return [
        item._replace(round_trip_rank=rank, dropped_by="round_trip" if rank > most else None)
        for item, rank in zip(questions, ranks.tolist(), strict=True)
    ]


def _unread(context: Context, found: list[Check]) -> list[str]:
    """Phrases about the chunks and questions in scripts that the model does not read."""
    unread = unread_chunks(context.conn, context.settings)
    if not any(item.dropped_by == "round_trip" for item in found):
        return [unread] if unread else []
    texts = Corpus(context.conn).question_texts(np.array([item.question_id for item in found]))
    lost = lost_questions((texts[item.question_id], item.dropped_by == "round_trip") for item in found)
    return [unread, *lost] if unread else lost


def _cross_encoder(settings: Settings) -> _Scores:
    from heal_tasks.questions.cross_encoder import CrossEncoderJudge  # loads sentence-transformers

    return CrossEncoderJudge(resolve_model(settings.cross_encoder, "HEAL_CROSS_ENCODER"), device=settings.device).scores


def _judged(context: Context, judge: Callable[[], _Scores], questions: list[Check]) -> list[Check]:
    """The questions with scores, those below the least score dropped; only those in use without one are scored."""
    settings, corpus = context.settings, Corpus(context.conn)
    unscored = [item for item in questions if not item.dropped_by and item.cross_encoder != settings.cross_encoder]
    scores = dict[int, float]()
    if unscored:
        asked = corpus.question_texts(np.array([item.question_id for item in unscored]))
        texts = corpus.chunk_texts(np.array([item.chunk_id for item in unscored]))
        pairs = [(asked[item.question_id], embedding_text(*texts[item.chunk_id])) for item in unscored]
        scores = dict(zip((item.question_id for item in unscored), judge()(pairs), strict=True))

    def verdict(item: Check) -> Check:
        if item.question_id in scores:
            item = item._replace(cross_encoder=settings.cross_encoder, cross_encoder_score=scores[item.question_id])
        low = (item.cross_encoder_score or 0.0) < settings.cross_encoder_min_score
        return item._replace(dropped_by="cross_encoder") if low and not item.dropped_by else item

    return [verdict(item) for item in questions]


SIFT = Step("sift", sift, None)
