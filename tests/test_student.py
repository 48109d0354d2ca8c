import copy
import dataclasses

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForTokenClassification,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from distil_trainer.blocks import blocks
from distil_trainer.errors import DistilTrainerError, StudentError
from distil_trainer.student import Provenance, build_student, student_config

DEPTH = 6
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 99, "num_hidden_layers": DEPTH}
BERT = BertConfig(**SIZES, intermediate_size=64, max_position_embeddings=40, num_labels=3)
ROBERTA = RobertaConfig(**SIZES, intermediate_size=64, max_position_embeddings=40, num_labels=3)
XLMR = XLMRobertaConfig(**SIZES, intermediate_size=64, max_position_embeddings=40)
DISTILBERT = DistilBertConfig(**SIZES, hidden_dim=64, max_position_embeddings=40, sinusoidal_pos_embds=True)
ELECTRA = ElectraConfig(**SIZES, intermediate_size=64, embedding_size=16, max_position_embeddings=40)
MODERNBERT = ModernBertConfig(**SIZES, intermediate_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                              cls_token_id=1, sep_token_id=2)  # fmt: skip
MODELS = [
    (BertModel, BERT),
    (BertForMaskedLM, BERT),
    (BertForPreTraining, BERT),
    (BertForNextSentencePrediction, BERT),
    (BertForSequenceClassification, BERT),
    (BertForTokenClassification, BERT),
    (RobertaForMaskedLM, ROBERTA),
    (RobertaForTokenClassification, ROBERTA),
    (XLMRobertaForMaskedLM, XLMR),
    (DistilBertModel, DISTILBERT),
    (DistilBertForMaskedLM, DISTILBERT),
    (ElectraForPreTraining, ELECTRA),
    (ElectraForMaskedLM, ELECTRA),
]
every_model = pytest.mark.parametrize(
    ("model_class", "config"), MODELS, ids=[model_class.__name__ for model_class, _ in MODELS]
)


def make_teacher(model_class=BertForMaskedLM, config=BERT):
    torch.manual_seed(0)
    return model_class(copy.deepcopy(config)).eval()


def make_student(teacher, depth=3, layers="bottom", **kwargs):
    return build_student(teacher, student_config(teacher.config, num_hidden_layers=depth), layers, **kwargs)


def outputs(model):
    ids = torch.tensor([[2, 15, 30, 4], [2, 9, 4, 1]])
    with torch.no_grad():
        return [out for out in model(input_ids=ids).to_tuple() if isinstance(out, torch.Tensor)]


def assert_same_outputs(one, other):
    for left, right in zip(outputs(one), outputs(other), strict=True):
        assert torch.equal(left, right)


# --- the config


def test_config_changes_the_depth_and_nothing_else():
    config = student_config(BERT, num_hidden_layers=2)
    assert type(config) is BertConfig
    assert config.to_dict() == {**BERT.to_dict(), "num_hidden_layers": 2}
    assert BERT.num_hidden_layers == DEPTH


def test_config_takes_overrides_by_either_name():
    assert student_config(BERT, num_hidden_layers=2, hidden_dropout_prob=0.0).hidden_dropout_prob == 0.0
    config = student_config(DISTILBERT, num_hidden_layers=2, n_heads=8, hidden_size=64)
    assert (config.n_layers, config.num_attention_heads, config.dim) == (2, 8, 64)


def test_config_of_a_new_model_forgets_the_teachers_name_but_not_its_attention():
    teacher = copy.deepcopy(BERT)
    teacher.name_or_path, teacher._commit_hash, teacher._attn_implementation = "org/teacher", "abc", "eager"
    config = student_config(teacher, num_hidden_layers=2)
    assert config.name_or_path == ""
    assert not hasattr(config, "_commit_hash")
    assert config._attn_implementation == "eager"
    assert (teacher.name_or_path, teacher._commit_hash) == ("org/teacher", "abc")


