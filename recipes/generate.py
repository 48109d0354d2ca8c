"""Lets a causal language model write the texts that its student will learn from.

    accelerate launch recipes/generate.py RECIPE.yaml [key=value ...]

The files are there when they are finished, not before. The first process writes; start one.
"""

import json
import sys
import time
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from tqdm.auto import tqdm
from transformers import set_seed

from distil_trainer import Record
from distil_trainer.data import that_pads
from distil_trainer.errors import RecipeError
from distil_trainer.facts import model_facts, process_facts
from distil_trainer.files import write_atomically
from distil_trainer.recipe import GenerateRecipe, known_facts, load_model, load_recipe, load_tokenizer
from distil_trainer.record import DataFacts

RECORD = "generation.json"


def main(path: str, overrides: list[str]) -> None:
    """Everything from the recipe to the finished files."""
    recipe = load_recipe(GenerateRecipe, path, overrides)
    if not PartialState().is_main_process:
        return
    folder = Path(recipe.output_dir)
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(f"{folder} holds files. Delete the folder, or choose another output_dir.")
    started = time.perf_counter()
    tokenizer = load_tokenizer(recipe.model.name, recipe.model.revision)
    model = load_model(recipe.model).to(PartialState().device).eval()
    set_seed(recipe.seed)
    texts, tokens = write_texts(recipe, model, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", texts[: recipe.texts]), ("validation", texts[recipe.texts :])):
        if part:
            write_atomically(folder / f"{name}.jsonl", "".join(map(as_line, part)).encode())
    model_name = known_facts(recipe.model).get("name") or Path(recipe.model.name).name
    record = Record(
        stage="prepare",
        teacher=model_facts(model, **{"name": model_name} | known_facts(recipe.model)),
        data=(DataFacts(name=f"texts written by {model_name}", role="train", examples=recipe.texts),),
        arguments={k: v for k, v in asdict(recipe).items() if k not in ("model", "output_dir") and v not in (None, ())},
        seconds=time.perf_counter() - started,
        tokens=tokens,
        seeds=(recipe.seed,),
        **process_facts(),
    )
    record.save(folder / RECORD)
    print(f"{len(texts):,} texts, {tokens:,} tokens, {time.perf_counter() - started:,.1f} seconds: {folder}")


@torch.no_grad()
def write_texts(recipe: GenerateRecipe, model: Any, tokenizer: Any) -> tuple[list[str], int]:
    """The texts, and how many tokens they have. A text that is empty is written again."""
    wanted = recipe.texts + recipe.validation_texts
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    filler = that_pads(tokenizer).pad_token_id
    texts: list[str] = []
    tokens = empty = 0
    starts = cycle([start_of(prompt, model, tokenizer) for prompt in recipe.prompts or ("",)])
    with tqdm(total=wanted, desc="Writing texts") as progress:
        while len(texts) < wanted:
            start = next(starts).to(model.device)
            rows = start.expand(min(recipe.batch_size, wanted - len(texts)), -1)
            written = model.generate(
                input_ids=rows,
                attention_mask=torch.ones_like(rows),
                do_sample=True,
                temperature=recipe.temperature,
                top_p=recipe.top_p,
                top_k=0,
                max_new_tokens=recipe.max_new_tokens,
                pad_token_id=filler,
            )
            for row in written.tolist():
                ids = until_end(row, start.size(1), ends)
                if not tokenizer.decode(ids, skip_special_tokens=True).strip():
                    empty += 1
                    continue
                texts.append(as_read(ids, tokenizer))
                tokens += len(ids)
            if empty > wanted:
                raise RecipeError(
                    f"{recipe.model.name} wrote {empty} empty texts; give prompts, or take another model."
                )
            progress.update(len(texts) - progress.n)
    return texts, tokens


def until_end(ids: list[int], start: int, ends: set[int]) -> list[int]:
    """The tokens up to the one that ends the text, with it; what follows is padding."""
    end = next((place for place in range(start, len(ids)) if ids[place] in ends), len(ids))
    return ids[: end + 1]


def as_read(ids: list[int], tokenizer: Any) -> str:
    """The text of these tokens, special ones spelled out, but for a first one that the tokenizer puts there itself."""
    bare, whole = (tokenizer("a", add_special_tokens=adds)["input_ids"] for adds in (False, True))
    puts_it_there = bare[:1] != whole[:1] == ids[:1]
    return str(tokenizer.decode(ids[1:] if puts_it_there else ids, clean_up_tokenization_spaces=False))


def start_of(prompt: str, model: Any, tokenizer: Any) -> torch.Tensor:
    """The tokens that a text begins with: int64 [1, at least 1]."""
    ids = tokenizer(prompt)["input_ids"] if prompt else []
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else model.generation_config.bos_token_id
    if not ids and first is None:
        raise RecipeError(f"{model.name_or_path} has no first token (bos_token_id); give prompts.")
    if first is not None and ids[:1] != [first]:
        ids = [first, *ids]
    return torch.tensor([ids])


def as_line(text: str) -> str:
    """A text as a line of JSON."""
    return json.dumps({"text": text}, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
