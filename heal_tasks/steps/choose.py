"""Step choose: every candidate moved in memory and scored, and the gate's choice. It writes no vector.

A candidate is a space (of the base model, the live model, a trained model) with or without NUDGE, with its lexicon. The
vectors of one space are in memory at a time, so the peak does not grow with the number of candidates.
"""

from dataclasses import dataclass, replace

from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.gate import Verdict
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.nudge.plan import NudgeRecord, Plan
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.comparing import (
    compare,
    compare_for_drop,
    evaluation_rows,
    is_judged,
    mean_quality,
    rank_changes,
)
from heal_tasks.steps.quality.measurable import why_unmeasured
from heal_tasks.steps.quality.scoring import HUMAN, SEEN, UNSEEN, Scores, System, llm_wrote
from heal_tasks.steps.vectors.adopted import asked_by_clients
from heal_tasks.steps.vectors.moves import Moved
from heal_tasks.steps.vectors.spaces import BASE_MODEL, base_space, candidate_spaces
from heal_tasks.steps.vectors.systems import Systems, make_generation, record_of
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.questions.question_counts import read_question_counts
from heal_tasks.store.questions.rank_changes import write_rank_changes
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

NO_STEMS = (
    "No lexicon was fitted: the texts have no word stems, so heal.find finds nothing by text. Set HEAL_TEXT_LANGUAGE, "
    "or `language` in the documents' metadata, to the language of the texts"
)


@dataclass(frozen=True)
class Candidate:
    """A space with or without NUDGE, with its lexicon, scored and judged by the gate."""

    space: Space
    record: NudgeRecord | None
    lexicon: LexiconRecord
    scores: Scores
    verdict: Verdict


def choose(context: Context) -> Outcome:
    """Score base model, live generation and all candidates; let the gate choose.

    The rival is the live generation over today's documents, or the base model where nothing is live. The best candidate
    that passes the gate wins. Where none passes, the rival's vectors stay, and new documents join them. Clients of an
    adopted table search by vectors alone, so they are compared without lexicons there.

    Ref ``generation_id`` is the generation to publish, 0 to keep the live one as it is; ``keep_rows`` is 1 if it takes
    over the live vectors; ``live_id`` is the live one (0: none) that all were compared with; ``best_id`` and
    ``best_system`` name the winner, or else the best candidate that was refused.
    """
    settings, topic_run_id = context.settings, context.manifest.number("topic_run_id")
    GenerationRepository(context.conn).discard_unfinished(context.run_id)
    systems = Systems(context.conn, settings, topic_run_id)
    origin = base_space(context)
    rival = base = systems.score(systems.plain(BASE_MODEL, origin))
    measured = evaluation_rows(base, None, settings)
    by_vectors = bool(asked_by_clients(context.conn))
    kept_lexicon: LexiconRecord | None = None
    if systems.active:
        live = systems.live()
        rival = systems.score(live)
        measured += evaluation_rows(rival, base, settings)
        if by_vectors:
            rival = systems.score(replace(live, lexical=None))
        if live.lexical:  # its relevance by today's questions: step first_light had none
            kept_lexicon = replace(live.lexical.record, relevance=systems.relevance(live))
        del live
    counts, notes, candidates = dict[str, int | float](), list[str](), list[Candidate]()

    def consider(space: Space, plain: System, moved: Moved | None) -> System:
        system, note = systems.find_lexicon(plain, moved, learnt=space.space_id != origin.space_id)
        assert system.lexical is not None
        alone = base
        if plain.name != base.system:
            alone = systems.score(replace(plain, chunks=system.chunks))
            measured.extend(evaluation_rows(alone, rival, settings))
        scores = systems.score(system, alone)
        measured.extend(evaluation_rows(scores, rival, settings))
        lexicon = replace(system.lexical.record, relevance=systems.relevance(system))
        record, deciding = moved.record if moved else None, alone if by_vectors else scores
        candidates.append(Candidate(space, record, lexicon, deciding, compare(deciding, rival, settings)))
        notes.append(f"{plain.name}: {note}")
        return system

    plan: Plan | None = None
    for name, space in context.track(list(candidate_spaces(context).items())):
        plain = systems.plain(name, space)
        system = consider(space, plain, None)
        moved, key = systems.find_moves(system, plan), name.replace(" ", "_")
        if name == BASE_MODEL and moved.record:
            plan = moved.record.plan
        counts[f"moved_{key}"] = len(moved.rows)
        counts[f"theta_{key}"] = round(moved.record.theta, 4) if moved.record else 0.0
        notes.append(f"{name}: {moved.note}")
        if moved.record:
            consider(space, replace(plain, name=f"{name} + NUDGE"), moved)
        del plain, moved, system  # and their matrices, before the next one is loaded
    RunRepository(context.conn).record_evaluations(context.run_id, measured)

    passing = [candidate for candidate in candidates if candidate.verdict.promote]
    best, best_id = None, 0
    if is_judged(rival, settings):
        counts["questions"] = len(systems.questions.question_ids)
        counts["rival_quality"] = round(mean_quality(rival, settings), 4)
        best = max(passing or candidates, key=lambda item: mean_quality(item.scores, settings), default=None)
        if llm_wrote(systems.questions):
            preferred = _with_nudge(best if passing else None, candidates, rival, systems.active, settings)
            passing, best = ([preferred], preferred) if preferred else (passing, best)
    if best:
        best_id = make_generation(context, best.space, topic_run_id, best.record, best.lexicon).generation_id
    if passing and best:
        counts["winner_quality"] = round(mean_quality(best.scores, settings, rival), 4)
        write_rank_changes(context.conn, best_id, rank_changes(best.scores, rival, systems.questions, systems.chunks))
        generation_id, keep_rows, verdict = best_id, 0, f"{best.scores.system} is promoted over {rival.system}."
    else:
        if best_id:
            GenerationRepository(context.conn).set_state(best_id, "failed", note="refused by the gate")
        unmeasured = why_unmeasured(read_question_counts(context.conn), settings)
        generation_id, keep_rows, verdict = _without_a_winner(context, systems, candidates, kept_lexicon, unmeasured)
    # The whole reasons of the best alone: a manifest holds 4 KiB, and heal.evaluation has every interval.
    reasons = [f"{best.scores.system}: {' '.join(best.verdict.reasons)}"] if best else []
    reasons += [f"{item.scores.system}: {item.verdict.reasons[-1]}" for item in candidates if item is not best]
    return Outcome(
        refs={
            "generation_id": generation_id, "keep_rows": keep_rows, "best_id": best_id,
            "live_id": systems.active.generation_id if systems.active else 0,
            "best_system": best.scores.system if best else "", "verdict": "\n".join([verdict, *reasons]),
        },
        counts=counts,
        note="; ".join([verdict, *notes]),
        undone="" if systems.lexicons.stems.stems else NO_STEMS,
    )  # fmt: skip