def test_config_is_a_deep_copy():
    config = student_config(BERT, num_hidden_layers=2)
    config.id2label[0] = "changed"
    assert BERT.id2label[0] == "LABEL_0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_hidden_layers": 7}, "from 1 to the teacher's 6; got 7"),
        ({"num_hidden_layers": 0}, "from 1 to the teacher's 6; got 0"),
        ({"num_hidden_layers": True}, "whole number; got True"),
        ({"num_hidden_layers": 3.0}, "whole number; got 3.0"),
        (
            {"num_hidden_layers": 3, "hiden_dropout_prob": 0.0},
            "'hiden_dropout_prob'. Did you mean hidden_dropout_prob?",
        ),
        ({"num_hidden_layers": 3, "num_attention_heads": 5}, r"divide hidden_size \(32\); got 5"),
        ({"num_hidden_layers": 3, "hidden_size": "wide"}, "expected int, got str"),
    ],
)
def test_config_errors(arguments, message):
    with pytest.raises(StudentError, match=message):
        student_config(BERT, **arguments)


def test_config_takes_the_depth_once():
    with pytest.raises(StudentError, match="n_layers is the depth"):
        student_config(DISTILBERT, num_hidden_layers=3, n_layers=4)


def test_config_of_something_else_is_refused():
    with pytest.raises(StudentError, match=r"got BertModel\. Pass teacher\.config"):
        student_config(make_teacher(BertModel), num_hidden_layers=3)


# --- the weights


@every_model
def test_a_full_depth_student_is_the_teacher_bit_for_bit(model_class, config):
    teacher = make_teacher(model_class, config)
    student = make_student(teacher, depth=DEPTH)
    assert type(student) is model_class
    assert_same_outputs(student, teacher)


@every_model
def test_every_tensor_is_the_teachers_and_shares_no_memory_with_it(model_class, config):
    teacher = make_teacher(model_class, config)
    student = make_student(teacher, layers=[1, 4, 6])
    for block, number in zip(blocks(student), (1, 4, 6), strict=True):
        twin = blocks(teacher)[number - 1].state_dict()
        assert all(torch.equal(tensor, twin[name]) for name, tensor in block.state_dict().items())
    source = teacher.state_dict()
    outside = [name for name in student.state_dict() if ".layer." not in name]
    assert outside
    assert all(torch.equal(student.state_dict()[name], source[name]) for name in outside)
    assert not {t.data_ptr() for t in student.state_dict().values()} & {t.data_ptr() for t in source.values()}


@every_model
def test_saved_students_load_completely(model_class, config, tmp_path):
    student = make_student(make_teacher(model_class, config))
    student.save_pretrained(tmp_path)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.config.num_hidden_layers == 3
    assert_same_outputs(loaded, student)


@pytest.mark.parametrize(
    ("model_class", "config"),
    [(BertForMaskedLM, BERT), (DistilBertForMaskedLM, DISTILBERT), (RobertaForMaskedLM, ROBERTA)],
)
def test_tied_weights_stay_tied(model_class, config):
    student = make_student(make_teacher(model_class, config))
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
    with torch.no_grad():
        student.get_input_embeddings().weight.zero_()
    assert not student.get_output_embeddings().weight.any()


def test_untied_weights_are_copied_apart():
    config = copy.deepcopy(BERT)
    config.tie_word_embeddings = False
    teacher = make_teacher(config=config)
    student = make_student(teacher)
    assert student.cls.predictions.decoder.weight is not student.get_input_embeddings().weight
    assert torch.equal(student.cls.predictions.decoder.weight, teacher.cls.predictions.decoder.weight)


def test_a_teacher_that_was_untied_by_hand_is_refused():
    teacher = make_teacher()
    teacher.cls.predictions.decoder.weight = nn.Parameter(torch.zeros(99, 32))
    with pytest.raises(StudentError, match="tie_word_embeddings=False"):
        make_student(teacher)


@pytest.mark.parametrize(
    ("layers", "copied"),
    [("bottom", (1, 2, 3)), ("top", (4, 5, 6)), ("spread", (2, 4, 6)), ([1, 3, 5], (1, 3, 5)), ((6, 2, 1), (6, 2, 1))],
)
def test_which_blocks_are_copied(layers, copied):
    teacher = make_teacher()
    student = make_student(teacher, layers=layers)
    assert student.provenance.copied_blocks == copied
    for block, number in zip(blocks(student), copied, strict=True):
        source = blocks(teacher)[number - 1]
        assert torch.equal(block.attention.self.query.weight, source.attention.self.query.weight)


