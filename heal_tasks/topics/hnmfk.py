"""HNMFk: a topic hierarchy, by choosing a number of topics per node and splitting until nothing stands out.

Every node weighs its own documents anew (own vocabulary, own IDF) and is split by ``choose_k``; each of
its documents follows its strongest topic. A document's place comes from the same projection that places
new documents later, so training and projection cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from heal_tasks.core.errors import InputError
from heal_tasks.core.types import Progress, silent
from heal_tasks.topics.nmfk import NMFkResult, choose_k, derive_seed
from heal_tasks.topics.tfidf import count_terms, select_terms, smooth_idf, weigh
from heal_tasks.topics.tree import ROOT, NodeFactors, TopicNode, TopicTree, descend

TOP_TERMS = 10


@dataclass(frozen=True)
class HNMFkConfig:
    """How deep and how readily to split.

    Args:
        max_depth: deepest level, at least 1; topics there are not factorised.
        max_k: most children of a node, at least 2.
        min_documents: a node with fewer documents stays a leaf.
        min_topic_documents: a split that leaves a child with fewer documents is refused.
        perturbations: noisy factorisations per k.
        noise: relative noise of one.
        silhouette: smallest silhouette of a stable k.
        drop_ratio: smallest ratio of an error drop to the drop before it.
        null_ratio: smallest ratio of an error drop to that of a matrix without topics.
        min_df: a word in fewer documents of a node is not used there.
        max_df: a word in a larger share of a node's documents is not used there.
        max_terms: largest vocabulary.
        seed: of every random choice.
    """

    max_depth: int = 3
    max_k: int = 8
    min_documents: int = 40
    min_topic_documents: int = 8
    perturbations: int = 6
    noise: float = 0.015
    silhouette: float = 0.8
    drop_ratio: float = 0.15
    null_ratio: float = 1.1
    min_df: int = 3
    max_df: float = 0.5
    max_terms: int = 20_000
    seed: int = 13

    def __post_init__(self) -> None:
        if self.max_depth < 1 or self.max_k < 2 or self.min_documents < 2 or self.min_topic_documents < 1:
            raise InputError(
                f"max_depth={self.max_depth}, max_k={self.max_k}, min_documents={self.min_documents}, "
                f"min_topic_documents={self.min_topic_documents}: use at least 1, 2, 2 and 1"
            )


def build_tree(texts: Sequence[str], config: HNMFkConfig | None = None, progress: Progress = silent) -> TopicTree:
    """Find the topic hierarchy of texts.

    Args:
        texts: the documents; any number, empty ones included.
        config: None takes the defaults.
        progress: called per node with the documents whose leaf is settled, of all documents.

    Returns:
        The tree. The same texts, configuration and seed give the same tree.

    Raises:
        InputError: the configuration is out of range.
    """
    config = config or HNMFkConfig()
    counts, terms = count_terms(texts)
    # max_df is applied per node: a word of most documents can still tell topics apart further down.
    columns = select_terms(counts, min_df=config.min_df, max_df=1.0, max_terms=config.max_terms)
    vocabulary = tuple(terms[column] for column in columns)
    # One BLAS thread: products of a few rows gain nothing from more, and rounding must not depend on how many.
    with threadpool_limits(limits=1, user_api="blas"):
        builder = _Builder(csr_array(counts[:, columns]), vocabulary, config, progress)
        builder.grow(np.arange(len(texts)), (), -1, ())
        placed = descend(builder.counts, builder.nodes, builder.factors)
    return TopicTree(
        nodes=tuple(builder.nodes),
        paths=placed.paths,
        leaves=placed.leaves,
        membership=placed.membership,
        residual=placed.residual,
        vocabulary=vocabulary,
        factors=builder.factors,
    )


class _Builder:
    """Grows the nodes depth first, so that ids and leaf numbers follow tree order."""

    def __init__(self, counts: csr_array, vocabulary: tuple[str, ...], config: HNMFkConfig, progress: Progress) -> None:
        self.counts, self.nodes, self.factors = counts, list[TopicNode](), dict[int, NodeFactors]()
        self._vocabulary, self._config, self._progress = vocabulary, config, progress
        self._leaves = self._settled = 0

    def grow(self, rows: NDArray[np.intp], position: tuple[int, ...], parent: int, terms: tuple[str, ...]) -> None:
        """Add the node of these documents, and everything below it.

        Args:
            rows: the node's documents.
            position: child indices on the way from the root; names the node's random draws.
            parent: topic id of the parent.
            terms: strongest words, as the parent saw them; the root takes its own.
        """
        topic_id, first_leaf = len(self.nodes), self._leaves
        self._progress(self._settled, self.counts.shape[0], f"topic {topic_id}: {rows.size} documents")
        counts = csr_array(self.counts[rows])
        config = self._config
        columns = select_terms(counts, min_df=config.min_df, max_df=config.max_df, max_terms=config.max_terms)
        own = csr_array(counts[:, columns])
        idf = smooth_idf(own)
        X = weigh(own, idf)
        result, stop_reason = self._split(X, len(position), position)
        split = result is not None and result.k > 1
        chosen = result.chosen if result else None
        node = TopicNode(
            topic_id=topic_id,
            parent=parent,
            level=len(position),
            first_leaf=first_leaf,
            last_leaf=first_leaf,
            terms=terms if position else self._strongest(columns, np.asarray(X.sum(axis=0), np.float32)),
            k=chosen.k if chosen else 1,
            silhouette=chosen.silhouette if chosen and split else None,
            error=chosen.relative_error if chosen else None,
            size=rows.size,
            stop_reason=stop_reason,
        )
        self.nodes.append(node)
        if result is not None and (split or topic_id == ROOT):
            order = np.argsort(-self._sizes(result), kind="stable")
            factors = NodeFactors(columns, idf, np.ascontiguousarray(result.factorisation.term_factors[order]))
            self.factors[topic_id] = factors
        if not split:
            self._leaves += 1
            self._settled += rows.size
            self._progress(self._settled, self.counts.shape[0], f"topic {topic_id}: leaf")
            return
        labels, _, _ = factors.assign(counts)
        for child, weights in enumerate(factors.term_factors):
            self.grow(rows[labels == child], (*position, child), topic_id, self._strongest(columns, weights))
        self.nodes[topic_id] = replace(node, last_leaf=self._leaves - 1)

    def _split(self, X: csr_array, level: int, position: tuple[int, ...]) -> tuple[NMFkResult | None, str]:
        config, (n, v) = self._config, X.shape
        if 0 in X.shape or X.nnz == 0:
            return None, "no words"
        if level == config.max_depth:
            return None, "depth limit"
        most = min(config.max_k, n // config.min_topic_documents, n - 1, v - 1)
        ks = range(2, most + 1) if n >= config.min_documents else range(0)
        if not ks and level:
            return None, f"{n} documents"
        result = choose_k(
            X,
            ks,
            perturbations=config.perturbations,
            noise=config.noise,
            silhouette_threshold=config.silhouette,
            drop_ratio=config.drop_ratio,
            null_ratio=config.null_ratio,
            min_topic_documents=config.min_topic_documents,
            seed=derive_seed(config.seed, *position),
        )
        return result, result.stop_reason if ks else f"{n} documents"

    @staticmethod
    def _sizes(result: NMFkResult) -> NDArray[np.intp]:
        return np.bincount(result.factorisation.document_factors.argmax(axis=1), minlength=result.k)

    def _strongest(self, columns: NDArray[np.int32], weights: NDArray[np.float32]) -> tuple[str, ...]:
        order = np.argsort(-weights, kind="stable")[:TOP_TERMS]
        return tuple(self._vocabulary[columns[j]] for j in order if weights[j] > 0)