def _with_nudge(
    winner: Candidate | None,
    candidates: list[Candidate],
    rival: Scores,
    active: Generation | None,
    settings: Settings,
) -> Candidate | None:
    """The candidate that adds NUDGE by a language model's questions to the winner, or to the rival without one.

    Such questions, held out, cannot show what NUDGE gains with people (``nudge.theta``), so it is taken unless a set
    shows a loss. Where the rows are moved already a tie keeps them, and where human questions decide they show gains.
    """
    before = winner.scores if winner else rival
    asked, least = {name: len(rows) for name, rows in before.documents.items()}, settings.gate_min_questions
    already = winner.record if winner else active and record_of(active)
    if already or asked.get(HUMAN, 0) >= least or max(asked.get(UNSEEN, 0), asked.get(SEEN, 0)) < least:
        return None
    served_space = winner.space.space_id if winner else active.space_id if active else candidates[0].space.space_id
    for item in candidates:
        nudged = item.space.space_id == served_space and item.record and not item.record.by_people
        if nudged and not compare_for_drop(item.scores, before, settings):
            why = (
                f"Promoted: NUDGE by a language model's questions, and no set shows a loss of more than "
                f"{settings.gate_epsilon:g} against {before.system}."
            )
            return replace(item, verdict=Verdict(True, (*item.verdict.reasons[:-1], why)))
    return None


def _without_a_winner(
    context: Context,
    systems: Systems,
    candidates: list[Candidate],
    kept_lexicon: LexiconRecord | None,
    unmeasured: str,
) -> tuple[int, int, str]:
    """Return the generation to publish all the same, 1 if it takes over the live vectors, and the verdict."""
    active, topic_run_id = systems.active, context.manifest.number("topic_run_id")

    rival = "live generation" if active else "base model"
    lost = f"No candidate beat the {rival}"
    if unmeasured:
        lost = f"Nothing could be measured: {unmeasured}. So no candidate replaces the {rival}"
    if active is None:
        verdict = f"{lost}; it becomes the first generation, without NUDGE."
        lexicon = replace(candidates[0].lexicon, lexicon_weight=0.0)  # the base model's: for search by text alone
        made = make_generation(context, base_space(context), topic_run_id, None, lexicon)
        lexicon = replace(lexicon, relevance=systems.relevance(systems.of_generation(BASE_MODEL, made)))
        GenerationRepository(context.conn).set_fields(made.generation_id, lexicon=lexicon.to_json())
        return made.generation_id, 0, verdict
    pending = Corpus(context.conn).pending(active.generation_id, None)
    hidden = context.settings.public_words and (
        not active.public_words or Corpus(context.conn).restricted_since(active.created_at)
    )
    whole = not (pending.chunks or pending.superseded or hidden)
    if active.topic_run_id and active.lexicon and whole:
        return 0, 0, f"{lost}; it stays."
    space = SpaceRepository(context.conn).get(active.space_id)
    made = make_generation(context, space, topic_run_id, record_of(active), kept_lexicon)
    joining = f"and {pending.chunks} new chunks join them" if pending.chunks else "with the topics of this run"
    return made.generation_id, 1, f"{lost}; its vectors stay, {joining}."


CHOOSE = Step("choose", choose, None)
