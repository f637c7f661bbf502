"""Quality of retrieval by ways of chunking: nDCG@10 of documents, each scored by its best chunk, with MiniLM.

Run from the project's root: ``python -m bench.chunking --data FOLDER``, the folder with ``scifact`` and ``nfcorpus``.

The third collection is of long documents: one per module of installed packages, with its docstring, a heading per class
and function, and its docstring below, as ``sources/pydocs.py`` finds them. The first sentence of every docstring is
taken out of it: a part of these are the questions, whose answer is the module. A question whose words all stand in the
heading is left out, and so is a sentence that two modules have.

Differences are to the first way, paired by question, with bootstrap intervals over documents.
"""

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bench.common import load_collection, load_queries, parent_parser, show, versions
from heal_tasks.core.ids import stable_id
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.core.text import title_line
from heal_tasks.core.types import TokenCounter
from heal_tasks.evaluation.bootstrap import mean_interval, paired_difference
from heal_tasks.sources import division
from heal_tasks.sources.chunking import Chunk, chunk_text, embedding_text, token_counter
from heal_tasks.sources.pydocs import documented_objects, find_modules
from heal_tasks.sources.structure import _SENTENCE
from heal_tasks.training.encoder import encode, load_encoder

PACKAGES = ("sklearn", "scipy", "numpy", "pandas", "networkx", "matplotlib")
MAX_TOKENS = 240
MIN_OBJECTS = 4
_FIRST_SENTENCE = re.compile(r"(.{30,300}?[.!?])(?:\s|\Z)", re.DOTALL)

Chunker = Callable[[str, str], Sequence[Chunk]]


class Corpus(NamedTuple):
    """Documents, and questions with graded answers."""

    name: str
    ids: Sequence[str]
    titles: Sequence[str]
    bodies: Sequence[str]
    questions: Sequence[str]
    answers: Sequence[Mapping[str, float]]  # of each question: grade by document
    vectors: NDArray[np.float32] | None = None  # of whole documents, as far as MiniLM reads them


def beir(folder: Path) -> Corpus:
    """A collection of abstracts, with its test questions."""
    found = load_collection(folder)
    texts, judgments = load_queries(folder)
    answers: dict[str, dict[str, float]] = defaultdict(dict)
    for item in judgments:
        if item.split == "test":
            answers[item.query][item.document] = item.grade
    bodies = [text.removeprefix(title).strip() for text, title in zip(found.texts, found.titles, strict=True)]
    return Corpus(found.name, found.ids, found.titles, bodies, [texts[key] for key in answers], list(answers.values()),
                  found.vectors)  # fmt: skip


def modules(documents: int, questions: int) -> Corpus:
    """Long documents of modules, chosen by hash, and questions taken out of them."""
    found = [module for package in PACKAGES for module in find_modules(package)]
    found.sort(key=lambda module: stable_id("bench", module.path))
    titles, bodies = dict[str, str](), dict[str, str]()
    asked: list[tuple[str, str]] = []
    for module in found:
        sections = []
        candidates = []
        for item in documented_objects(module):
            text = item["text"]
            first = _FIRST_SENTENCE.match(text)
            if first is not None:
                question = " ".join(first[1].split())
                names = set(re.findall(r"\w+", item["title"].lower().replace("_", " ").replace(".", " ")))
                if not set(re.findall(r"\w+", question.lower())) <= names:
                    candidates.append(question)
                text = text[first.end() :].strip()
            sections.append(f"## {item['id'].removeprefix(module.name + '.')}\n\n{text}")
        if len(sections) >= MIN_OBJECTS:
            titles[module.path], bodies[module.path] = module.name, "\n\n".join(sections)
            asked += [(question, module.path) for question in candidates]
            if len(titles) == documents:
                break
    copies = Counter(question for question, _ in asked)
    asked = [item for item in asked if copies[item[0]] == 1]
    asked = sorted(asked, key=lambda item: stable_id("bench", item[0]))[:questions]
    return Corpus("modules", list(titles), list(titles.values()), list(bodies.values()),
                  [question for question, _ in asked], [{path: 1.0} for _, path in asked])  # fmt: skip


def former(count: TokenCounter) -> Chunker:
    """The chunker before structure counted: fewest chunks of about equal sizes that end at sentences."""

    def chunk(title: str, body: str) -> list[Chunk]:
        measure = division.Measure(title, lambda _: embedding_text(title, ""), count, MAX_TOKENS)
        if measure.fits("", body):
            return [Chunk("", body)]
        room = measure.capacity("")
        ends = [match.end() for match in _SENTENCE.finditer(body)]
        texts = [body[a:b] for a, b in zip([0, *ends], [*ends, len(body)], strict=True) if a < b]
        parts = [part for text in texts for part in division._cut_to(text, measure.cost, room)]
        low, high = max(size for _, size in parts), room
        groups = _packed(parts, room)
        while low < high:
            middle = (low + high) // 2
            tried = _packed(parts, middle)
            if len(tried) == len(groups):
                groups, high = tried, middle
            else:
                low = middle + 1
        return [Chunk("", "".join(text for text, _ in group).strip()) for group in groups]

    return chunk


def _packed(parts: Sequence[tuple[str, int]], most: int) -> list[list[tuple[str, int]]]:
    groups: list[list[tuple[str, int]]] = []
    filled = 0
    for part in parts:
        if not groups or filled + part[1] > most:
            groups.append([])
            filled = 0
        groups[-1].append(part)
        filled += part[1]
    return groups


