"""Measures topics against true labels: HNMFk beside flat and hierarchical clusterings with as many leaves.

Run from the project's root: ``python -m bench.topics --collection FOLDER`` or ``python -m bench.topics --pydocs``.

**Truth.** The first label path of a document; two labels are equal if their whole paths are. Paths are cut above labels
that only one document has, because they define no group. For ``--pydocs`` the path is the first three parts of the
module's name, and the text is the docstring without its title, because the title contains the path.

**Methods.** Each runs in a process of its own with one thread and makes as many leaves as the HNMFk tree of that seed.
Flat NMF (scikit-learn, strongest component) and k-means (best of 4 starts) get the TF-IDF matrix of the tree's root;
Ward and a second k-means get MiniLM vectors, whose cost is printed separately. The Ward dendrogram is cut at the sizes
of the tree's levels. A branch of the tree that ended early is repeated at the deeper levels.

**NMI, AMI.** Normalised mutual information (arithmetic mean of the entropies), and adjusted mutual information, which
subtracts the agreement expected by chance (NMI grows with the number of clusters). They compare the clusters at each
level of a method with the labels at each true level, over the documents that have a label there.

**hP, hR, hF1.** Kiritchenko, Matwin, Nock, Famili 2006: with P the predicted and T the true labels of a document, each
with all ancestors but the root, hP = sum |P & T| / sum |P|, hR = sum |P & T| / sum |T|, hF1 their harmonic mean, summed
over documents. Clusters have no names, so each is given a label prefix: the one with the best F1 on the cluster's
documents in one half of the collection (by a hash of the id); the other half is scored. That is optimistic, and equally
so for every method. A leaf may be given a prefix of any length, a cluster at level l above the leaves one of at most l
labels. P holds the labels of all clusters on the document's way down, so levels that contradict each other lower hP.
"leaf hF1" uses the leaves alone and compares all methods evenly. A cluster without documents in the first half predicts
nothing.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import Collection, Measured, load_collection, measure, parent_parser, table, versions, write_json
from heal_tasks.core.errors import InputError
from heal_tasks.core.ids import sha256_hex
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.local.inbox import DEMO_PACKAGES
from heal_tasks.sources.pydocs import documented_objects, find_modules
from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.hnmfk import build_tree
from heal_tasks.topics.tfidf import NodeMatrix, count_terms

Levels = NDArray[np.int64]
LabelPath = tuple[str, ...]
PYDOCS_LEVELS = 3
TOKENS = 128


def tree_levels(paths: Levels) -> Levels:
    """Topic of each document at each level, int64, shape (n, depth); a path that ended repeats its last topic."""
    levels = paths.copy()
    for level in range(1, levels.shape[1]):
        levels[:, level] = np.where(levels[:, level] < 0, levels[:, level - 1], levels[:, level])
    return levels


def hnmfk(texts: Sequence[str], seed: int) -> Levels:
    """Levels of the HNMFk tree with default settings, int64, shape (n, depth)."""
    return tree_levels(build_tree(texts, HNMFkConfig(seed=seed)).paths)


def flat_nmf(texts: Sequence[str], sizes: Sequence[int], seed: int) -> Levels:
    """Strongest component of scikit-learn's NMF, int64, shape (n, 1)."""
    from sklearn.decomposition import NMF

    factors = NMF(sizes[-1], max_iter=1000, random_state=seed).fit_transform(_tfidf(texts))
    return np.asarray(factors.argmax(axis=1), np.int64)[:, None]


def kmeans(source: Sequence[str] | NDArray[np.float32], sizes: Sequence[int], seed: int) -> Levels:
    """scikit-learn's k-means, best of 4 starts, on vectors (n, d) or the TF-IDF of n texts: int64, shape (n, 1)."""
    from sklearn.cluster import KMeans

    X = source if isinstance(source, np.ndarray) else _tfidf(source)
    return np.asarray(KMeans(sizes[-1], n_init=4, random_state=seed).fit_predict(X), np.int64)[:, None]


def ward(vectors: NDArray[np.float32], sizes: Sequence[int], _seed: int) -> Levels:
    """Ward's dendrogram cut into these numbers of clusters, int64, shape (n, len(sizes))."""
    from scipy.cluster.hierarchy import cut_tree, linkage

    return np.asarray(cut_tree(linkage(vectors, "ward"), n_clusters=list(sizes)), np.int64)


def _tfidf(texts: Sequence[str]) -> Any:
    return NodeMatrix.of(count_terms(texts)[0], HNMFkConfig()).X


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """MiniLM vectors of the first 128 tokens of texts: float32, shape (n, 384), rows of unit length."""
    from heal_tasks.training import encoder

    model = encoder.load_encoder(resolve_model(PACKAGED_MODEL), device="cpu")
    model.max_seq_length = TOKENS
    return encoder.encode(model, texts, threads=1)


def cut_rare(labels: Sequence[LabelPath]) -> list[LabelPath]:
    """Cut label paths above the first label that only one document has."""
    holders = Counter(path[: level + 1] for path in labels for level in range(len(path)))
    return [path[: sum(holders[path[: level + 1]] > 1 for level in range(len(path)))] for path in labels]


