"""A quantised teacher teaches what a copy of it with the same numbers in float32 teaches, and stays as it is."""

from importlib.util import find_spec

import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM, BitsAndBytesConfig, TorchAoConfig

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config
from distil_trainer.errors import TrainingSetupError

KL = Alignment(feature="logits", loss="kl", temperature=2.0, positions="labels")
LAYERS = methods.lightmbert(student_layers=2, teacher_layers=4)


def int8_of_torchao():
    from torchao.quantization import Int8WeightOnlyConfig

    return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}


def nf4_of_bitsandbytes():
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return {"quantization_config": config, "device_map": "cpu"}


def in_float32(weight):
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state)
    return weight.dequantize() if type(weight.data) is not torch.Tensor else weight.data


def kinds_of(model):
    # not the shape: bitsandbytes packs 4-bit weights anew in the first forward on a CPU
    return {name: (type(weight.data), weight.dtype, weight.numel()) for name, weight in model.named_parameters()}


def losses(make_args, student, teacher, alignments, **settings):
    trainer = DistillationTrainer(
        model=student,
        args=make_args(),
        teacher_model=teacher,
        alignments=alignments,
        train_dataset=ragged_examples(),
        data_collator=pad_batch,
        **settings,
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.filterwarnings("ignore")  # of the packages themselves
@pytest.mark.parametrize("alignments", [LAYERS, (*LAYERS, KL)], ids=["layers", "and logits"])
@pytest.mark.parametrize(
    ("package", "quantised", "tolerance"),
    # the product of 4-bit weights on a CPU is formed in bfloat16
    [("torchao", int8_of_torchao, 1e-4), ("bitsandbytes", nf4_of_bitsandbytes, 5e-3)],
)
def test_a_quantised_teacher(make_args, tmp_path, package, quantised, tolerance, alignments):
    if find_spec(package) is None:
        pytest.skip(f"needs {package} (tried with torchao 0.18.0 and bitsandbytes 0.50.2)")
    plain = tiny_model(BertForMaskedLM, hidden_size=64, intermediate_size=128)
    plain.save_pretrained(tmp_path / "teacher")

    def student():
        return build_student(plain, student_config(plain.config, num_hidden_layers=2))

    teacher = BertForMaskedLM.from_pretrained(tmp_path / "teacher", **quantised())
    kinds = kinds_of(teacher)
    copied = BertForMaskedLM.from_pretrained(tmp_path / "teacher")
    with torch.no_grad():
        for weight, source in zip(copied.parameters(), teacher.parameters(), strict=True):
            weight.copy_(in_float32(source))
    assert kinds != kinds_of(copied)
    assert any(not torch.equal(a, b) for a, b in zip(copied.parameters(), plain.parameters(), strict=True))
    found = losses(make_args, student(), teacher, alignments)
    assert found == pytest.approx(losses(make_args, student(), copied, alignments), rel=tolerance)
    assert found == pytest.approx(losses(make_args, student(), plain, alignments), rel=0.1)
    assert kinds_of(teacher) == kinds
    with pytest.raises(TrainingSetupError, match="stays as it is; got teacher_dtype"):
        losses(make_args, student(), teacher, alignments, teacher_dtype=torch.float64)
