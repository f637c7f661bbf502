"""Options of NMFk (the number of topics of one node) and of HNMFk (the tree)."""

from dataclasses import dataclass

from heal_tasks.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class NMFkConfig:
    """Rules for accepting a number of topics."""

    perturbations: int = 12  # perturbed copies of the matrix per k, at least 2
    noise: float = 0.015  # relative size of the uniform noise on stored entries, in (0, 1)
    silhouette: float = 0.8  # smallest silhouette of a stable k
    drop_ratio: float = 0.15  # smallest ratio of an error drop to the drop before it
    null_ratio: float = 1.1  # smallest ratio of an error drop to the drop on the null matrix
    min_topic_documents: int = 8  # fewest documents of a topic

    def __post_init__(self) -> None:
        if self.perturbations < 2:
            raise InputError(f"perturbations={self.perturbations}: stability needs at least 2")
        if not 0 < self.noise < 1:
            raise InputError(f"noise={self.noise}: use a noise between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class HNMFkConfig(NMFkConfig):
    """Limits of the tree, beside the rules for each of its nodes."""

    max_depth: int = 3  # deepest level, at least 1; topics there are not factorised
    max_k: int = 8  # most children of a node, at least 2
    min_documents: int = 40  # a node with fewer documents stays a leaf; at least 2
    min_df: int = 3  # a word in fewer documents of a node is not used there
    max_df: float = 0.5  # a word in a larger share of a node's documents is not used there; in (0, 1]
    max_terms: int = 20_000  # largest vocabulary
    seed: int = 13  # of every random choice

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_depth < 1 or self.max_k < 2 or self.min_documents < 2 or self.min_topic_documents < 1:
            raise InputError(
                f"max_depth={self.max_depth}, max_k={self.max_k}, min_documents={self.min_documents}, "
                f"min_topic_documents={self.min_topic_documents}: use at least 1, 2, 2 and 1"
            )
        if self.min_df < 1 or self.max_terms < 1 or not 0 < self.max_df <= 1:
            raise InputError(
                f"term limits min_df={self.min_df}, max_df={self.max_df}, max_terms={self.max_terms} are out of "
                "range; use min_df >= 1, 0 < max_df <= 1, max_terms >= 1"
            )