def best_prefix(paths: Sequence[LabelPath], longest: int) -> LabelPath:
    """The prefix of at most ``longest`` labels with the best F1 for these documents; of equals the shorter; or none."""
    count = Counter(path[: level + 1] for path in paths for level in range(len(path)))
    wanted = sum(map(len, paths))

    def rank(prefix: LabelPath) -> tuple[float, int, LabelPath]:
        shared = sum(count[prefix[: level + 1]] for level in range(len(prefix)))
        return (-2 * shared / (len(prefix) * len(paths) + wanted), len(prefix), prefix)

    return min((prefix for prefix in count if len(prefix) <= longest), key=rank, default=())


def mapping_half(ids: Sequence[str]) -> NDArray[np.bool_]:
    """Mask of the documents that name the clusters, bool, shape (n,): about half, by a hash of the id."""
    return np.array([int(sha256_hex("topics", name)[:8], 16) % 2 == 0 for name in ids], bool)


def predict(levels: Levels, truth: Sequence[LabelPath], naming: NDArray[np.bool_]) -> list[set[LabelPath]]:
    """Labels, with ancestors, that each document outside the naming half gets from the clusters on its way down."""
    predicted: list[set[LabelPath]] = [set() for _ in range(int((~naming).sum()))]
    known = [path for path, names in zip(truth, naming, strict=True) if names]
    deepest = max(map(len, truth), default=0)
    for level, clusters in enumerate(levels.T):
        longest = deepest if level == levels.shape[1] - 1 else level + 1
        members: dict[int, list[LabelPath]] = {}
        for cluster, path in zip(clusters[naming].tolist(), known, strict=True):
            members.setdefault(cluster, []).append(path)
        names = {cluster: best_prefix(paths, longest) for cluster, paths in members.items()}
        for labels, cluster in zip(predicted, clusters[~naming].tolist(), strict=True):
            labels |= ancestors(names.get(cluster, ()))
    return predicted


def ancestors(path: LabelPath) -> set[LabelPath]:
    """A label and all labels above it, each as its whole path."""
    return {path[: level + 1] for level in range(len(path))}


def hierarchical_scores(predicted: Sequence[set[LabelPath]], truth: Sequence[LabelPath]) -> tuple[float, float, float]:
    """hP, hR and hF1 pooled over documents; a ratio without a denominator is 0."""
    shared = sum(len(labels & ancestors(path)) for labels, path in zip(predicted, truth, strict=True))
    given, wanted = sum(map(len, predicted)), sum(map(len, truth))
    return shared / max(1, given), shared / max(1, wanted), 2 * shared / max(1, given + wanted)


def agreement(clusters: NDArray[np.int64], truth: Sequence[LabelPath], level: int) -> tuple[float, float]:
    """NMI and AMI of clusters, int64, shape (n,), with the labels at a level (1 is the coarsest)."""
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    rows = [row for row, path in enumerate(truth) if len(path) >= level]
    number = {label: place for place, label in enumerate(dict.fromkeys(truth[row][:level] for row in rows))}
    pair = [number[truth[row][:level]] for row in rows], clusters[rows]
    return float(normalized_mutual_info_score(*pair)), float(adjusted_mutual_info_score(*pair))


def score(
    method: str, seed: int, run: Measured[Levels], ids: Sequence[str], truth: Sequence[LabelPath]
) -> dict[str, Any]:
    """The row of one run: sizes, hierarchical scores, cost."""
    levels, naming = run.result, mapping_half(ids)
    scored = [path for path, names in zip(truth, naming, strict=True) if not names]
    precision, recall, f1 = hierarchical_scores(predict(levels, truth, naming), scored)
    leaf_f1 = hierarchical_scores(predict(levels[:, -1:], truth, naming), scored)[2]
    return {"method": method, "seed": seed, "leaves": len(set(levels[:, -1].tolist())), "depth": levels.shape[1],
            "hP": precision, "hR": recall, "hF1": f1, "leaf hF1": leaf_f1,
            "CPU s": run.cpu_s, "wall s": run.wall_s, "peak MiB": run.peak_mib}  # fmt: skip


def agreements(method: str, seed: int, levels: Levels, truth: Sequence[LabelPath]) -> list[dict[str, Any]]:
    """One row per level of the method, the leaves last: number of clusters, NMI and AMI with every true level."""
    rows = []
    for place, clusters in enumerate(levels.T):
        name = "leaves" if place == levels.shape[1] - 1 else str(place + 1)
        row = {"method": method, "seed": seed, "level": name, "clusters": len(set(clusters.tolist()))}
        for level in range(1, max(map(len, truth)) + 1):
            row[f"NMI {level}"], row[f"AMI {level}"] = agreement(clusters, truth, level)
        rows.append(row)
    return rows


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Join the rows of each method and level: every number becomes the mean over the seeds ± half the range."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row.get("level", "")), []).append(row)
    return [{name: group[0][name] if isinstance(group[0][name], str) else _spread([row[name] for row in group], name)
             for name in group[0] if name != "seed"} for group in groups.values()]  # fmt: skip


