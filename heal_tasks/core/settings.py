"""Every setting of the project in one class, read once at the edge (command line, DAG task) and passed down.

A value comes from, in this order: an environment variable ``HEAL_<NAME>``, the file ``.env`` in the
working folder, the file ``local.env`` that ``make up`` writes into the state folder, the default here.
This is the only module that looks at the process environment.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from heal_tasks.core.errors import SettingsError

PACKAGED_MODEL = "all-MiniLM-L6-v2"

OPENAI_URL = "https://api.openai.com/v1"

DEMO_PACKAGES = (
    "numpy", "scipy", "sklearn", "pandas", "networkx", "sqlalchemy",
    "sympy", "torch", "transformers", "psycopg", "openai", "rich",
)  # fmt: skip

QuestionFilter = Literal["short", "long", "dangling", "title", "evidence", "duplicate", "near_duplicate", "round_trip"]
QUESTION_FILTERS: tuple[QuestionFilter, ...] = get_args(QuestionFilter)
ROUND_TRIP: QuestionFilter = "round_trip"
"""The one filter that needs vectors, and so comes later than the others."""


class Settings(BaseSettings):
    """Settings of the pipeline; see ``docs/settings.md`` for the same list with advice."""

    model_config = SettingsConfigDict(env_prefix="HEAL_", extra="ignore", frozen=True)

    # Where things are
    var_dir: Path = Field(Path("var"), description="Folder for all local state: database, inbox, artifacts, logs.")
    database_url: SecretStr | None = Field(
        None, description="postgresql:// URL of the vector database; the embedded server's once `make up` has run."
    )
    artifacts_uri: str = Field(
        "", description="Folder or s3://bucket/prefix for models, topic trees, reports; default: artifacts in var_dir."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Level of the log.")

    # Sources
    sources: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Blank-separated sources: file:FOLDER, s3://BUCKET/PREFIX, pydocs:PACKAGE,PACKAGE; "
        "default: file: with the folder inbox in var_dir.",
    )  # fmt: skip
    s3_endpoint_url: str | None = Field(None, description="S3-compatible endpoint; unset means AWS.")
    max_file_mb: float = Field(64.0, gt=0, description="A larger source file is quarantined, in MiB.")
    max_document_chars: int = Field(2_000_000, gt=0, description="A longer document is quarantined.")
    max_rejected_share: float = Field(
        0.2, ge=0, le=1, description="Share of rejected records in one run above which ingest stops with an error."
    )
    max_deleted_share: float = Field(
        0.5, ge=0, le=1, description="Share of documents that may vanish in one run before ingest stops with an error: "
        "an unmounted folder must not empty the store.",
    )  # fmt: skip
    dry_run: bool = Field(False, description="Read the sources and choose the route, then undo it.")
    sample_documents: int = Field(
        0,
        ge=0,
        description="Take at most this many documents per source, chosen by hash, and delete none; 0 takes all.",
    )
    text_language: str = Field(
        "english", description="Text search configuration of documents whose metadata name no language."
    )
    chunk_tokens: int = Field(240, ge=16, description="Longest chunk, title included, in tokens of the model.")

    # Embedding model
    model: str = Field(
        PACKAGED_MODEL, description="Base model: a sentence-transformers id or path; the default is packaged."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    encode_batch_size: int = Field(
        0, ge=0, description="Most texts per forward pass when embedding, fewer where they are long; 0: by the device."
    )
    encode_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Number format of the encoder when embedding; auto: bfloat16 where the device computes in it.",
    )
    embed_shards: int = Field(2, ge=1, le=256, description="Mapped tasks that embed in parallel.")
    ask_shards: int = Field(2, ge=1, le=256, description="Mapped tasks that write questions in parallel.")

    # Topics (HNMFk)
    topic_depth: int = Field(3, ge=1, le=8, description="Deepest level of the topic tree.")
    topic_max_k: int = Field(8, ge=2, le=64, description="Most topics that a node may be split into.")
    topic_min_documents: int = Field(40, ge=4, description="A node with fewer documents stays a leaf.")
    topic_perturbations: int = Field(12, ge=2, le=64, description="Perturbed factorisations per k.")
    topic_perturb: Literal["uniform", "poisson"] = Field(
        "uniform", description="Noise of a perturbation: uniform on TF-IDF entries, or Poisson on the word counts."
    )
    topic_noise: float = Field(0.015, gt=0, lt=1, description="Relative noise of a uniform perturbation.")
    topic_silhouette: float = Field(0.8, ge=-1, le=1, description="Smallest silhouette of a stable k.")
    topic_full_search: bool = Field(
        False,
        description="Measure the stability of every k at the root, for the report's plot; the topics stay the same.",
    )
    topic_min_topic_documents: int = Field(8, ge=1, description="A split with a smaller topic is refused.")
    topic_max_terms: int = Field(20_000, ge=100, description="Largest vocabulary of the TF-IDF matrix.")
    topic_max_churn: float = Field(
        0.8, ge=0, le=1, description="Share of documents whose topic has no match in the previous run, above which "
        "training is stopped.",
    )  # fmt: skip
    topic_workers: int = Field(0, ge=0, le=256, description="Threads that factorise; 0 takes one per processor.")
    topic_shards: int = Field(
        1, ge=1, le=256, description="Mapped tasks that factorise the root of a large corpus; 1: `label` does it all."
    )
    topic_shard_documents: int = Field(
        50_000, ge=1, description="Documents from which a corpus is large enough to be shared out."
    )

    # Questions
    llm_base_url: str | None = Field(None, description="OpenAI-compatible endpoint; unset with a key means OpenAI.")
    llm_api_key: SecretStr | None = Field(
        None, description="API key; OPENAI_API_KEY is taken where this is unset. With neither key nor endpoint the "
        "extractive writer is used.",
    )  # fmt: skip
    llm_model: str = Field("gpt-4o-mini", description="Model that writes questions, entity maps and answers.")
    llm_concurrency: int = Field(8, ge=1, le=256, description="Calls in flight per task.")
    llm_timeout_s: float = Field(120.0, gt=0, description="Longest wait for one call, in seconds.")
    llm_temperature: float = Field(0.7, ge=0, le=2, description="Sampling temperature for questions.")
    llm_input_usd_per_million: float = Field(0.15, ge=0, description="Price of a million input tokens, in USD.")
    llm_output_usd_per_million: float = Field(0.60, ge=0, description="Price of a million output tokens, in USD.")
    questions_per_chunk: int = Field(3, ge=1, le=10, description="Questions asked for per chunk.")
    llm_run_budget_usd: float = Field(0.0, ge=0, description="Most money that a run may spend, in USD; 0: no limit.")
    llm_day_budget_usd: float = Field(
        0.0, ge=0, description="Most money that all runs of a day (UTC) may spend, in USD; 0: no limit."
    )
    llm_batch: Literal["off", "auto", "on"] = Field(
        "off", description="Send questions over the Batch API when realigning: never, where it pays, or always."
    )
    llm_batch_price_factor: float = Field(
        0.5, gt=0, le=1, description="Price of a call in a batch, as a share of a single call's."
    )
    llm_batch_poll_s: float = Field(60.0, gt=0, description="Time between two looks at a batch, in seconds.")
    llm_batch_wait_hours: float = Field(
        24.0, gt=0, description="Longest wait for a batch before it is cancelled and the rest is asked one by one."
    )
    question_filters: Annotated[tuple[QuestionFilter, ...], NoDecode] = Field(
        QUESTION_FILTERS, description="Blank-separated filters that a question must pass; none: switch all off."
    )
    round_trip_k: int = Field(
        100,
        ge=1,
        description="A training question is dropped where its chunk is not among so many that the model finds.",
    )
    cross_encoder: str = Field(
        "", description="A sentence-transformers cross-encoder, id or path, that training and "
        "validation questions must pass; unset: none.",
    )  # fmt: skip
    cross_encoder_min_score: float = Field(
        0.5, ge=0, le=1, description="Score of question and chunk below which the cross-encoder drops a question."
    )
    max_failed_share: float = Field(
        0.2, ge=0, le=1, description="Share of chunks whose calls may fail before the step stops with an error."
    )

    # Training (HEAL)
    train_max_steps: int = Field(40, ge=1, description="Most optimiser steps.")
    train_batch_size: int = Field(16, ge=4, description="Question-document pairs per step.")
    train_micro_batch: int = Field(
        0, ge=0, description="Texts that pass through the encoder together; 0: the whole batch. Fewer take less memory."
    )
    train_processes: int = Field(1, ge=1, le=64, description="Processes, one per GPU, that share each batch.")
    train_activation_checkpointing: bool = Field(
        False, description="Compute activations twice instead of keeping them: less memory, about a third more time."
    )
    train_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="What a training computes in; auto: bfloat16 where the device has it. Weights are float32."
    )
    train_adapter: Literal["none", "lora", "qlora"] = Field(
        "none", description="none: all weights; lora: small matrices beside them; qlora: beside 4-bit weights (CUDA)."
    )
    train_lora_rank: int = Field(8, ge=1, le=1024, description="Rank r of an adapter.")
    train_lora_alpha: int = Field(16, ge=1, description="An adapter's output is scaled by alpha / r.")
    train_learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; unset: 5e-5, and 2e-5 for an adapter."
    )
    train_max_tokens: int = Field(128, ge=16, description="Longest text in training, in tokens.")
    train_eval_share: float = Field(
        0.05, ge=0, le=1, description="Share of an epoch, or of a shorter training, between two looks at held-out "
        "retrieval (and saves).",
    )  # fmt: skip
    train_eval_steps: int = Field(20, ge=1, description="Fewest steps between two looks.")
    train_fall: float = Field(
        0.01, ge=0, le=1, description="How far nDCG@10 of a look must lie below the best so far to count as a fall."
    )
    train_patience: int = Field(2, ge=1, description="Falls in a row after which training stops.")
    train_validation_questions: int = Field(150, ge=1, description="Held-out questions per look.")
    train_validation_chunks: int = Field(400, ge=10, description="Chunks that a look searches, encoded each time.")
    train_near_negatives: int = Field(1, ge=0, le=16, description="Mined near negatives per question.")
    train_far_negatives: int = Field(0, ge=0, le=16, description="Mined far negatives per question.")
    map_rate: float = Field(
        0.0, ge=0, le=1, description="Share of training questions and documents shown as their entity maps (APEX), "
        "which an LLM writes; 0: no maps.",
    )  # fmt: skip
    train_base_share: float | None = Field(
        None, ge=0, lt=1, description="Share of the base model's weights in the published ones; unset: half where "
        "written questions train, none where people's do.",
    )  # fmt: skip
    idf_power: float | None = Field(
        None, ge=0, description="How much a token's rarity in the corpus weighs in a text's mean; unset: 0.25 or 0."
    )
    base_weight: float | None = Field(
        None, ge=0, description="Weight of the base term, which keeps rankings near the base model's; unset: 1 or 0.1."
    )
    heal_weight: float = Field(0.0, ge=0, description="Weight of the HEAL term beside the own-document term.")
    heal_temperature: float = Field(0.07, gt=0, description="Temperature tau of the HEAL term.")
    heal_level_weights: Literal["coarse", "fine"] = Field(
        "coarse", description="coarse: as published, shallow levels weigh most; fine: the reverse."
    )
    heal_paper: bool = Field(
        False, description="Train with the published HEAL loss alone: no own-document term, no renormalisation."
    )
    own_document_temperature: float = Field(0.05, gt=0, description="Temperature of the own-document term.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the own-document term's target that is spread over all texts of a batch."
    )
    mask_same_leaf: bool = Field(True, description="Do not use documents of the same leaf as in-batch negatives.")
    seed: int = Field(13, ge=0, description="Seed of every random choice.")

    # NUDGE and route
    nudge_variant: Literal["N", "M"] = Field("N", description="NUDGE-N keeps unit length, NUDGE-M bounds the step.")
    force_route: Literal["auto", "nothing", "nudge", "realign"] = Field(
        "auto", description="Take this route whatever the counts say."
    )
    nudge_max_unasked_loss: float = Field(
        1.0, ge=0, le=1, description="How much nDCG@10 of questions about documents that nobody has asked about may "
        "fall for a NUDGE budget; 1 sets no bound.",
    )  # fmt: skip
    nudge_contrast_pairs: int = Field(
        300_000_000, ge=0, description="Contrastive NUDGE plans are on offer up to so many pairs of training "
        "question and chunk with questions; 0 takes them off.",
    )  # fmt: skip
    nudge_max_changed_share: float = Field(
        0.1, ge=0, le=1, description="Share of new, changed and deleted documents since the last realignment up to "
        "which the nudge route is taken.",
    )  # fmt: skip
    realign_max_age_days: float = Field(30.0, gt=0, description="Age of the active generation that forces a realign.")
    nudge_max_residual: float = Field(
        0.15, ge=0, description="How much worse than known documents new ones may fit the topic tree (difference of "
        "mean relative residual) before a realign.",
    )  # fmt: skip
    nudge_rewrite_share: float = Field(
        0.03, ge=0, le=1, description="Share of differing rows above which the nudge route writes a new table and "
        "switches to it.",
    )  # fmt: skip
    nudge_max_displacement: float = Field(
        0.1, ge=0, description="Angle that rows may have moved since the last realignment, mean over all rows, in "
        "radians, before a realign.",
    )  # fmt: skip
    nudge_max_loss: float = Field(
        0.01, ge=0, description="How much nDCG@10 on the live generation's fixed questions may have fallen since the "
        "last realignment before a realign.",
    )  # fmt: skip

    # Evaluation and gate
    gate_epsilon: float = Field(0.005, ge=0, description="Difference in nDCG@10 that still counts as a tie.")
    gate_max_written_loss: float = Field(
        0.2, ge=0, le=1, description="How much nDCG@10 on written questions may fall where people's questions decide."
    )
    gate_min_questions: int = Field(30, ge=2, description="A question set with fewer questions does not vote.")
    answer_questions: int = Field(
        0, ge=0, description="Held-out questions that an LLM answers from what each system finds, to compare answers; "
        "0: none.",
    )  # fmt: skip
    bootstrap_samples: int = Field(2000, ge=100, description="Resamples of the paired bootstrap.")

    # Store
    ef_search: int = Field(100, ge=10, le=1000, description="HNSW candidates per query.")
    recall_target: float = Field(0.95, ge=0, le=1, description="recall@10 of the index below which it is not promoted.")
    recall_questions: int = Field(200, ge=1, description="Stored questions that the index's recall is measured with.")
    exact_rows: int = Field(
        2000, ge=0, description="A generation with fewer rows gets no HNSW index; every search is exact."
    )
    halfvec_rows: int = Field(
        20_000, ge=0, description="Rows from which the HNSW index holds 16-bit copies, in half the space."
    )
    index_memory_mb: int = Field(1024, ge=64, description="Upper bound of maintenance_work_mem while indexing, MiB.")
    index_workers: int = Field(0, ge=0, le=64, description="Server processes that help the one that builds an index.")
    lock_timeout_ms: int = Field(50, ge=1, description="Longest wait for the switch's lock before it is tried again.")
    drain_hours: float = Field(24.0, ge=0, description="How long a retired generation's tables are kept.")

    # One machine
    postgres_port: int = Field(0, ge=0, le=65535, description="Port of the embedded Postgres; 0 takes a free one.")
    airflow_port: int = Field(8080, ge=0, le=65535, description="Port of the Airflow UI; taken if free, else the next.")
    airflow_parallelism: int = Field(3, ge=1, le=64, description="Tasks that run at the same time on one machine.")
    schedule: str = Field("0 2 * * *", description="Cron expression of the nightly run, UTC; empty for none.")
    maintain_schedule: str = Field(
        "0 5 * * *", description="Cron expression of the nightly maintenance, UTC; empty for none."
    )
    demo_documents: int = Field(1500, ge=50, description="Documents that `make demo` puts into the inbox.")
    demo_packages: Annotated[tuple[str, ...], NoDecode] = Field(
        DEMO_PACKAGES, description="Blank-separated packages whose reference documentation the demo takes."
    )

    @field_validator("sources", "demo_packages", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("question_filters", mode="before")
    @classmethod
    def _split_filters(cls, value: Any) -> Any:
        return tuple(name for name in value.split() if value != "none") if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        # An empty variable means unset, but an empty schedule means none.
        values = {key: value for key, value in values.items() if value not in ("", None) or key.endswith("schedule")}
        values["var_dir"] = Path(values.get("var_dir") or "var").resolve()
        values.setdefault("artifacts_uri", str(values["var_dir"] / "artifacts"))
        values.setdefault("sources", (f"file:{values['var_dir'] / 'inbox'}",))
        if "llm_api_key" not in values and (key := os.environ.get("OPENAI_API_KEY")):
            values["llm_api_key"] = key
        return values

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        for source in self.sources:
            if not source.startswith(("file:", "s3://", "pydocs:")):
                raise ValueError(f"unknown source {source!r}; write file:FOLDER, s3://BUCKET/PREFIX or pydocs:PACKAGE")
        return self

    @property
    def llm_configured(self) -> bool:
        """Whether questions are written by an LLM rather than extractively."""
        return bool(self.llm_base_url or self.llm_api_key)

    @property
    def llm_url(self) -> str:
        """The language model's endpoint."""
        return self.llm_base_url or OPENAI_URL

    def require_llm(self) -> None:
        """Refuse to be asked for what only an LLM can write.

        Raises:
            SettingsError: entity maps or answers are wanted, and there is no LLM.
        """
        wanted = {
            f"HEAL_MAP_RATE={self.map_rate:g} wants entity maps": self.map_rate,
            f"HEAL_ANSWER_QUESTIONS={self.answer_questions} wants answers": self.answer_questions,
        }
        for what, number in wanted.items():
            if number and not self.llm_configured:
                name = what.partition("=")[0]
                raise SettingsError(
                    f"{what}, which only an LLM can write; set HEAL_LLM_BASE_URL or HEAL_LLM_API_KEY, or {name}=0"
                )

    def require_database_url(self) -> str:
        """The database URL.

        Raises:
            SettingsError: none is set.
        """
        if self.database_url is None:
            raise SettingsError(
                "HEAL_DATABASE_URL is not set and no embedded Postgres has been started here; "
                "run `make up`, or set it to a postgresql:// URL"
            )
        return self.database_url.get_secret_value()


def load_settings(**overrides: Any) -> Settings:
    """Read the settings.

    Args:
        overrides: values that win over environment and files, by field name.

    Returns:
        The validated settings.

    Raises:
        SettingsError: a value is wrong; the message names the variable, the value and what is allowed.
    """
    var_dir = Path(str(overrides.get("var_dir") or os.environ.get("HEAL_VAR_DIR") or "var"))
    try:
        return Settings(_env_file=(var_dir / "local.env", ".env"), **overrides)  # type: ignore[call-arg]
    except ValidationError as error:
        lines = [
            f"HEAL_{'_'.join(str(part) for part in item['loc'][:1]).upper()}={item['input']!r}: {item['msg']}"
            if item["loc"]
            else item["msg"]
            for item in error.errors()
        ]
        raise SettingsError("settings are wrong: " + "; ".join(lines)) from None


def child_environment(**values: str) -> dict[str, str]:
    """The environment for a child process: this process's own, with ``values`` on top."""
    return {**os.environ, **values}
