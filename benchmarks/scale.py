"""What a distillation costs before it is begun: operations, memory and network of the 12 -> 6 job at mBERT's size.

python scale.py [--out scale.json]

It computes and measures nothing. Peak rates and shares of them are assumptions, named in the tables.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saving import save

FLOAT, HALF = 4, 2  # bytes
ADAMW = 4 * FLOAT  # weight, gradient and two moments of a trained parameter
HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Size:
    """Teacher and student of one width; hidden states of the blocks but one, attention of the last are compared.

    Attributes:
        read_logits: share of the tokens whose logits are compared; 0 where neither head runs.
    """

    teacher_layers: int = 12
    student_layers: int = 6
    width: int = 768
    intermediate: int = 3072
    vocabulary: int = 119_547
    length: int = 512
    read_logits: float = 0.0

    @property
    def block_parameters(self) -> int:
        """Weights, biases and the two norms of a block of BERT."""
        d, f = self.width, self.intermediate
        return 4 * d * d + 2 * d * f + 4 * d + f + d + 4 * d

    @property
    def embedding_parameters(self) -> int:
        """Of pieces, positions (512), segments (2) and their norm."""
        return (self.vocabulary + 512 + 2 + 2) * self.width


def operations(size: Size) -> dict[str, float]:
    """Floating-point operations a token of each part: two for each multiplication of a matrix product.

    The forwards end where queries, keys and values of the last block are there. A backward is twice its forward,
    without the values, which no loss reads.
    """
    d, t = size.width, size.length
    block = 2 * (4 * d * d + 2 * d * size.intermediate) + 4 * t * d
    projection = 2 * d * d
    teacher = (size.teacher_layers - 1) * block + 3 * projection
    student = (size.student_layers - 1) * block + 3 * projection
    backward = 2 * (student - projection)
    head = size.read_logits * 2 * (d * d + d * size.vocabulary)
    if size.read_logits:  # the forwards are whole
        teacher, student = size.teacher_layers * block, size.student_layers * block
        backward = 2 * student
    return {
        "teacher, forward": teacher,
        "student, forward": student,
        "student, backward": backward,
        "attention maps of both, and their gradient": 8 * t * d,
        "heads": 4 * head,  # the teacher's forward, the student's forward and backward
    }


def memory(size: Size, *, tokens: int, processes: int, setting: str) -> dict[str, float]:
    """Bytes in one process, in bf16 by autocast with float32 weights of the student and a bfloat16 teacher.

    Activations: 34 bytes a token, channel and block of the student (Korthikanti et al. 2022, equation 1, without
    attention maps, which the tiles do not keep).

    Args:
        size: of the models.
        tokens: of a micro-batch.
        processes: that the student is shared out over, or copied to.
        setting: "DDP" or "FSDP2".
    """
    teacher = HALF * (size.embedding_parameters + size.teacher_layers * size.block_parameters)
    blocks = size.student_layers * size.block_parameters
    student = size.embedding_parameters + blocks
    shares = processes if setting == "FSDP2" else 1
    # FSDP2 keeps the embeddings, their gradient, and one block with the next one whole while they are used.
    whole = 2 * HALF * (size.embedding_parameters + size.block_parameters) if setting == "FSDP2" else 0
    copies = FLOAT * student if setting == "DDP" and processes > 1 else 0  # buckets of gradients
    return {
        "teacher": teacher,
        "student, gradients, AdamW": ADAMW * student / shares,
        "whole weights in use, or buckets": whole + copies,
        "activations": 34 * tokens * size.width * size.student_layers,
    }


def network(size: Size, *, processes: int, setting: str) -> float:
    """Bytes that one process sends in a step: a ring passes (n - 1) / n of the bytes on for each collective.

    DDP adds the float32 gradients up (two passes); FSDP2 gathers bfloat16 weights for forward and backward (the
    embeddings, which stay whole in between, once) and adds bfloat16 gradients up (one pass).
    """
    blocks = size.student_layers * size.block_parameters
    passed = (processes - 1) / processes
    if setting == "DDP":
        return 2 * passed * FLOAT * (size.embedding_parameters + blocks)
    return passed * HALF * (2 * size.embedding_parameters + 3 * blocks)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """GPUs, and what is assumed of them.

    Attributes:
        rate: operations a second of one GPU at its peak in bf16.
        share: of the peak that is reached.
        bandwidth: bytes a second that one GPU sends to the others.
    """

    name: str
    gpus: int
    rate: float = 312e12
    share: float = 0.33
    bandwidth: float = 1.0


MACHINES = (
    Machines(name="1 GPU", gpus=1),
    Machines(name="8 GPUs, NVLink at 200 GB/s", gpus=8, bandwidth=200e9),
    Machines(name="8 nodes of 8 GPUs, 25 GB/s a GPU", gpus=64, bandwidth=25e9),
)


def job(size: Size, machines: Machines, *, tokens: float, micro_batch: int) -> dict[str, float]:
    """Hours of the whole job, and of a step seconds of arithmetic and of network (DDP), which overlap at best."""
    work = sum(operations(size).values())
    compute = work * micro_batch / (machines.rate * machines.share)
    wire = network(size, processes=machines.gpus, setting="DDP") / machines.bandwidth
    steps = tokens / (micro_batch * machines.gpus)
    return {
        "compute": compute,
        "network": wire,
        "hours at best": steps * max(compute, wire) / HOUR,
        "hours at worst": steps * (compute + wire) / HOUR,
        "gpu hours at worst": steps * (compute + wire) / HOUR * machines.gpus,
    }


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def results(micro_batch: int, bytes_per_token: float) -> dict[str, Any]:
    """Everything that is printed, as numbers."""
    layers, labels, everywhere = (Size(read_logits=share) for share in (0.0, 0.15, 1.0))
    corpora = {"9 GB": 9e9 / bytes_per_token, "1 TB": 1e12 / bytes_per_token}
    return {
        "operations": {
            "layers": operations(layers),
            "and logits of 15%": operations(labels),
            "and all logits": operations(everywhere),
        },
        "memory": {
            f"{setting}, {n}": memory(layers, tokens=micro_batch, processes=n, setting=setting)
            for setting, n in (("DDP", 1), ("DDP", 8), ("FSDP2", 8), ("FSDP2", 64))
        },
        "network": {
            f"{setting}, {n}": network(layers, processes=n, setting=setting)
            for setting in ("DDP", "FSDP2")
            for n in (8, 64)
        },
        "jobs": {
            f"{text}, {machines.name}": job(layers, machines, tokens=tokens, micro_batch=micro_batch)
            for text, tokens in corpora.items()
            for machines in MACHINES
        },
        "tokens": corpora,
    }


def told(found: Mapping[str, Any]) -> str:
    """The tables."""
    parts = list(found["operations"]["layers"])
    work = [
        [name, *(f"{each[p] / 1e6:.1f}" for p in parts), f"{sum(each.values()) / 1e6:.0f}"]
        for name, each in found["operations"].items()
    ]
    kept = list(next(iter(found["memory"].values())))
    held = [
        [name, *(f"{each[k] / 2**30:.2f}" for k in kept), f"{sum(each.values()) / 2**30:.2f}"]
        for name, each in found["memory"].items()
    ]
    sent = [[name, f"{each / 1e6:.0f}"] for name, each in found["network"].items()]
    jobs = [
        [name, *(f"{each[k] * 1e3:.1f}" for k in ("compute", "network"))]
        + [f"{each[k]:.2f}" for k in ("hours at best", "hours at worst", "gpu hours at worst")]
        for name, each in found["jobs"].items()
    ]
    times = ["arithmetic, ms/step", "network, ms/step", "hours, overlapped", "hours, one after the other", "GPU hours"]
    return "\n\n".join(
        [
            table(["MFLOP a token", *parts, "together"], work),
            table(["GiB in a process", *kept, "together"], held),
            table(["setting, processes", "MB sent by a process in a step"], sent),
            table(["job", *times], jobs),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables and saves the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--micro-batch", type=int, default=64 * 512, help="tokens of a process in a step")
    parser.add_argument("--bytes-per-token", type=float, default=7.4, help="of prepared rows")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    found = results(options.micro_batch, options.bytes_per_token)
    print(told(found))
    if options.out is not None:
        save(options.out, {"micro_batch": options.micro_batch, **found})


if __name__ == "__main__":
    main()
