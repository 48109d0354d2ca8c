"""Distils a student as a recipe says, and writes its page.

accelerate launch recipes/distill.py RECIPE.yaml [key=value ...]
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint, set_seed

from distil_trainer import DistillationTrainer, build_student, layer_map, methods, student_config
from distil_trainer.data import find_files, group_tokens, load_text, sample_rows, tokenize_text
from distil_trainer.errors import RecipeError
from distil_trainer.facts import cached_revision, hub_id
from distil_trainer.page import PAGE
from distil_trainer.recipe import DistillRecipe, TeacherSource, TextData, load_recipe, model_path
from distil_trainer.record import DataFacts
from distil_trainer.speed import measure_speeds
from distil_trainer.teacher import fast_dtype


def main(path: str, overrides: list[str]) -> None:
    """Everything from the recipe to the finished folder."""
    recipe = load_recipe(DistillRecipe, path, overrides)
    checkpoint = newest_checkpoint(recipe)
    folder = Path(recipe.output_dir)
    args = TrainingArguments(output_dir=recipe.output_dir, **recipe.training)
    set_seed(args.seed)
    source = model_path(recipe.teacher.name)
    teacher = getattr(transformers, recipe.teacher.model_class).from_pretrained(
        source, revision=recipe.teacher.revision or "main", use_safetensors=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=recipe.teacher.revision or "main")
    student = build_student(
        teacher,
        student_config(teacher.config, num_hidden_layers=recipe.student.num_hidden_layers),
        layers=recipe.student.layers,
        freeze_embeddings=recipe.student.freeze_embeddings,
        dropout=recipe.student.dropout,
    )
    alignments = recipe.alignments or methods.METHODS[recipe.method or ""](
        student_layers=recipe.student.num_hidden_layers, teacher_layers=teacher.config.num_hidden_layers
    )
    with args.main_process_first(desc="preparing the text"):
        train = read_text(recipe.data, recipe.data.files, tokenizer)
        if recipe.data.max_examples is not None:
            train = sample_rows(train, recipe.data.max_examples, seed=args.seed)
        evaluation = read_text(recipe.data, recipe.data.validation, tokenizer) if recipe.data.validation else None
    collator: Any = DataCollatorWithPadding(tokenizer)
    if recipe.data.mlm_probability is not None:
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=recipe.data.mlm_probability)

    models: Any = {"teacher": teacher.to(args.device), "student": student.to(args.device)}
    # Before the teacher is cast: the page compares both as they are stored.
    speed = measure_speeds(models, length=min(recipe.data.max_length, 128)) if args.process_index == 0 else {}
    trainer = DistillationTrainer(
        model=student,
        args=args,
        teacher_model=teacher,
        teacher_dtype=getattr(torch, recipe.teacher.dtype) if recipe.teacher.dtype else fast_dtype(args.device),
        alignments=alignments,
        task_weight=recipe.task_weight,
        balance_terms=recipe.balance_terms,
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=collator,
        processing_class=tokenizer,
        page_facts={
            "student": {
                "name": recipe.student.name,
                "license": recipe.student.license,
                "license_name": recipe.student.license_name,
                "license_link": recipe.student.license_link,
                "language": recipe.student.language,
            },
            "teacher": teacher_facts(recipe.teacher),
            "data": [data_facts(recipe.data, train)],
            "method": recipe.method,
            "speed": speed,
        },
    )
    if trainer.is_world_process_zero():
        print(f"{student.provenance}\n{layer_map(alignments)}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    if evaluation is not None:
        trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model()
    if trainer.is_world_process_zero():
        # The folder is made to be published: this pickle holds paths of this machine, and a token if one was given.
        (folder / "training_args.bin").unlink()
        trainer.create_model_card()
        print(f"The student and its page: {folder / PAGE}")
    trainer.end()


def teacher_facts(source: TeacherSource) -> dict[str, Any]:
    """What the card says of the teacher besides what the model itself tells."""
    name = source.hub_id or hub_id(source.name)
    facts = {
        "name": source.title or (name.split("/")[-1] if name else None),
        "id": name,
        "base_model": source.base_model,
        "revision": cached_revision(name, source.revision) if name else None,
        "license": source.license,
        "language": source.language,
    }
    return {key: value for key, value in facts.items() if value is not None}


def read_text(data: TextData, patterns: tuple[str, ...], tokenizer: Any) -> Dataset:
    """The files that the patterns name, tokenised."""
    texts = load_text(find_files(patterns), column=data.column)
    if data.group:
        return group_tokens(tokenize_text(texts, tokenizer, None), data.max_length)
    return tokenize_text(texts, tokenizer, data.max_length)


def data_facts(data: TextData, train: Dataset) -> DataFacts:
    """The training text for the record, with exact counts."""
    return DataFacts(
        name=data.name or ", ".join(Path(file).name for file in data.files),
        role="train",
        hub_id=data.hub_id,
        revision=data.revision,
        license=data.license,
        language=data.language,
        examples=len(train),
        tokens=sum(len(ids) for ids in train["input_ids"]),
        size_bytes=sum(os.stat(f).st_size for f in find_files(data.files)) if data.max_examples is None else None,
        url=data.url,
        description=data.description,
        filtering=data.filtering,
    )


def newest_checkpoint(recipe: DistillRecipe) -> str | None:
    """The checkpoint to go on from, if the recipe says so; it is never taken, or overwritten, by surprise."""
    folder = recipe.output_dir
    found = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    if found and not recipe.resume:
        raise RecipeError(
            f"{folder} holds checkpoints of an earlier run. Go on from the newest with resume=true, "
            "or choose another output_dir."
        )
    return found


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
