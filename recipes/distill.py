"""Distils a student as a recipe says, and writes its page.

accelerate launch recipes/distill.py RECIPE.yaml [key=value ...]
"""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from transformers import DataCollatorWithPadding, TrainingArguments
from transformers.trainer_utils import set_seed

from distil_trainer import DistillationTrainer, build_student, layer_map, student_config
from distil_trainer.data import that_pads
from distil_trainer.errors import RecipeError
from distil_trainer.importance import important_blocks
from distil_trainer.page import PAGE
from distil_trainer.plan import student_plan
from distil_trainer.recipe import (
    DistillRecipe,
    known_facts,
    load_model,
    load_recipe,
    load_tokenizer,
    newest_checkpoint,
)
from distil_trainer.speed import measure_speeds
from distil_trainer.teacher import fast_dtype
from distil_trainer.text import Text, raw_texts, read_text
from distil_trainer.text.masking import MaskingCollator
from distil_trainer.text.prepared import prepared_tokenizer
from distil_trainer.vocabulary import match_pieces, trim_vocabulary
from distil_trainer.width import important_units
from distil_trainer.word_tables import trim_embeddings

UNDISTILLED = "undistilled"
CALIBRATION_ROWS = 256  # of the text, to tell which blocks and units matter


def main(path: str, overrides: list[str]) -> None:
    """Everything from the recipe to the finished folder."""
    recipe = load_recipe(DistillRecipe, path, overrides)
    checkpoint = newest_checkpoint(recipe)
    folder = Path(recipe.output_dir)
    args = TrainingArguments(output_dir=recipe.output_dir, **recipe.training)
    set_seed(args.seed)
    tokenizer = load_tokenizer(recipe.teacher.name, recipe.teacher.revision)
    check_tokens(recipe, tokenizer)
    with args.main_process_first(desc="preparing the text"):
        tokenizer, kept_ids = vocabulary_of(recipe, tokenizer)
        text = read_text(recipe.data, tokenizer, seed=args.seed, processes=args.world_size)
    teacher, *others = (load_model(source).to(args.device) for source in recipe.teachers)
    reads_them = teacher if kept_ids is None else trim_embeddings(teacher, kept_ids)  # the student's tokens
    spec = recipe.student
    config = student_config(teacher.config, num_hidden_layers=spec.num_hidden_layers, **spec.widths)
    is_cut = bool(spec.widths) and spec.init == "copy"
    layers: Any = spec.layers
    batches = calibration_batches(text, tokenizer, args.seed) if is_cut or layers == "importance" else []
    if layers == "importance":
        layers = important_blocks(reads_them, batches, spec.num_hidden_layers)
    student = build_student(
        teacher,
        config,
        layers=layers,
        units=important_units(reads_them, batches, config) if is_cut else None,
        init=spec.init,
        freeze_embeddings=spec.freeze_embeddings,
        dropout=spec.dropout,
        kept_ids=kept_ids,
    )
    plan = student_plan(teacher, student)
    alignments, task_weight = recipe.terms(*(model.config.num_hidden_layers for model in (teacher, *others)))
    collator: Any = DataCollatorWithPadding(that_pads(tokenizer))
    if recipe.data.mlm_probability is not None:
        collator = MaskingCollator(tokenizer, mlm_probability=recipe.data.mlm_probability, seed=args.seed)

    models: Any = {"teacher": teacher, "student": student.to(args.device)}
    # Before the teacher is cast: the page compares both as they are stored.
    speed = measure_speeds(models, length=min(recipe.data.max_length, 128)) if args.process_index == 0 else {}
    trainer = DistillationTrainer(
        model=student,
        args=args,
        teacher_model=[teacher, *others],
        teacher_weights=recipe.teacher_weights or None,
        teacher_dtype=getattr(torch, recipe.teacher.dtype) if recipe.teacher.dtype else fast_dtype(args.device),
        alignments=alignments,
        task_weight=task_weight,
        balance_terms=recipe.balance_terms,
        kept_ids=kept_ids,
        teacher_cache=recipe.teacher_cache,
        on_nonfinite=recipe.on_nonfinite,
        train_dataset=text.train,
        eval_dataset=text.validation,
        data_collator=collator,
        callbacks=[collator] if isinstance(collator, MaskingCollator) else None,
        processing_class=tokenizer,
        page_facts={
            "student": {
                "name": recipe.student.name,
                "license": recipe.student.license,
                "license_name": recipe.student.license_name,
                "license_link": recipe.student.license_link,
                "language": recipe.student.language,
            },
            "teacher": known_facts(recipe.teacher),
            "other_teachers": [known_facts(source) for source in recipe.other_teachers],
            "data": [text.facts],
            "method": recipe.method,
            "speed": speed,
        },
    )
    if trainer.is_world_process_zero():
        if recipe.save_undistilled and (checkpoint is None or not (folder / UNDISTILLED).exists()):
            student.save_pretrained(folder / UNDISTILLED)
            tokenizer.save_pretrained(folder / UNDISTILLED)
        print(f"{plan}\n{layer_map(alignments)}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    if text.validation is not None:
        trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model()
    if trainer.is_world_process_zero():
        # The folder is made to be published: this pickle holds paths of this machine, and a token if one was given.
        (folder / "training_args.bin").unlink()
        trainer.create_model_card()
        print(f"The student and its page: {folder / PAGE}")
    trainer.end()


def check_tokens(recipe: DistillRecipe, tokenizer: Any) -> None:
    """Raise RecipeError unless all teachers know the same pieces under the same ids."""
    for number, other in enumerate(recipe.other_teachers):
        if load_tokenizer(other.name, other.revision).get_vocab() != tokenizer.get_vocab():
            raise RecipeError(
                f"other_teachers[{number}]: expected the vocabulary of {recipe.teacher.name}, because all teachers "
                f"read the same ids; {other.name} has another. Choose teachers with one tokenizer."
            )


def calibration_batches(text: Text, tokenizer: Any, seed: int) -> list[Any]:
    """Rows of the training text, padded in batches: they tell which blocks and units of the teacher matter."""
    rows = list(islice(text.train.shuffle(seed=seed), CALIBRATION_ROWS))
    rows = [{name: row[name] for name in tokenizer.model_input_names if name in row} for row in rows]
    padding = that_pads(tokenizer)
    return [padding.pad(rows[i : i + 16], return_tensors="pt") for i in range(0, len(rows), 16)]


def vocabulary_of(recipe: DistillRecipe, tokenizer: Any) -> tuple[Any, tuple[int, ...] | None]:
    """The student's tokenizer, and the teacher's ids of its pieces where these are not all."""
    spec = recipe.student.vocabulary
    if spec is None:
        return tokenizer, None
    if recipe.data.prepared is not None:
        own = prepared_tokenizer(recipe.data.prepared)
        return own, match_pieces(tokenizer, own)
    trimmed = trim_vocabulary(tokenizer, raw_texts(recipe.data, spec.texts), **spec.limits)
    if PartialState().is_main_process:
        print(trimmed, flush=True)
    return trimmed.tokenizer, trimmed.kept_ids


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
