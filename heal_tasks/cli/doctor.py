"""Checks of everything that a run depends on, each with the cure for a failure."""

import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer
from rich.text import Text

from heal_tasks.cli.base import app, console, described, print_line, settings_for_command
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.corpora import corpus_names
from heal_tasks.core.devices import pick_device
from heal_tasks.core.errors import HealError, InputError, RetryableError, SettingsError
from heal_tasks.core.files import state_folder
from heal_tasks.core.models import api_model, packaged_folder
from heal_tasks.core.prompts import missing_prompts
from heal_tasks.core.redaction import redacted
from heal_tasks.core.settings import Settings, load_settings, unknown_variables
from heal_tasks.core.source_settings import NO_SOURCE
from heal_tasks.local import stack
from heal_tasks.steps.quality.scripts import unread_chunks
from heal_tasks.store.db import NEWEST_TRIED, check_versions, connect, database_identity
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.migrate import same_database
from heal_tasks.store.questions.question_counts import read_question_counts

MIN_FREE_GB = 5.0
LLM_WAIT_S = 10.0

Level = Literal["ok", "note", "fail"]  # note: a run works; fail: it would not
Result = tuple[Level, str]
MARKS = {"ok": Text("ok  ", "green"), "note": Text("note", "yellow"), "fail": Text("FAIL", "red")}


class Finding(NamedTuple):
    """Result of one check: the part that was checked, the observation and the cure."""

    level: Level
    subject: str
    text: str


@app.command()
def doctor(
    security: Annotated[bool, typer.Option("--security", help="Check addresses, files and rights instead.")] = False,
) -> None:
    """Check settings, database, sources, questions, model, LLM, artifacts, disk, GPU, Airflow; say what to do."""
    settings = settings_for_command()
    if security:
        from heal_tasks.cli.doctor_security import examine_security

        findings = examine_security(settings)
    else:
        findings = examine(settings)
    for finding in findings:
        console.print(MARKS[finding.level], finding.subject.ljust(10), end=" ")
        print_line(finding.text)
    raise typer.Exit(1 if any(finding.level == "fail" for finding in findings) else 0)


def examine(settings: Settings) -> list[Finding]:
    """Run every check; one that raises an error is a finding, too."""
    checks: dict[str, Callable[[Settings], Iterator[Result]]] = {
        "settings": _settings, "corpora": _corpora, "database": _database, "sources": _sources,
        "questions": _questions, "model": _model, "llm": _llm, "artifacts": _artifacts, "disk": _disk, "gpu": _gpu,
        "airflow": _airflow,
    }  # fmt: skip
    findings: list[Finding] = []
    for subject, check in checks.items():
        try:
            findings.extend(Finding(level, subject, redacted(text)) for level, text in check(settings))
        except Exception as error:
            findings.append(Finding("fail", subject, described(error, settings)))
    return findings


def _settings(settings: Settings) -> Iterator[Result]:
    unknown = unknown_variables(settings.var_dir)
    for sentence in unknown:
        yield "note", sentence
    if not unknown:
        yield "ok", "every HEAL_ variable is a setting"


def _corpora(settings: Settings) -> Iterator[Result]:
    names = [] if settings.corpus else corpus_names()
    if not names:
        return
    with connect(settings.require_database_url(), vectors=False) as conn:
        owners = {database_identity(conn): "the deployment"}
    found = []
    for name in names:
        try:
            with connect(load_settings(corpus=name).require_database_url(), vectors=False) as conn:
                owner = owners.setdefault(database_identity(conn), name)
        except (SettingsError, RetryableError) as error:
            yield "fail", f"{name}: {error}; `python -m heal_tasks migrate` makes a missing database"
            continue
        found.append(name)
        if owner != name:
            yield "fail", same_database(name, owner)
    if found:
        yield "ok", f"{', '.join(found)}; `python -m heal_tasks --corpus NAME doctor` checks one of them"


