"""Trains a masked-language model further on text (a teacher, before it is distilled), or from scratch.

accelerate launch recipes/adapt.py RECIPE.yaml [key=value ...]
"""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments, set_seed

from distil_trainer import Record
from distil_trainer.errors import RecipeError
from distil_trainer.facts import (
    all_arguments,
    changed_arguments,
    command,
    git_commit,
    hardware,
    loss_curve,
    model_facts,
    now,
    peak_memory_gib,
    versions,
)
from distil_trainer.head import LanguageModelHead
from distil_trainer.recipe import AdaptRecipe, known_facts, load_model, load_recipe, load_tokenizer, newest_checkpoint
from distil_trainer.record import DataFacts, Evaluation
from distil_trainer.text import read_text

RECORD = "adaptation.json"


def main(path: str, overrides: list[str]) -> None:
    """Everything from the recipe to the finished folder."""
    recipe = load_recipe(AdaptRecipe, path, overrides)
    checkpoint = newest_checkpoint(recipe)
    args = TrainingArguments(output_dir=recipe.output_dir, **recipe.training)
    set_seed(args.seed)
    tokenizer = load_tokenizer(recipe.model)
    with args.main_process_first(desc="preparing the text"):
        text = read_text(recipe.data, tokenizer, seed=args.seed)
    whole = load_model(recipe.model, from_scratch=recipe.from_scratch)
    model = trained_part(whole, recipe)
    if recipe.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = recipe.dropout
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=text.train,
        eval_dataset=text.validation,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=recipe.data.mlm_probability or 0.0),
        processing_class=tokenizer,
    )
    with LanguageModelHead(model).on_labels():  # most tokens have no label, and a head costs as much as the blocks
        trainer.train(resume_from_checkpoint=checkpoint)
        loss = trainer.evaluate()["eval_loss"] if text.validation is not None else None
    if trainer.is_world_process_zero():
        folder = Path(recipe.output_dir)
        whole.load_state_dict(model.state_dict(), strict=False)
        whole.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        record_of(recipe, trainer, whole, text.facts, loss).save(folder / RECORD)
        if loss is not None:
            print(f"perplexity of masked tokens: {math.exp(loss):.2f}")
        print(f"The model: {folder}")
    trainer.accelerator.end_training()


def trained_part(whole: Any, recipe: AdaptRecipe) -> Any:
    """The model with the masked-language head alone: a second head would want labels of its own."""
    model = load_model(recipe.model, "AutoModelForMaskedLM", from_scratch=recipe.from_scratch)
    elsewhere = sorted(model.state_dict().keys() - whole.state_dict().keys())
    if elsewhere:
        raise RecipeError(
            f"expected {type(whole).__name__} to hold the masked-language head of {type(model).__name__}; it lacks "
            f"{', '.join(elsewhere[:3])}. Set model.model_class to AutoModelForMaskedLM."
        )
    model.load_state_dict({name: value for name, value in whole.state_dict().items() if name in model.state_dict()})
    return model


def record_of(recipe: AdaptRecipe, trainer: Trainer, whole: Any, data: DataFacts, loss: float | None) -> Record:
    """What was trained, on what, how, and how good it is."""
    state = trainer.state
    runtimes = [entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry]
    known: dict[str, Any] = {"name": Path(recipe.output_dir).name, **known_facts(recipe.model)}
    known.pop("revision", None)  # of the model that it was before
    known["base_model"] = recipe.model.base_model or known.pop("id", None)
    score = Evaluation(
        role="teacher",
        task_type="fill-mask",
        dataset_name=f"{data.name}, held-out text",
        metric_type="perplexity",
        metric_name="Perplexity of masked tokens",
        higher_is_better=False,
        value=math.exp(loss or 0.0),
    )
    return Record(
        stage="adapt",
        teacher=model_facts(whole, folder=recipe.output_dir, **known),
        data=(data,),
        hyperparameters=changed_arguments(trainer.args),
        arguments=all_arguments(trainer.args),
        versions=versions(),
        hardware=hardware(),
        date=now(),
        seconds=runtimes[-1] if runtimes else None,
        steps=state.global_step,
        tokens=int(state.num_input_tokens_seen) or None,
        peak_memory_gib=peak_memory_gib(),
        loss_curve=loss_curve(state.log_history),
        command=command(),
        git_commit=git_commit(),
        seeds=(trainer.args.seed,),
        evaluations=() if loss is None else (score,),
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