def _spread(values: Sequence[float], name: str) -> str:
    half, mean = (max(values) - min(values)) / 2, sum(values) / len(values)
    digits = 1 if name in {"CPU s", "wall s", "peak MiB"} else int(half > 0) if isinstance(values[0], int) else 3
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if half else "")


def pydocs(packages: Sequence[str]) -> Collection:
    """Docstrings of installed packages, labelled by the first parts of their modules' names."""
    found = [item for name in packages for module in find_modules(name) for item in documented_objects(module)]
    return Collection(
        name="pydocs",
        ids=tuple(item["id"] for item in found),
        texts=tuple(item["text"] for item in found),
        labels=tuple(tuple(item["metadata"]["module"].split(".")[:PYDOCS_LEVELS]) for item in found),
    )


def sample(collection: Collection, documents: int, seed: int) -> Collection:
    """At most this many documents, drawn by the seed, in their order."""
    total = len(collection.ids)
    rows = np.sort(np.random.default_rng(seed).choice(total, min(documents, total), replace=False))
    return replace(
        collection,
        ids=tuple(collection.ids[row] for row in rows),
        texts=tuple(collection.texts[row] for row in rows),
        labels=tuple(collection.labels[row] for row in rows),
        vectors=None if collection.vectors is None else collection.vectors[rows],
        titles=tuple(collection.titles[row] for row in rows) if collection.titles else (),
    )


def with_vectors(collection: Collection, cache: Path) -> tuple[Collection, str]:
    """Add MiniLM vectors to the collection, and say where they come from: stored with it, cached, or encoded now."""
    if collection.vectors is not None:
        return collection, "stored with the collection"
    file = cache / f"minilm{TOKENS}_{sha256_hex(*collection.texts)[:24]}.npy"
    if file.is_file():
        return replace(collection, vectors=np.load(file, allow_pickle=False)), f"cached in {file}"
    run = measure(encode, collection.texts)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(file, run.result, allow_pickle=False)
    return replace(collection, vectors=run.result), f"{run.cpu_s:.1f} CPU-s, cached in {file}"


def compare(collection: Collection, seeds: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """Run every method once per seed; rows of scores and of agreement, one per run and one per run and level."""
    truth, ids = cut_rare(collection.labels), collection.ids
    tables: dict[str, list[dict[str, Any]]] = {"scores": [], "agreement": []}
    for seed in seeds:
        tree = measure(hnmfk, collection.texts, seed)
        sizes = [len(set(column.tolist())) for column in tree.result.T]
        runs = {
            "HNMFk": tree,
            "NMF, TF-IDF": measure(flat_nmf, collection.texts, sizes, seed),
            "k-means, TF-IDF": measure(kmeans, collection.texts, sizes, seed),
            "k-means, MiniLM": measure(kmeans, collection.vectors, sizes, seed),
            "Ward, MiniLM": measure(ward, collection.vectors, sizes, seed),
        }
        for method, run in runs.items():
            tables["scores"].append(score(method, seed, run, ids, truth))
            tables["agreement"] += agreements(method, seed, run.result, truth)
    return tables


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, compare, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.topics", parents=[parent_parser()], formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(__doc__ or "").split("\n\n")[0], epilog="Definitions of the metrics: top of bench/topics.py.",
    )  # fmt: skip
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--collection", type=Path, metavar="FOLDER", help="corpus.jsonl.gz {id, title, text, labels}")
    source.add_argument("--pydocs", nargs="?", const=",".join(DEMO_PACKAGES), metavar="PACKAGE,PACKAGE",
                        help="docstrings of installed packages; default: %(const)s")  # fmt: skip
    parser.add_argument("--documents", type=int, default=2500, help="at most this many, drawn at random (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every method (%(default)s)")
    parser.add_argument("--seed", type=int, default=13, help="first seed; also draws the documents (%(default)s)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "heal-bench", metavar="FOLDER",
                        help="keeps the vectors of collections that come without (%(default)s)")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        if options.seeds < 1 or options.documents < 2:
            raise InputError(f"--seeds {options.seeds}, --documents {options.documents}: use at least 1 and 2")
        collection = load_collection(options.collection) if options.collection else pydocs(options.pydocs.split(","))
        if not any(cut_rare(collection.labels)):
            raise InputError(f"{collection.name} has no labels that two documents share; give one with labels")
        collection, origin = with_vectors(sample(collection, options.documents, options.seed), options.cache)
        seeds = range(options.seed, options.seed + options.seeds)
        tables = compare(collection, seeds)
    except InputError as error:
        parser.error(str(error))
    print(f"{collection.name}: {len(collection.ids)} documents, seeds {list(seeds)}. {versions()}")
    print(f"MiniLM vectors: {origin}\n")
    print(table(summarise(tables["scores"])), table(summarise(tables["agreement"])), sep="\n\n")
    write_json(options.json, tables)


if __name__ == "__main__":
    main()
