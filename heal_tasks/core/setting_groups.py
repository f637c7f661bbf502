"""The fields of ``Settings``, one class per package; ``docs/settings.md`` has a section for each, made from this file.

A class's docstring is the section's heading and its advice on the whole group. A field's description is one sentence
with the unit. A value that nobody needs to change is a constant in the module that uses it, with its reason.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import NoDecode

PACKAGED_MODEL = "all-MiniLM-L6-v2"
QuestionFilter = Literal["short", "long", "dangling", "title", "evidence", "duplicate", "near_duplicate", "round_trip"]
QUESTION_FILTERS: tuple[QuestionFilter, ...] = get_args(QuestionFilter)
Objective = Literal["answers", "topics", "paper"]
ROUND_TRIP: QuestionFilter = "round_trip"
"""The one filter that needs vectors, and so runs in a later step than the others."""

# fmt: off
# One argument per line would make this file twice as long.


class CoreSettings(BaseModel):
    """Locations and basics.

    The state folder must be on a disk that survives a restart. PostgreSQL must be 15 or newer, pgvector 0.8.5 or newer.
    With more than one machine `HEAL_ARTIFACTS_URI` must be S3: a model trained on one machine is read on the others.
    """

    var_dir: Path = Field(Path("var"),
        description="Folder of all local state: embedded database, inbox, artifacts, logs, checkpoints.")
    database_url: SecretStr | None = Field(None,
        description="`postgresql://` URL of the vector database, which its user must own; unset: the embedded server.")
    artifacts_uri: str = Field("",
        description="Folder or `s3://bucket/prefix` of models, topic trees and reports; unset: in the state folder.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO",
        description="Lowest level of the log on the command line; Airflow's tasks follow Airflow's own setting.")
    device: str = Field("auto", description="Device: `auto` (the first GPU, if any), `cpu`, `cuda` or `cuda:N`.")
    seed: int = Field(13, ge=0, lt=2**32, description="Seed of all random choices; another one gives another model.")
    corpus: str = Field("", description="Name of a corpus: the settings of `corpora/NAME.env` win over all others.")


class TopicSettings(BaseModel):
    """Topics (HNMFk).

    [topics.md](topics.md) says what the numbers mean.
    """

    topic_depth: int = Field(3, ge=1, le=8, description="Deepest level of the topic tree.")
    topic_max_k: int = Field(8, ge=2, le=64, description="Largest number of topics that a node may be split into.")
    topic_min_documents: int = Field(40, ge=4,
        description="Number of documents below which a node is not split; raise it where small leaves look arbitrary.")
    topic_perturbations: int = Field(12, ge=2, le=64,
        description="Perturbed factorisations per k; more take longer and make the choice of k steadier.")
    topic_max_churn: float = Field(0.8, ge=0, le=1,
        description="Share of documents without a matching topic in the previous tree that stops a run; 1: no check.")
    public_words: bool = Field(False,
        description="Make topics and the lexicon of documents without a list of readers only, so that neither shows "
        "words or word counts of the others ([permissions.md](permissions.md#what-is-shared)).")


class QuestionSettings(BaseModel):
    """Questions and the language model.

    With neither key nor endpoint the extractive writer generates the questions. Prices are used for the ledger, `plan`
    and the spend limits. These hold across tasks and machines: the most that the calls for a chunk can cost is reserved
    before them. So a run stops a little below its limit, without an error, and the next run asks about the rest. An
    endpoint that reports no tokens is charged by the sizes of prompts and replies (heal.llm_call.guessed).
    """

    llm_base_url: str | None = Field(None,
        description="OpenAI-compatible endpoint with `/v1` (vLLM, Ollama, llama.cpp); unset with a key: OpenAI.")
    llm_api_key: SecretStr | None = Field(None, description="API key of the endpoint; unset: `OPENAI_API_KEY`.")
    llm_model: str = Field("gpt-4o-mini", description="Model that generates questions, entity maps and answers.")
    llm_concurrency: int = Field(8, ge=1, le=256, description="Largest number of calls in flight per task.")
    llm_timeout_s: float = Field(120.0, gt=0, le=86_400, description="Longest wait for one whole reply, in seconds.")
    llm_input_usd_per_million: float = Field(0.15, ge=0, description="Price of a million input tokens, in USD.")
    llm_output_usd_per_million: float = Field(0.60, ge=0, description="Price of a million output tokens, in USD.")
    llm_run_spend_limit_usd: float = Field(0.0, ge=0, description="Most that one run may spend, in USD; 0: no limit.")
    llm_day_spend_limit_usd: float = Field(0.0, ge=0,
        description="Most money that all runs of one day (UTC) may spend together, in USD; 0: no limit.")
    llm_batch: Literal["off", "auto", "on"] = Field("off",
        description="Send questions, and texts for a model `openai:NAME`, over the Batch API when realigning, for half "
        "the price and some hours later: `off`, `on`, or `auto`, from 200 chunks per task or 1 USD saved on texts on.")
    questions_per_chunk: int = Field(3, ge=1, le=10,
        description="Number of questions asked for per chunk; raising it asks again about every chunk.")
    question_filters: Annotated[tuple[QuestionFilter, ...], NoDecode] = Field(QUESTION_FILTERS,
        description="Blank-separated filters that a generated question must pass; `none` switches all of them off.")
    cross_encoder: str = Field("",
        description="Cross-encoder (folder or hub id) that scores training and validation questions; unset: none.")
    cross_encoder_min_score: float = Field(0.5, ge=0, le=1, description="Smallest score, 0 to 1, of a kept question.")
    feedback_people: int = Field(2, ge=0, le=1000,
        description="Number of people whose votes (`heal.feedback`) make a judgment, if there are three for each "
        "against it; 0: feedback is kept, and nothing is made of it.")


class EncoderSettings(BaseModel):
    """The embedding model.

    `openai:NAME` is a model behind an OpenAI-compatible endpoint (`/v1/embeddings`): it is not trained, so candidates
    are its vectors with and without NUDGE, each with a lexicon. Its calls count for the spend limits, with
    `HEAL_LLM_CONCURRENCY` and `HEAL_LLM_TIMEOUT_S`. A change of model, dimensions or prompts realigns, and the gate
    decides between the new vectors and what is live. [models.md](models.md) says which model needs which prompts.
    """

    model: str = Field(PACKAGED_MODEL,
        description="Base model: a hub id, a folder, the packaged model's name, or `openai:NAME` behind an API.")
    embed_base_url: str | None = Field(None,
        description="OpenAI-compatible endpoint with `/v1` of a model `openai:NAME`; unset: OpenAI.")
    embed_api_key: SecretStr | None = Field(None, description="API key of that endpoint; unset: `OPENAI_API_KEY`.")
    embed_usd_per_million: float = Field(0.02, ge=0, description="Price of a million tokens to embed, in USD.")
    dimensions: int = Field(0, ge=0, le=4000, description="Number of dimensions to keep of Matryoshka vectors; 0: all.")
    query_prompt: str | None = Field(None, description="Text before every embedded question; unset: the model's own.")
    document_prompt: str | None = Field(None, description="Text before every embedded chunk; unset: the model's own.")


class TrainingSettings(BaseModel):
    """Model and training (HEAL).

    The defaults suit two processor cores. On a GPU, or with thousands of human questions, raise `HEAL_TRAIN_MAX_STEPS`
    and `HEAL_TRAIN_BATCH_SIZE`. Three defaults depend on the questions that are used for training,
    `HEAL_TRAIN_BASE_SHARE`, `HEAL_IDF_POWER` and `HEAL_BASE_WEIGHT`: generated ones are a substitute for human ones, so
    they move the model only half as far. `qlora` needs CUDA and `requirements-qlora.txt`. Measurements of every term
    are in [RESULTS.md](../bench/RESULTS.md).
    """

    train_max_steps: int = Field(40, ge=1, description="Most optimiser steps; early stopping may end sooner.")
    train_batch_size: int = Field(16, ge=4,
        description="Question-document pairs per step; with fewer than twice as many questions nothing is trained.")
    train_micro_batch: int = Field(0, ge=0, description="Number of texts in the encoder at once; 0: the whole batch.")
    train_processes: int = Field(1, ge=1, le=64,
        description="Number of processes, one per GPU, that share each batch, whose size must be a multiple.")
    train_dtype: Literal["auto", "float32", "bfloat16"] = Field("auto",
        description="Number format that training computes in; `auto`: bfloat16 where the device has it.")
    train_adapter: Literal["none", "lora", "qlora"] = Field("none",
        description="`none` trains all weights, `lora` small matrices beside them, `qlora` those beside 4-bit ones.")
    train_lora_rank: int = Field(8, ge=1, le=1024, description="Rank of an adapter's matrices.")
    train_learning_rate: float | None = Field(None, gt=0, description="Peak rate; unset: 5e-5, for an adapter 2e-5.")
    train_max_tokens: int = Field(128, ge=16, description="Longest text in training, in tokens.")
    train_eval_steps: int = Field(20, ge=1,
        description="Smallest number of steps between two evaluations on held-out questions, each with a checkpoint.")
    train_near_negatives: int = Field(1, ge=0, le=16, description="Number of mined near negatives per question.")
    train_far_negatives: int = Field(0, ge=0, le=16,
        description="Number of mined far negatives per question, beside the other documents of the batch.")
    train_base_share: float | None = Field(None, ge=0, lt=1,
        description="Share of the base model's weights in the published model; unset: 0.5, for human questions 0.")
    idf_power: float | None = Field(None, ge=0,
        description="Power of a token's inverse document frequency in the mean over a text's tokens (0: plain mean, "
        "for servers that read only the transformer); unset: 0.25, for human questions 0.")
    base_weight: float | None = Field(None, ge=0,
        description="Weight of the base term (keeps the base model's rankings); unset: 1, for human questions 0.1.")
    objectives: Annotated[tuple[Objective, ...], NoDecode] = Field(("answers", "topics"), min_length=1,
        description="Blank-separated objectives, a model for each: `answers` (find the answer of a question), `topics` "
        "(with HEAL, so that documents of one topic are close), `paper` (the published HEAL loss alone); also set it "
        "for the DAG processor.")
    extra_training_minutes: float = Field(0.5, ge=0,
        description="Without a GPU further objectives are trained only if the first one took at most so many minutes; "
        "0: never.")
    map_rate: float = Field(0.0, ge=0, le=1,
        description="Share of training questions and documents shown as entity maps (APEX); 0: none; also set it for "
        "the DAG processor.")
    map_writer: Literal["auto", "llm", "extractive"] = Field("auto",
        description="Writer of entity maps: `llm` (one more call per chunk), `extractive` (rules for English, without "
        "an LLM), or `auto`: the LLM where one is configured.")


class NudgeSettings(BaseModel):
    """NUDGE.

    The first setting says how a NUDGE moves vectors, the others when the route *realign* is taken instead of *nudge*.
    After a realignment that promoted no candidate, the next one for the same cause waits for twice the share.
    """

    nudge_variant: Literal["N", "M"] = Field("N",
        description="`N` keeps vectors at unit length; `M` bounds the step, and searches by inner product.")
    nudge_max_changed_share: float = Field(0.1, ge=0, le=1,
        description="Share of documents changed since the last realignment above which the next one is due.")
    realign_max_age_days: float = Field(30.0, gt=0, description="Days after a realignment until the next one is due.")


class EvaluationSettings(BaseModel):
    """Evaluation and gate.

    With at least `HEAL_GATE_MIN_QUESTIONS` human questions held out for validation, only human questions are used for
    training and NUDGE; with at least so many human test questions, only these decide in the gate.
    """

    gate_epsilon: float = Field(0.005, ge=0, description="nDCG@10 difference that counts as a tie, in gate and NUDGE.")
    gate_min_questions: int = Field(30, ge=2, description="Number of questions that a set needs to vote in the gate.")
    gate_goal: Literal["answers", "topics", "both"] = Field("answers",
        description="Quality that promotes: `answers` (questions find their document), `topics` (the nearest documents "
        "share the topic: to browse, classify, cluster or use heal.similar), or `both`.")
    answer_questions: int = Field(0, ge=0,
        description="Number of held-out questions that an LLM answers from what each system finds, up to three calls "
        "each; 0: none; also set it for the DAG processor.")


class StoreSettings(BaseModel):
    """Store.

    [operations.md](operations.md#indexes) says when to choose which `HEAL_INDEX`. With `HEAL_INDEX_WORKERS` above 0 a
    build also takes `HEAL_INDEX_MEMORY_MB` of shared memory: `shm_size` in Docker must be larger.
    """

    recall_target: float = Field(0.95, ge=0, le=1, description="recall@10 below which a generation is not promoted.")
    index: Literal["auto", "hnsw", "halfvec", "bit"] = Field("auto",
        description="HNSW index of 32-bit (`hnsw`), 16-bit (`halfvec`) or 1-bit (`bit`) coordinates; `auto`: by size.")
    index_memory_mb: int = Field(1024, ge=64, le=2_097_151,
        description="Largest `maintenance_work_mem` of an index build, in MiB.")
    index_workers: int = Field(0, ge=0, le=64,
        description="Number of server processes that help to build an index, each with a processor of its own.")
    drain_hours: float = Field(24.0, ge=0, le=87_600, description="Hours that a retired generation's tables are kept.")
    bridge_min_recall: float = Field(0.95, ge=0, le=1, description="Least share of the live model's recall@10 that "
        "query vectors of a retired generation keep, mapped to its space; below it they are refused (HEA01).")


class ServeSettings(BaseModel):
    """Serving.

    Used by `python -m heal_tasks serve`, see [serving.md](serving.md).
    """

    serve_token: SecretStr | None = Field(None,
        description="Token that callers send as `Authorization: Bearer TOKEN`; unset: none, on loopback only.")
