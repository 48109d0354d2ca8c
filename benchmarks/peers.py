"""One distillation step here and in TextBrewer 0.2.1: seconds a step, and what splitting a step does to the update.

    python benchmarks/peers.py --out peers.json        (needs the extra `benchmarks`)

Job: a BERT with MLM head (12 blocks, width 384, vocabulary 30,522, random weights, dropout 0.1) -> its bottom 6 blocks,
hidden states and attention probabilities of the last blocks (mse), AdamW, ragged batches of 8 rows up to 128 tokens.
TextBrewer as its examples use it: eager attention, both models whole, outputs of all layers. The two run in turns.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, TrainingArguments, set_seed

from distil_trainer import DistillationTrainer, build_student, methods, student_config
from distil_trainer.facts import cpu_name, now, versions

ROWS, LENGTH, STUDENT, TEACHER = 8, 128, 6, 12


def models(dropout: float, attention: str) -> tuple[Any, Any]:
    """Teacher and student, the same in every call."""
    set_seed(0)
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=384,
        num_hidden_layers=TEACHER,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.1,
    )
    teacher = BertForMaskedLM._from_config(config, attn_implementation=attention)
    student = build_student(teacher, student_config(config, num_hidden_layers=STUDENT))
    student.set_attn_implementation(attention)
    return teacher.eval(), student


def examples(count: int) -> list[dict[str, torch.Tensor]]:
    """Rows of 32 to 128 random tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(32, LENGTH + 1, (count,), generator=generator)
    return [{"input_ids": torch.randint(999, 30_000, (int(n),), generator=generator)} for n in lengths]


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pads to the longest row."""
    ids = [row["input_ids"] for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
    }


def ours(steps: int, *, accumulation: int = 1, **options: Any) -> tuple[torch.Tensor, float]:
    """The student's weights after some steps, and seconds a step."""
    teacher, student = models(options["dropout"], "sdpa")
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=ROWS // accumulation,
            gradient_accumulation_steps=accumulation,
            optim=options["optimizer"],
            learning_rate=options["learning_rate"],
            lr_scheduler_type="constant",
            max_grad_norm=0,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            train_sampling_strategy="sequential",
            use_cpu=True,
        )
        trainer = DistillationTrainer(
            model=student,
            args=args,
            teacher_model=teacher,
            alignments=methods.lightmbert(student_layers=STUDENT, teacher_layers=TEACHER),
            train_dataset=examples(ROWS * steps),
            data_collator=collate,
        )
        start = time.perf_counter()
        trainer.train()
        return weights(trainer.model), (time.perf_counter() - start) / steps


def textbrewer(steps: int, *, accumulation: int = 1, **options: Any) -> tuple[torch.Tensor, float]:
    """The same by TextBrewer's GeneralDistiller."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    teacher, student = models(options["dropout"], "eager")
    student.train()

    def adapt(batch: dict[str, torch.Tensor], outputs: Any) -> dict[str, Any]:
        return {
            "hidden": outputs.hidden_states,
            "attention": outputs.attentions,
            "inputs_mask": batch["attention_mask"],
        }

    matches = [
        {"layer_T": TEACHER, "layer_S": STUDENT, "feature": "hidden", "loss": "hidden_mse", "weight": 1},
        {"layer_T": TEACHER - 1, "layer_S": STUDENT - 1, "feature": "attention", "loss": "attention_mse", "weight": 1},
    ]
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingConfig(
            gradient_accumulation_steps=accumulation, ckpt_steps=10**6, log_dir=None, output_dir=folder, device="cpu"
        )
        config = DistillationConfig(hard_label_weight=0, kd_loss_weight=0, intermediate_matches=matches)
        distiller = GeneralDistiller(training, config, teacher, student, adapt, adapt)
        rows = ROWS // accumulation
        loader = torch.utils.data.DataLoader(examples(ROWS * steps), batch_size=rows, collate_fn=collate)
        optimizers: dict[str, Callable[..., Any]] = {"adamw_torch": torch.optim.AdamW, "sgd": torch.optim.SGD}
        optimizer = optimizers[options["optimizer"]](student.parameters(), lr=options["learning_rate"])
        start = time.perf_counter()
        with distiller:
            distiller.train(
                optimizer, loader, num_steps=steps, output_hidden_states=True, output_attentions=True, return_dict=True
            )
        return weights(student), (time.perf_counter() - start) / steps


def weights(model: Any) -> torch.Tensor:
    """All parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def split_difference(run: Callable[..., tuple[torch.Tensor, float]]) -> float:
    """Relative difference between the updates of one step as 1 x 8 rows and as 8 x 1."""
    options = {"dropout": 0.0, "optimizer": "sgd", "learning_rate": 1.0}
    start = weights(models(0.0, "sdpa")[1])
    whole, split = (run(1, accumulation=parts, **options)[0] - start for parts in (1, ROWS))
    return float((split - whole).norm() / whole.norm())


def main() -> None:
    """Prints the table and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    runs = {"distil_trainer": ours, "TextBrewer": textbrewer}
    options = {"dropout": 0.1, "optimizer": "adamw_torch", "learning_rate": 1e-4}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            seconds[name].append(run(arguments.steps, **copy.deepcopy(options))[1])
    rows = {
        name: {"seconds_per_step": statistics.median(seconds[name]), "split_difference": split_difference(run)}
        for name, run in runs.items()
    }
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    for name, row in rows.items():
        print(f"{name:16s} {row['seconds_per_step']:.3f} s/step   8x1 against 1x8: {row['split_difference']:.1e}")
    print(f"TextBrewer / distil_trainer, round by round: median {statistics.median(ratios):.2f}")
    facts = {"date": now(), "cpu": cpu_name(), "threads": torch.get_num_threads(), "versions": versions()}
    arguments.out.write_text(json.dumps({"rows": rows, "ratios": ratios, **facts}, indent=1))


if __name__ == "__main__":
    main()