@contextmanager
def priced(within: float, boundaries: Sequence[float] | None) -> Iterator[None]:
    """Division with other prices."""
    prices = dict(zip(division.Break, boundaries, strict=True)) if boundaries else division._BOUNDARY_PRICE
    with patch.object(division, "_HEADING_WITHIN_PRICE", within), patch.object(division, "_BOUNDARY_PRICE", prices):
        yield


def ways(count: TokenCounter) -> dict[str, Chunker]:
    """The compared ways by name; differences are to the first."""

    def structured(
        within: float, boundaries: Sequence[float] | None = None, overlap: int = 0, headings: bool = True
    ) -> Chunker:
        def chunk(title: str, body: str) -> Sequence[Chunk]:
            with priced(within, boundaries):
                found = chunk_text(title, body, count, MAX_TOKENS, overlap)
            return found if headings else [Chunk("", text) for _, text in found]

        return chunk

    flat = (0.0, 0.0, 0.0, 0.0)
    return {
        "former: equal sizes, sentences": former(count),
        "price of a heading within 0": structured(0.0),
        "0.1": structured(0.1),
        "0.3": structured(0.3),
        "0.6": structured(0.6),
        "2 (one section a chunk)": structured(2.0),
        "0.3, without the headings' line": structured(0.3, headings=False),
        "0, boundaries at one price": structured(0.0, flat),
        "0.3, overlap 24": structured(0.3, overlap=24),
        "0.3, overlap 48": structured(0.3, overlap=48),
    }


def ndcg(ranked: Sequence[str], grades: Mapping[str, float]) -> float:
    """nDCG@10 with linear gains."""
    gain = sum(grades.get(key, 0.0) / np.log2(place + 2) for place, key in enumerate(ranked[:10]))
    best = sum(grade / np.log2(place + 2) for place, grade in enumerate(sorted(grades.values(), reverse=True)[:10]))
    return float(gain / best)


class Encoder:
    """MiniLM, which computes every text once."""

    def __init__(self) -> None:
        self._model = load_encoder(Path(resolve_model(PACKAGED_MODEL)), device="cpu", dtype="auto")
        self._known: dict[str, NDArray[np.float32]] = {}

    def know(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Take vectors that have been computed before."""
        self._known.update(zip(texts, vectors, strict=True))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of texts, float32, shape (n, d)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, encode(self._model, new, threads=1), strict=True))
        return np.stack([self._known[text] for text in texts])


def compare(corpus: Corpus, chunkers: Mapping[str, Chunker], encoder: Encoder) -> Iterator[dict[str, Any]]:
    """A row per way."""
    if corpus.vectors is not None:  # a document of one chunk is read whole
        encoder.know(list(map(embedding_text, corpus.titles, corpus.bodies)), corpus.vectors)
    asked = encoder(corpus.questions)
    groups = np.array([stable_id(min(item)) for item in corpus.answers])
    reference = None
    for name, chunker in chunkers.items():
        start = process_time()
        chunks = [(number, title_line(title, chunk.heading), chunk.text)
                  for number, (title, body) in enumerate(zip(corpus.titles, corpus.bodies, strict=True))
                  for chunk in chunker(title, body)]  # fmt: skip
        spent = process_time() - start
        vectors = encoder([embedding_text(title, text) for _, title, text in chunks])
        owner = np.array([number for number, *_ in chunks])
        scores = np.full((len(asked), len(corpus.ids)), -1.0, dtype=np.float32)
        similar = asked @ vectors.T
        for row in range(len(asked)):
            np.maximum.at(scores[row], owner, similar[row])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        found = np.array([ndcg([corpus.ids[place] for place in row], grades)
                          for row, grades in zip(order, corpus.answers, strict=True)])  # fmt: skip
        mean = mean_interval(found, seed=0, groups=groups)
        row_of: dict[str, Any] = {
            "collection": corpus.name, "way": name, "chunks": len(chunks),
            "characters": f"{np.mean([len(text) for *_, text in chunks]):.0f}",
            "nDCG@10": f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]", "difference": "-",
            "chunking, CPU s": f"{spent:.1f}",
        }  # fmt: skip
        if reference is None:
            reference = found
        else:
            gain = paired_difference(found, reference, seed=0, groups=groups)
            row_of["difference"] = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        yield row_of


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--data", type=Path, help="folder with the collections scifact and nfcorpus (default: none)")
    parser.add_argument("--documents", type=int, default=250, help="of the long collection (default 250)")
    parser.add_argument("--questions", type=int, default=1000, help="of the long collection (default 1000)")
    parser.add_argument("--ways", nargs="*", help="names of the ways to compare with the first (default: all)")
    arguments = parser.parse_args()
    count = token_counter(resolve_model(PACKAGED_MODEL))
    chunkers = ways(count)
    if arguments.ways:
        chunkers = {name: way for name, way in chunkers.items() if name.startswith("former") or name in arguments.ways}
    encoder = Encoder()
    corpora = [modules(arguments.documents, arguments.questions)]
    if arguments.data:
        corpora += [beir(arguments.data / name) for name in ("scifact", "nfcorpus")]
    for corpus in corpora:
        length = np.median([len(body) for body in corpus.bodies])
        print(
            f"{corpus.name}: {len(corpus.ids)} documents of {length:.0f} characters, {len(corpus.questions)} questions"
        )
    show("chunking", (row for corpus in corpora for row in compare(corpus, chunkers, encoder)), arguments.json)
    print(versions())


if __name__ == "__main__":
    main()
