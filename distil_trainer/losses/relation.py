"""Losses between relations: how the queries, keys or values of one block relate to each other.

A relation is an attention map whose queries and keys are the same vectors, so its losses are those of `attention.py`,
tiles and all: nothing that grows with T^2 is held.
"""

from torch import Tensor

from distil_trainer.losses._common import SumCount, check_mask, working_dtype
from distil_trainer.losses.attention import Heads, probs_kl


def kl(student: Tensor, teacher: Tensor, mask: Tensor, heads: int | None = None) -> SumCount:
    """Kullback-Leibler divergence of the relations, KL(teacher || student).

    The relation of one head is softmax(X X^T / sqrt(d)), where X are the vectors of the attended tokens, [T, d]. Sums
    over the attended tokens the mean over heads of the KL divergence between a token's two distributions over all
    attended tokens, itself among them: also those that the attention itself hides from it (later ones, or ones outside
    of a window).

    `heads` puts the heads of each model side by side and splits them anew into so many of equal width: then student and
    teacher may differ in their numbers of heads and in their widths. Without it the heads are the models' own.

    Shapes: `student` [B, H, T, d]; `teacher` [B, H', T, d'], H' = H unless `heads` is given; `mask` bool [B, T], True
    for attended tokens. B batch, H heads (key/value heads for keys and values, not repeated for the queries that share
    them), T tokens, d head width. Unit: tokens.

    Raises:
        ValueError: batch, tokens or head counts do not agree, `heads` does not divide H * d and H' * d', or `mask` is
            not boolean.

    Source: MiniLM (arXiv 2002.10957) section 3.2, values; MiniLMv2 (arXiv 2012.15828) section 3.1, all three, and
        the relation heads. The papers have no batch and no padding: there a sequence is its tokens.
    """
    _check(student, teacher, mask)
    if heads is not None:
        student, teacher = _split_anew("student", student, heads), _split_anew("teacher", teacher, heads)
    if student.size(1) != teacher.size(1):
        raise ValueError(
            f"Expected equal head counts, got {student.size(1)} for the student and {teacher.size(1)} for the teacher: "
            "give `heads`, a number that divides the width of both, to split both anew."
        )
    dtype = working_dtype(student, teacher)  # before the vectors are used twice: their two gradients are added in it
    return probs_kl(_relation(student.to(dtype)), _relation(teacher.to(dtype)), mask)


def _relation(vectors: Tensor) -> Heads:
    return Heads(vectors, vectors, scaling=vectors.size(-1) ** -0.5)


def _split_anew(name: str, vectors: Tensor, heads: int) -> Tensor:
    """The heads side by side, cut into `heads` of equal width: [B, H, T, d] -> [B, heads, T, H * d / heads]."""
    together = vectors.transpose(1, 2).flatten(2)
    if heads < 1 or together.size(-1) % heads:
        raise ValueError(
            f"Expected a number of relation heads that divides the {name}'s width {together.size(-1)} "
            f"({vectors.size(1)} heads of {vectors.size(-1)}), got {heads}: choose a divisor of both widths."
        )
    return together.unflatten(-1, (heads, -1)).transpose(1, 2)


def _check(student: Tensor, teacher: Tensor, mask: Tensor) -> None:
    """Raise ValueError unless the two are of the same tokens and `mask` fits them."""
    shapes = tuple(student.shape), tuple(teacher.shape)
    if any(len(shape) != 4 for shape in shapes):
        raise ValueError(
            f"Expected vectors of shape [batch, heads, tokens, head width], got {shapes[0]} and {shapes[1]}."
        )
    (batch, _, tokens, _), (their_batch, _, their_tokens, _) = shapes
    if (batch, tokens) != (their_batch, their_tokens):
        raise ValueError(
            f"Expected the same batch and tokens, got {(batch, tokens)} for the student and "
            f"{(their_batch, their_tokens)} for the teacher: run both models on the same batch."
        )
    check_mask(mask, (batch, tokens))
