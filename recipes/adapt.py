"""Trains a masked-language model further on text (a teacher, before it is distilled), or from scratch.

accelerate launch recipes/adapt.py RECIPE.yaml [key=value ...]
"""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import EvalLoopOutput

from distil_trainer import Record
from distil_trainer.compatibility import refuse_data_parallel
from distil_trainer.data import IGNORED_LABEL
from distil_trainer.errors import RecipeError
from distil_trainer.facts import model_facts, process_facts, training_facts
from distil_trainer.head import LanguageModelHead
from distil_trainer.nonfinite import FiniteTrainer
from distil_trainer.recipe import AdaptRecipe, known_facts, load_model, load_recipe, load_tokenizer, newest_checkpoint
from distil_trainer.record import DataFacts, Evaluation
from distil_trainer.text import read_text
from distil_trainer.text.masking import MaskingCollator

RECORD = "adaptation.json"


def main(path: str, overrides: list[str]) -> None:
    """Everything from the recipe to the finished folder."""
    recipe = load_recipe(AdaptRecipe, path, overrides)
    checkpoint = newest_checkpoint(recipe)
    args = TrainingArguments(output_dir=recipe.output_dir, **recipe.training)
    refuse_data_parallel(args)
    set_seed(args.seed)
    tokenizer = load_tokenizer(recipe.model.name, recipe.model.revision)
    with args.main_process_first(desc="preparing the text"):
        text = read_text(recipe.data, tokenizer, seed=args.seed, processes=args.world_size)
    whole = load_model(recipe.model, from_scratch=recipe.from_scratch)
    model = trained_part(whole, recipe)
    if recipe.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = recipe.dropout
    collator = MaskingCollator(tokenizer, mlm_probability=recipe.data.mlm_probability or 0.0, seed=args.seed)
    trainer = MaskedTokenTrainer(
        model=model,
        args=args,
        train_dataset=text.train,
        eval_dataset=text.validation,
        data_collator=collator,
        callbacks=[collator],
        processing_class=tokenizer,
        on_nonfinite=recipe.on_nonfinite,
    )
    with LanguageModelHead(model).on_labels():  # most tokens have no label, and a head costs as much as the blocks
        trainer.train(resume_from_checkpoint=checkpoint)
        loss = trainer.evaluate()["eval_loss"] if text.validation is not None else math.nan
    # Every process takes part: with FSDP or DeepSpeed each holds a share.
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        folder = Path(recipe.output_dir)
        whole.load_state_dict(weights, strict=False)
        whole.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        record_of(recipe, trainer, whole, text.facts, loss).save(folder / RECORD)
        if math.isfinite(loss):
            print(f"perplexity of masked tokens: {math.exp(loss):.2f}")
        print(f"The model: {folder}")
    trainer.accelerator.end_training()


class MaskedTokenTrainer(FiniteTrainer):
    """A `Trainer` whose loss is the mean over the masked tokens of a whole step, or of the whole validation text.

    `Trainer` leaves that to the model, and most models give the mean over their own batch instead: the sum of those
    grows with the number of batches of a step, and of processes.

    Overrides of `Trainer`: `compute_loss`, `_get_num_items_in_batch`, `evaluation_loop`, and those of
    `nonfinite.FiniteTrainer`.
    """

    loss_is_scaled_for_ga = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The share of this batch in the mean over `num_items_in_batch` masked tokens, or the mean over its own."""
        outputs = model(**inputs)
        count = (inputs["labels"] != IGNORED_LABEL).sum()
        total = torch.where(count > 0, outputs["loss"] * count, 0.0)  # the mean over no token is NaN
        if model.training:
            loss = total * self.accelerator.num_processes / num_items_in_batch.clamp(min=1)  # DDP averages over them
        else:
            self._evaluated += torch.stack([total.double(), count.double()])
            loss = total / count.clamp(min=1)
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if not batch_samples:
            return super()._get_num_items_in_batch(batch_samples, device)
        count: Any = sum((batch["labels"] != IGNORED_LABEL).sum() for batch in batch_samples)
        return self.accelerator.reduce(count.to(device), reduction="sum")

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`."""
        self._evaluated: Tensor = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        total, count = self.accelerator.reduce(self._evaluated, reduction="sum").tolist()
        mean = {f"{metric_key_prefix}_loss": total / count if count else math.nan}
        return output._replace(metrics={**(output.metrics or {}), **mean})


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


def record_of(recipe: AdaptRecipe, trainer: Trainer, whole: Any, data: DataFacts, loss: float) -> Record:
    """What was trained, on what, how, and how good it is."""
    known = known_facts(recipe.model)
    known["name"] = recipe.model.title or Path(recipe.output_dir).absolute().name
    known.pop("revision", None)  # of the model that it was before
    before = known.pop("id", None) or recipe.model.base_model
    known["base_model"] = None if recipe.from_scratch else before
    score = Evaluation(
        role="teacher",
        task_type="fill-mask",
        dataset_name=f"{data.name}, held-out text",
        metric_type="perplexity",
        metric_name="Perplexity of masked tokens",
        higher_is_better=False,
        value=math.exp(loss) if math.isfinite(loss) else 0.0,
    )
    return Record(
        stage="adapt",
        teacher=model_facts(whole, folder=recipe.output_dir, **known),
        data=(data,),
        evaluations=(score,) if math.isfinite(loss) else (),
        **training_facts(trainer),
        **process_facts(),
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