@pytest.mark.parametrize("depth", range(1, DEPTH + 1))
def test_spread_ends_at_the_top_and_repeats_nothing(depth):
    copied = make_student(make_teacher(), depth, "spread").provenance.copied_blocks
    assert copied[-1] == DEPTH
    assert list(copied) == sorted(set(copied))


def test_spread_of_twelve_to_six_is_tinyberts():
    teacher = make_teacher(config=BertConfig(**{**SIZES, "num_hidden_layers": 12}, intermediate_size=32))
    assert make_student(teacher, 6, "spread").provenance.copied_blocks == (2, 4, 6, 8, 10, 12)


def test_dtype_mode_and_gradients():
    teacher = make_teacher().to(torch.bfloat16).requires_grad_(False).train()
    student = make_student(teacher)
    assert student.dtype == torch.bfloat16 == student.config.dtype
    assert not student.training
    assert teacher.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_dropout_is_left_out_of_the_distillation_but_not_of_the_config():
    teacher = make_teacher()
    config = student_config(teacher.config, num_hidden_layers=3, hidden_dropout_prob=0.3)
    for dropout, expected in ((0.0, 0.0), (0.2, 0.2), (None, 0.3)):
        student = build_student(teacher, config, dropout=dropout)
        assert blocks(student)[0].output.dropout.p == expected
        assert student.config.hidden_dropout_prob == 0.3
    assert blocks(build_student(teacher, config))[0].output.dropout.p == 0.0
    with pytest.raises(StudentError, match="dropout should be a number from 0 to below 1"):
        build_student(teacher, config, dropout=1.0)


def test_the_callers_config_is_neither_shared_nor_changed():
    teacher = make_teacher()
    teacher.config.name_or_path = "org/teacher"
    student = build_student(teacher, teacher.config)
    student.config.hidden_dropout_prob = 0.5
    assert teacher.config.hidden_dropout_prob == 0.1


@every_model
def test_building_leaves_the_random_state_alone(model_class, config):
    teacher = make_teacher(model_class, config)
    before = torch.get_rng_state()
    make_student(teacher)
    assert torch.equal(torch.get_rng_state(), before)


@every_model
def test_frozen_embeddings(model_class, config):
    student = make_student(make_teacher(model_class, config), freeze_embeddings=True)
    embeddings = student.base_model.embeddings
    assert student.provenance.frozen == ("embeddings",)
    frozen = {id(parameter) for parameter in embeddings.parameters()}
    assert not any(parameter.requires_grad for parameter in embeddings.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters() if id(parameter) not in frozen)


def test_a_student_learns():
    student = make_student(make_teacher()).train()
    student(input_ids=torch.tensor([[2, 5, 9]]), labels=torch.tensor([[2, 5, 9]])).loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_kinds_of_blocks_must_match_those_copied():
    teacher = make_teacher(ModernBertForMaskedLM, MODERNBERT)
    assert_same_outputs(make_student(teacher, depth=DEPTH), teacher)
    config = student_config(teacher.config, num_hidden_layers=2)
    assert config.layer_types == ["full_attention", "sliding_attention"]
    with pytest.raises(StudentError, match=r"layer_types should be .*\['full_attention', 'full_attention'\]"):
        build_student(teacher, config, [1, 4])
    config = student_config(teacher.config, num_hidden_layers=2, layer_types=["full_attention"] * 2)
    assert build_student(teacher, config, [1, 4]).provenance.copied_blocks == (1, 4)
    with pytest.raises(StudentError, match=r"layers\.3\.attn_norm\.weight of the teacher is on one side only"):
        build_student(teacher, config, [4, 1])


# --- what is refused, before anything is copied


