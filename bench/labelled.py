"""Collections with true label paths: questions about their documents, splits, and trainings on one part of them."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common import Collection, load_queries
from bench.label_scores import Floats, Paths, encode_paths
from bench.residual import ResidualHead
from bench.topics import TOKENS, cut_rare
from heal_tasks.core.errors import InputError
from heal_tasks.core.ids import bucket, stable_id
from heal_tasks.questions.extractive.writer import ExtractiveWriter
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.hnmfk import build_tree
from heal_tasks.training.config import TrainingConfig
from heal_tasks.training.data import TrainingData, ValidationSet
from heal_tasks.training.encoder import encode, in_bf16, limited_threads, load_encoder
from heal_tasks.training.loop import make_sampler
from heal_tasks.training.objective import BaseVectors, Objective
from heal_tasks.training.trainer import train_encoder

QUESTIONS = 4
PEOPLES = 1000


@dataclass(frozen=True)
class Asked:
    """Questions, and the row of the document that each is about."""

    texts: list[str]
    owners: NDArray[np.int64]

    def about(self, rows: NDArray[np.int64]) -> "Asked":
        """The questions about some documents."""
        chosen = np.isin(self.owners, rows)
        return Asked([self.texts[place] for place in np.flatnonzero(chosen)], self.owners[chosen])


@dataclass(frozen=True)
class Labelled:
    """A collection with true label paths, questions by the extractive writer, and people's train queries, if any."""

    collection: Collection
    truth: Paths
    written: Asked
    people: Asked

    @staticmethod
    def of(collection: Collection, people: Asked) -> "Labelled":
        """Cut the labels and write the questions.

        Raises:
            InputError: there are no labels.
        """
        truth = encode_paths(cut_rare(collection.labels))
        if not truth.size:
            raise InputError(f"{collection.name} has no labels that two documents share; give one with labels")
        titles = collection.titles or [""] * len(collection.ids)
        chunks = [
            ChunkToAsk(row, title, text[len(title) :].strip(), "")
            for row, (title, text) in enumerate(zip(titles, collection.texts, strict=True))
        ]
        writer = ExtractiveWriter(QUESTIONS, lambda: [chunk.text for chunk in chunks])
        pairs = [(item.chunk.chunk_id, draft.text) for item in writer.write(chunks) for draft in item.value or ()]
        return Labelled(collection, truth, Asked([text for _, text in pairs], np.array([row for row, _ in pairs])),
                        people)  # fmt: skip


NO_QUERIES = Asked([], np.zeros(0, dtype=np.int64))


def peoples_queries(folder: Path, ids: Sequence[str], seed: int) -> Asked:
    """At most ``PEOPLES`` of the train queries of a folder, each with one of its documents; none where it has none."""
    if not (folder / "qrels.tsv").is_file():
        return NO_QUERIES
    texts, judgments = load_queries(folder)
    row = {name: place for place, name in enumerate(ids)}
    owner = {item.query: row[item.document] for item in judgments if item.split == "train" and item.document in row}
    names = np.random.default_rng(seed).permutation(sorted(owner))[:PEOPLES]
    return Asked([texts[name] for name in names], np.array([owner[name] for name in names], dtype=np.int64))


