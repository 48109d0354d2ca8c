"""Every YAML file is one that its script takes, and none is forgotten."""

from dataclasses import MISSING, fields

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from tiny_runs import ROOT

from distil_trainer.recipe import (
    AdaptRecipe,
    DistillRecipe,
    FinetuneRecipe,
    GenerateRecipe,
    PrepareRecipe,
    PublishRecipe,
    load_recipe,
)
from distil_trainer.recipe.strict import read_tree

STAGES = (AdaptRecipe, DistillRecipe, FinetuneRecipe, GenerateRecipe, PrepareRecipe, PublishRecipe)
HARDWARE = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
SCIENCE = sorted(set((ROOT / "recipes").rglob("*.yaml")) - set(HARDWARE))


def is_required(field):
    return field.default is MISSING and field.default_factory is MISSING


@pytest.mark.parametrize("path", SCIENCE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_recipe_is_of_one_stage(path):
    keys = set(read_tree(path))
    (stage,) = [stage for stage in STAGES if {field.name for field in fields(stage) if is_required(field)} <= keys]
    assert isinstance(load_recipe(stage, path), stage)


@pytest.mark.parametrize("path", HARDWARE, ids=lambda path: path.name)
def test_accelerate_takes_the_hardware(path):
    assert load_config_from_file(str(path)).num_processes >= 1


def test_the_reference_job_is_complete():
    names = {path.name for path in (ROOT / "recipes" / "swedish_mbert").glob("*.yaml")}
    assert {"corpus.yaml", "adapt.yaml", "as_published.yaml", "distill.yaml", "publish.yaml"} <= names
    assert {"finetune_sucx3.yaml", "finetune_wikiann_en.yaml"} <= names
    assert {path.stem for path in HARDWARE} == {"cpu", "single_gpu", "ddp", "fsdp2", "deepspeed_zero3"}
