"""A student that FSDP2 shares out over two processes learns what it learns in one, and is saved whole."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import sharded_runs
import torch
from forked import FSDP, run_forked, use_fsdp_on_cpus
from safetensors.torch import load_file
from test_processes import make_trainer, train_and_save
from transformers import BertForMaskedLM

from distil_trainer.errors import TrainingSetupError
from distil_trainer.sharding import check_sharding

CASES = ["lightmbert", "lightmbert with logits and labels", "tinybert with projections", "minilmv2", "two teachers"]


def train_all(folder):
    from accelerate.state import AcceleratorState

    use_fsdp_on_cpus()
    found = {}
    for name in CASES:
        AcceleratorState._reset_state()  # the classes of the blocks are kept in it
        found[name] = train_and_save(make_trainer(Path(folder, "two"), name))
    if os.environ["RANK"] == "0":
        torch.save(found, f"{folder}/found.pt")


def test_a_sharded_student_makes_the_update_of_a_whole_one(tmp_path):
    output = run_forked("test_sharded", "train_all", tmp_path, **FSDP)
    assert "view tensor" not in output
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for name in CASES:
        one, two = train_and_save(make_trainer(tmp_path / "one", name)), found[name]
        assert two["saved"].keys() == one["saved"].keys(), name
        difference = sum((two["saved"][key] - one["saved"][key]).square().sum() for key in one["saved"]).sqrt()
        assert difference <= 1e-4 * one["update"], name
        assert two["logs"] == pytest.approx(one["logs"], rel=1e-4), name


@pytest.mark.slow
def test_other_architectures_and_mixed_precision(tmp_path):
    (tmp_path / "kinds").write_text("\n".join(sharded_runs.KINDS))
    run_forked("sharded_runs", "train_all", tmp_path, **FSDP)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for kind in sharded_runs.KINDS:
        one, two = sharded_runs.trained(tmp_path / "one", kind), found[kind]
        # FSDP2 computes in bfloat16 weights, and adds their gradients up, where one process casts from float32
        tolerance = 2e-2 if kind == "bf16" else 1e-4
        assert two["saved"].keys() == one["saved"].keys(), kind
        difference = sum((two["saved"][key] - one["saved"][key]).square().sum() for key in one["saved"]).sqrt()
        assert difference <= tolerance * one["update"], kind
        assert {weight.dtype for weight in two["saved"].values()} == {torch.float32}, kind
        assert two["logs"] == pytest.approx(one["logs"], rel=tolerance), kind


def resume(folder):
    """A whole run with checkpoints, and its second half once more."""
    use_fsdp_on_cpus()
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "max_grad_norm": 1.0}
    whole = make_trainer(Path(folder, "whole"), "tinybert with projections", **settings)
    whole.train()
    whole.save_model()
    resumed = make_trainer(Path(folder, "resumed"), "tinybert with projections", **settings)
    resumed.train(resume_from_checkpoint=str(Path(folder, "whole", "checkpoint-2")))
    resumed.save_model()


@pytest.mark.slow
def test_a_sharded_run_goes_on_with_the_same_bits(tmp_path):
    run_forked("test_sharded", "resume", tmp_path, **FSDP)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    maps = [load_file(tmp_path / name / "checkpoint-4" / "projections.safetensors") for name in ("whole", "resumed")]
    assert all(torch.equal(maps[0][key], maps[1][key]) for key in maps[0])
    _, report = BertForMaskedLM.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fsdp_version": 1}, "fsdp_version should be 2: FSDP1 flattens the weights"),
        ({"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading should be False: with it a teacher"),
        ({"state_dict_type": "StateDictType.SHARDED_STATE_DICT"}, "fsdp_state_dict_type should be FULL_STATE_DICT"),
    ],
)
def test_settings_with_which_something_would_be_wrong(wrong, message):
    right = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "state_dict_type": "FULL_STATE_DICT"}
    check_sharding(SimpleNamespace(**right))
    with pytest.raises(TrainingSetupError, match=message):
        check_sharding(SimpleNamespace(**right | wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"compiles": True}, "torch_compile does not go with FSDP2: what is compiled hides the blocks"),
        ({"balances": True}, "balance_terms does not go with FSDP2: it walks back through blocks"),
    ],
)
def test_what_does_not_go_with_it(wrong, message):
    with pytest.raises(TrainingSetupError, match=message):
        check_sharding(SimpleNamespace(), **wrong)