def _database(settings: Settings) -> Iterator[Result]:
    with connect(settings.require_database_url()) as conn:
        check_versions(conn)
        ((server, vector, has_schema, user, missing_roles, open_schema),) = conn.execute(
            """SELECT current_setting('server_version'), extversion, to_regclass('heal.generation') IS NOT NULL,
                      current_user,
                      (SELECT string_agg(name, ', ')
                       FROM unnest(ARRAY['heal_owner', 'heal_pipeline', 'heal_reader']) name
                       WHERE to_regrole(name) IS NULL),
                      CASE WHEN has_schema_privilege('public', extnamespace, 'CREATE')
                           THEN extnamespace::regnamespace::text END
               FROM (VALUES (1)) one LEFT JOIN pg_extension ON extname = 'vector'"""
        ).fetchall()
        unread = unread_chunks(conn, settings) if has_schema else ""
        live = GenerationRepository(conn).active() if has_schema else None
    yield "ok", f"PostgreSQL {server}, pgvector {vector or 'not created yet'}, as {user}"
    if int(server.partition(".")[0]) > NEWEST_TRIED:
        yield "note", f"PostgreSQL newer than {NEWEST_TRIED} has not been tried with this version"
    if not has_schema:
        yield "fail", "schema heal is missing; run `python -m heal_tasks migrate`"
    if live:
        recall = "not measured" if live.recall is None else f"{live.recall:.3f}"
        told = f"with index {live.index_kind} at {live.effort}" if live.index_kind != "none" else "without an index"
        yield "ok", f"generation {live.generation_id} is live, {told}, recall@10 {recall}"
        if live.note:
            yield "note", f"generation {live.generation_id}: {live.note}"
    if unread:
        yield "note", unread
    if missing_roles:
        yield (
            "note",
            f"roles {missing_roles} are missing, and this user may not make them; let a superuser CREATE ROLE them and "
            "GRANT heal_pipeline TO heal_owner, heal_owner TO this user, then migrate again",
        )
    if open_schema:
        yield (
            "fail",
            f"everybody may create objects in schema {open_schema}, where pgvector is, and so change what the search "
            f"functions call; REVOKE CREATE ON SCHEMA {open_schema} FROM PUBLIC",
        )


def _sources(settings: Settings) -> Iterator[Result]:
    from heal_tasks.sources.parse import PARSERS, kind_of
    from heal_tasks.steps.reading.opening import opening_sources

    if not settings.sources:
        yield "note", NO_SOURCE
    for spec in settings.sources:
        others = 0
        try:
            with opening_sources(settings) as open_source:
                for file in open_source(spec).list_files():
                    if not file.left_out and kind_of(file) in PARSERS:
                        yield "ok", f"{spec}: readable"
                        break
                    others += 1
                else:
                    found = f"none of its {others} files is of a kind that is read ({', '.join(PARSERS)})"
                    empty = "no file; check its spelling, or put documents there"
                    yield "note", f"{spec}: {found if others else empty}"
        except HealError as error:
            yield "fail", str(error)


def _questions(settings: Settings) -> Iterator[Result]:
    from heal_tasks.steps.quality.measurable import held_out_counts, why_unmeasured  # loads scipy

    with connect(settings.require_database_url()) as conn:
        if conn.execute("SELECT to_regclass('heal.question')").fetchone() == (None,):
            return  # the check of the database has said so
        counts = read_question_counts(conn)
    held_out = ", ".join(f"{number} of {name}" for name, number in held_out_counts(counts).items())
    people = sum(counts.human.values())
    if why := why_unmeasured(counts, settings):
        yield "note", f"a run now could not measure quality: {why}"
    else:
        yield "ok", f"{counts.questions} in use, {people} of them by people; held out: {held_out}"