def split(ids: Sequence[str], seed: int, *, choose: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that train and rows that test, by a hash of seed and id.

    Three fifths train. ``choose`` leaves the others out, and gives a quarter of the training part the place of the test
    part.
    """
    tenths = np.array([bucket(f"heal-paper-{seed}", stable_id(name), 10) for name in ids])
    trains = tenths < 6
    if not choose:
        return np.flatnonzero(trains), np.flatnonzero(~trains)
    judges = np.array([bucket(f"heal-paper-choose-{seed}", stable_id(name), 4) == 0 for name in ids])
    return np.flatnonzero(trains & ~judges), np.flatnonzero(trains & judges)


def topics(
    data: Labelled, known: NDArray[np.int64], tested: NDArray[np.int64], seed: int
) -> tuple[dict[str, Paths], Paths]:
    """Label paths of the training documents by source (HNMFk, true, random), and HNMFk's of the tested documents.

    The tree is of the training documents alone; the tested ones are projected on it, as new documents are.
    """
    texts = data.collection.texts
    tree = build_tree([texts[row] for row in known], HNMFkConfig(seed=seed))
    dealt = np.random.default_rng(seed).permutation(tree.paths)
    sources = {"HNMFk": tree.paths, "true": data.truth[known], "random": dealt}
    return sources, tree.project([texts[row] for row in tested]).paths


def training_data(data: Labelled, rows: NDArray[np.int64], paths: Paths) -> TrainingData:
    """The questions about the training documents, with their documents' label paths, shape (r, L)."""
    asked = data.written.about(rows)
    labels = paths[np.searchsorted(rows, asked.owners)]
    depth = (labels >= 0).sum(axis=1)
    leaves = np.where(depth > 0, labels[np.arange(len(labels)), depth - 1], -1)
    nothing = np.zeros((len(labels), 0), dtype=np.int64)
    return TrainingData(
        asked.texts, [data.collection.texts[row] for row in asked.owners], asked.owners, labels=labels,
        leaves=leaves.astype(np.int32), negatives=[[] for _ in asked.texts], negative_document_ids=nothing,
        negative_leaves=nothing.astype(np.int32), question_ids=np.unique(asked.texts, return_inverse=True)[1],
    )  # fmt: skip


@dataclass(frozen=True)
class Vectors:
    """Vectors of all documents, and of the questions and people's queries about some of them."""

    documents: Floats
    written: Floats
    people: Floats


def encoded(model: Path, data: Labelled, rows: NDArray[np.int64]) -> Vectors:
    """Vectors by an encoder, with the questions about the documents of some rows."""
    encoder = load_encoder(model)
    encoder.max_seq_length = TOKENS
    bf16 = in_bf16("auto", str(encoder.device))
    asked = [encode(encoder, asked.about(rows).texts, role="query", bf16=bf16) for asked in (data.written, data.people)]
    return Vectors(encode(encoder, data.collection.texts, bf16=bf16), *asked)


def train(base: Path, pairs: TrainingData, config: TrainingConfig, data: Labelled, rows: NDArray[np.int64]) -> Vectors:
    """Train an encoder; what it makes of all documents and of the questions about some rows."""
    # A single validation, after the last step, of one document: nothing is selected, and it costs nothing.
    validation = ValidationSet(
        pairs.questions[:1], pairs.documents[:1], [np.zeros(1, dtype=np.int64)],
        document_ids=pairs.document_ids[:1], paths=pairs.labels[:1],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        work, output = Path(name, "work"), Path(name, "model")
        train_encoder(base, pairs, validation, config, work_dir=work, output_dir=output, data_fingerprint="bench")
        return encoded(output, data, rows)


def train_head(
    base: Vectors, pairs: TrainingData, config: TrainingConfig, data: Labelled, rows: NDArray[np.int64]
) -> Vectors:
    """The same with the same batches and loss, but a residual head on the base model's vectors in the encoder's place.

    ``base`` has the vectors of all questions.
    """
    taken = np.isin(data.written.owners, pairs.document_ids)
    sides = [torch.from_numpy(side) for side in (base.written[taken], base.documents[pairs.document_ids])]
    torch.manual_seed(config.seed)
    head = ResidualHead(base.documents.shape[1])
    everything = torch.arange(len(pairs.questions))
    objective = Objective(head, pairs, config, BaseVectors(everything, *sides) if config.base_weight > 0 else None)
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.learning_rate)
    sampler = make_sampler(pairs, config)
    with limited_threads(1):  # small matrices: a second thread would only wait
        for step in range(config.max_steps):
            if step % len(sampler) == 0:
                sampler.set_epoch(step // len(sampler))
                batches = iter(sampler)
            batch = torch.tensor(next(batches))
            optimiser.zero_grad()
            terms = objective.loss_of_embeddings([head(side[batch]) for side in sides], batch)
            torch.stack(list(terms.values())).sum().backward()
            optimiser.step()
    return part(Vectors(*(head.moved(side) for side in (base.documents, base.written, base.people))), data, rows)


def part(vectors: Vectors, data: Labelled, rows: NDArray[np.int64]) -> Vectors:
    """Of the vectors of all questions those about some rows."""
    written, people = (np.isin(asked.owners, rows) for asked in (data.written, data.people))
    return Vectors(vectors.documents, vectors.written[written], vectors.people[people])
