"""The job that every contender does: its sizes, models and data, and the matrix products it cannot do without.

A BERT with random weights teaches its own bottom blocks: hidden states of the student's last block but one from the
teacher's last but one, attention probabilities of the last from the last (mse, weights 1, AdamW).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, set_seed

from distil_trainer import Alignment, build_student, student_config


@dataclass(frozen=True, kw_only=True)
class Job:
    """Sizes of the two models and of a batch."""

    teacher_layers: int
    student_layers: int
    width: int
    intermediate: int
    heads: int
    vocabulary: int
    rows: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of a full batch."""
        return self.rows * self.length


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a contender is asked to do; the rest is its own way of doing it.

    Attributes:
        job: the sizes.
        steps: optimizer steps.
        device: "cpu" or "cuda".
        dropout: the student's; None leaves it to the contender.
        optimizer: "adamw" or "sgd".
        learning_rate: constant.
        accumulation: micro-batches that `job.rows` are split into.
        ragged: rows of a quarter to the whole length, padded; otherwise every row is full.
        attention_loss: what compares attention probabilities: "mse" or, in ours, "kl".
    """

    job: Job
    steps: int
    device: str = "cpu"
    dropout: float | None = None
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    accumulation: int = 1
    ragged: bool = False
    attention_loss: str = "mse"


SIZES = {
    "tiny": Job(
        teacher_layers=3, student_layers=2, width=32, intermediate=64, heads=2, vocabulary=128, rows=8, length=16
    ),
    "small": Job(
        teacher_layers=4, student_layers=2, width=256, intermediate=1024, heads=4, vocabulary=8192, rows=4, length=128
    ),
    "reference": Job(
        teacher_layers=12,
        student_layers=6,
        width=768,
        intermediate=3072,
        heads=12,
        vocabulary=119_547,
        rows=4,
        length=512,
    ),
}


def models(plan: Plan, *, dropout: float, attention: str) -> tuple[Any, Any]:
    """Teacher and student, with MLM heads, the same weights in every call."""
    set_seed(0)
    job = plan.job
    dropout = dropout if plan.dropout is None else plan.dropout
    config = BertConfig(
        vocab_size=job.vocabulary,
        hidden_size=job.width,
        num_hidden_layers=job.teacher_layers,
        num_attention_heads=job.heads,
        intermediate_size=job.intermediate,
        max_position_embeddings=max(512, job.length),
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.05,  # with BERT's 0.02, attention of random weights is nearly even
    )
    teacher = BertForMaskedLM._from_config(config, attn_implementation=attention)
    student = build_student(teacher, student_config(config, num_hidden_layers=job.student_layers), dropout=dropout)
    student.set_attn_implementation(attention)
    return teacher.eval().to(plan.device), student.train().to(plan.device)


def alignments(plan: Plan) -> tuple[Alignment, ...]:
    """The pairing of the layers, in our words."""
    student, teacher = plan.job.student_layers, plan.job.teacher_layers
    return (
        Alignment(feature="hidden_states", student_layer=student - 1, teacher_layer=teacher - 1),
        Alignment(feature="attention_probs", student_layer=student, teacher_layer=teacher, loss=plan.attention_loss),
    )


def examples(plan: Plan, *, labels: bool = True) -> list[dict[str, torch.Tensor]]:
    """Random tokens for every step, with labels 15% of them as an MLM collator makes them; the same in every call."""
    job, generator = plan.job, torch.Generator().manual_seed(1)
    shortest = job.length // 4 if plan.ragged else job.length
    lengths = torch.randint(shortest, job.length + 1, (job.rows * plan.steps,), generator=generator)
    rows = []
    for n in lengths:
        ids = torch.randint(1, job.vocabulary, (int(n),), generator=generator)
        masked = torch.rand(int(n), generator=generator) < 0.15
        rows.append({"input_ids": ids} | ({"labels": ids.masked_fill(~masked, -100)} if labels else {}))
    return rows


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pads to the longest row."""
    padding = {"input_ids": 0, "labels": -100}
    pad = torch.nn.utils.rnn.pad_sequence
    batch = {key: pad([row[key] for row in rows], batch_first=True, padding_value=padding[key]) for key in rows[0]}
    ones = [torch.ones_like(row["input_ids"]) for row in rows]
    return batch | {"attention_mask": pad(ones, batch_first=True)}


def loader(plan: Plan, *, labels: bool = True) -> Any:
    """The same batches, in order, for contenders that take a loader."""
    rows = plan.job.rows // plan.accumulation
    return torch.utils.data.DataLoader(examples(plan, labels=labels), batch_size=rows, collate_fn=collate)  # type: ignore[arg-type]


def products(job: Job) -> Iterator[tuple[int, int, int, int, int]]:
    """The matrix products that a step needs: (how often, batch, m, k, n) for [batch, m, k] x [batch, k, n].

    The teacher's blocks but the last whole, of its last only queries and keys, and their product; the same of the
    student, and backward twice that: a gradient for each factor. Embeddings are look-ups; heads and everything above
    the last block's scores reach no loss.
    """
    linear, wide, narrow = (
        (1, job.tokens, job.width, job.width),
        (1, job.tokens, job.width, job.intermediate),
        (1, job.tokens, job.intermediate, job.width),
    )
    maps, head = job.rows * job.heads, job.width // job.heads
    scores, mix = (maps, job.length, head, job.length), (maps, job.length, job.length, head)
    block = [(4, linear), (1, wide), (1, narrow), (1, scores), (1, mix)]
    last = [(2, linear), (1, scores)]
    for layers, backward in ((job.teacher_layers, False), (job.student_layers, True)):
        for often, (batch, m, k, n) in [(often * (layers - 1), shape) for often, shape in block] + last:
            yield often, batch, m, k, n
            if backward:
                yield often, batch, m, n, k  # for the left factor: dC x B'
                yield often, batch, k, m, n  # for the right factor: A' x dC


def needed_flops(job: Job) -> int:
    """Floating-point operations of `products`: two for each multiply-add."""
    return sum(2 * often * batch * m * k * n for often, batch, m, k, n in products(job))