def _model(settings: Settings) -> Iterator[Result]:
    here = Path(packaged_folder(settings.model) or settings.model).is_dir()
    if missing := missing_prompts(settings.model, settings.model_options, settings.model if here else None):
        yield "note", missing
    if api_model(settings.model):
        from heal_tasks.steps.vectors.encoders import api_encoder  # loads torch

        vectors = api_encoder(settings, settings.model_uri).encode(["length"])
        yield "ok", f"{settings.model} gives vectors of {vectors.shape[1]} dimensions; it is not trained"
        return
    folder = Path(packaged_folder(settings.model) or settings.model)
    if not here:
        yield "note", f"{settings.model} would be fetched from a hub; give HEAL_MODEL a folder to need no network"
    elif not list(folder.glob("*.safetensors")):
        yield "fail", f"{folder} has no .safetensors file; save the model as safetensors"
    else:
        from heal_tasks.training.encoder import load_encoder  # loads torch

        try:
            model = load_encoder(folder, device="cpu", options=settings.model_options)
            yield "ok", f"{settings.model} in {folder} gives vectors of {model.get_embedding_dimension()} dimensions"
            prompt = model.tokenizer(model.prompts["document"], add_special_tokens=False)["input_ids"]
            if (longest := settings.chunk_tokens + len(prompt)) > (model.max_seq_length or longest):
                yield (
                    "note",
                    f"{settings.model} reads {model.max_seq_length} tokens of a text, and a chunk with its prompt may "
                    f"have {longest}; lower HEAL_CHUNK_TOKENS by {longest - model.max_seq_length}",
                )
        except HealError as error:
            yield "fail", str(error)


def _llm(settings: Settings) -> Iterator[Result]:
    import httpx2
    import openai

    from heal_tasks.endpoint.attempts import settle_status
    from heal_tasks.endpoint.calls import without_key
    from heal_tasks.endpoint.transport import bounded_client

    settings.require_llm()
    if not settings.llm_configured:
        yield "note", "none set; the extractive writer is used. Set HEAL_LLM_BASE_URL or OPENAI_API_KEY"
    elif settings.llm_base_url is None:
        yield "ok", f"OpenAI with the key that is set, model {settings.llm_model}"
    elif not settings.llm_base_url.startswith(("http://", "https://")):
        yield "fail", f"HEAL_LLM_BASE_URL={settings.llm_base_url!r} must begin with http:// or https://"
    else:
        key = settings.llm_key or "none"
        url, headers = f"{settings.llm_base_url.rstrip('/')}/models", {"Authorization": f"Bearer {key}"}
        shown, until_s = without_key(settings.llm_base_url, key), time.monotonic() + LLM_WAIT_S

        def settle(reply: httpx2.Response) -> None:
            settle_status(reply, key)  # redirects, web pages, errors with status 200 are no answers

        try:
            with bounded_client(lambda: until_s, response=settle) as client:
                reply = client.get(url, headers=headers, timeout=LLM_WAIT_S)
            reason = f"HTTP {reply.status_code}: {reply.text}" if reply.is_error else ""
        except (httpx2.HTTPError, openai.OpenAIError) as error:
            reason = str(error)
        if reason:
            yield (
                "fail",
                f"{shown} does not answer ({without_key(reason, key)[:200]}); is the server up, the key right?",
            )
        else:
            yield "ok", f"{shown} answers"


def _artifacts(settings: Settings) -> Iterator[Result]:
    artifacts = artifact_store(settings)
    with artifacts.writing("doctor"):
        pass
    artifacts.delete(artifacts.uri("doctor"))
    yield "ok", f"{settings.artifacts_uri} is writable"


def _disk(settings: Settings) -> Iterator[Result]:
    state_folder(settings.var_dir)
    free_gb = shutil.disk_usage(settings.var_dir).free / 1e9
    text = f"{free_gb:.1f} GB free in {settings.var_dir}; at least {MIN_FREE_GB:.0f} are needed"
    yield "ok" if free_gb >= MIN_FREE_GB else "fail", text


def _gpu(settings: Settings) -> Iterator[Result]:
    import torch

    try:
        pick_device(settings.device)
    except InputError as error:
        yield "fail", f"HEAL_DEVICE: {error}"
        return
    if torch.cuda.is_available():
        yield "ok", f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}"
    else:
        yield "note", f"none seen by torch {torch.__version__}; training runs on the processor"


def _airflow(settings: Settings) -> Iterator[Result]:
    if find_spec("airflow") is None:
        yield "fail", "apache-airflow is not installed here; pip install -r requirements.txt"
    elif stack.status(settings).healthy:
        yield "ok", f"{version('apache-airflow')}, running"
    else:
        yield "note", f"{version('apache-airflow')}, not running here; make up"
