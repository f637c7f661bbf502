"""bench.quality judges a row by the encoder alone and as it is served, on judgments that no step learns from."""

import numpy as np

from bench.quality import Deployment
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.ranking import evaluate
from heal_tasks.store.db import Connection
from tests.steps.lexicon_world import DOCUMENTS, LexiconWorld


def test_a_row_is_judged_by_the_encoder_alone_and_with_its_lexicon_and_words(
    auto: Connection, settings: Settings
) -> None:
    world = LexiconWorld(auto, settings)
    world.ask_of_all("unseen_test", "human", right=0.3)
    deployment = Deployment.__new__(Deployment)
    deployment.settings, deployment.manifest = settings, Manifest(run_id="r", refs={"topic_run_id": 1})
    found = deployment.judge(settings.model)
    assert list(found) == [""]  # no question may move a row
    encoder, served = (found[""][path]["ndcg@10"] for path in ("encoder", "served"))
    systems = world.systems()
    plain = systems.plain("base model", world.space)
    answers = list(systems.chunks.rows(systems.questions.chunk_ids)[:, None])
    slow = evaluate(plain.questions, plain.chunks, answers)["ndcg@10"]
    assert len(encoder) == DOCUMENTS
    np.testing.assert_allclose(encoder, slow)
    assert served.mean() > encoder.mean() + 0.1  # questions have words of their document, and the encoder errs