@pytest.fixture
def no_model_is_made(monkeypatch):
    teacher = make_teacher()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}

    def refuse(*_, **__):
        raise AssertionError("a model was made")

    monkeypatch.setattr(BertForMaskedLM, "__init__", refuse)
    yield teacher
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("botom", "one of bottom, top, spread, or a list .* got 'botom'"),
        ([1, 2], "name 3 teacher blocks, .* got 2"),
        ([1, 2, 2], r"at most once; repeated: \[2\]"),
        ([0, 1, 2], "from 1 to 6; got 0. Blocks are counted from one"),
        ([4, 5, 7], "from 1 to 6; got 7"),
        ([1, 2, "3"], "from 1 to 6; got '3'"),
        ([True, 2, 3], "from 1 to 6; got True"),
    ],
)
def test_wrong_layers(no_model_is_made, layers, message):
    with pytest.raises(StudentError, match=message):
        make_student(no_model_is_made, layers=layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 7}, "from 1 to the teacher's 6; got 7"),
        ({"num_attention_heads": 8}, r"num_attention_heads \(teacher 4, student 8\)"),
        ({"num_attention_heads": 5}, "divide hidden_size"),
    ],
)
def test_wrong_configs(no_model_is_made, change, message):
    config = BertConfig(**{**BERT.to_dict(), **change})
    with pytest.raises(StudentError, match=message):
        build_student(no_model_is_made, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 64}, r"Differs: hidden_size \(teacher 32, student 64\)\."),
        ({"intermediate_size": 32}, r"intermediate_size \(teacher 64, student 32\)"),
        ({"vocab_size": 100}, r"vocab_size \(teacher 99, student 100\)"),
        ({"num_labels": 5}, r"id2label"),
    ],
)
def test_only_depth_may_differ(change, message):
    teacher = make_teacher(BertForTokenClassification)
    config = student_config(teacher.config, num_hidden_layers=3, **change)
    with pytest.raises(StudentError, match=message):
        build_student(teacher, config)


def test_a_teacher_without_its_pooler_is_refused_by_name():
    teacher = BertModel(copy.deepcopy(BERT), add_pooling_layer=False)
    with pytest.raises(
        StudentError, match=r"pooler\.dense\.bias, pooler\.dense\.weight of the teacher.*add_pooling_layer"
    ):
        make_student(teacher)


def test_other_config_classes_and_other_teachers_are_refused():
    with pytest.raises(StudentError, match="should be a BertConfig like the teacher's; got RobertaConfig"):
        build_student(make_teacher(), ROBERTA)
    with pytest.raises(StudentError, match="transformers PreTrainedModel; got Linear"):
        build_student(nn.Linear(2, 2), BERT)
    assert issubclass(StudentError, DistilTrainerError)


# --- provenance


def test_provenance_is_frozen_and_prints_the_plan():
    provenance = make_student(make_teacher(), layers="spread", freeze_embeddings=True).provenance
    assert str(provenance).splitlines() == [
        "student block 1 <- teacher block 2",
        "student block 2 <- teacher block 4",
        "student block 3 <- teacher block 6",
        "frozen: embeddings",
    ]
    assert provenance == Provenance(
        teacher="", revision=None, teacher_layers=6, copied_blocks=(2, 4, 6), frozen=("embeddings",)
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        provenance.teacher = "other"


def test_provenance_keeps_a_hub_id_and_its_revision():
    teacher = make_teacher()
    teacher.name_or_path, teacher.config._commit_hash = "org/teacher", "0123abc"
    provenance = make_student(teacher).provenance
    assert (provenance.teacher, provenance.revision) == ("org/teacher", "0123abc")


def test_local_paths_do_not_leak(tmp_path, monkeypatch):
    make_teacher().save_pretrained(tmp_path / "private" / "my-teacher")
    teacher = BertForMaskedLM.from_pretrained(tmp_path / "private" / "my-teacher")
    student = make_student(teacher)
    assert student.provenance.teacher == "my-teacher"
    student.save_pretrained(tmp_path / "student")
    assert "private" not in (tmp_path / "student" / "config.json").read_text()
    monkeypatch.chdir(tmp_path)
    for name in ("private/my-teacher", "./private/my-teacher/", "/gone/far/my-teacher", "gone/far/my-teacher"):
        teacher.name_or_path = name
        assert make_student(teacher).provenance.teacher == "my-teacher"
