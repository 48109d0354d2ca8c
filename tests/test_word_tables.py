import copy

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    ViTConfig,
    ViTModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from distil_trainer.errors import StudentError
from distil_trainer.student import build_student, student_config
from distil_trainer.word_tables import trim_embeddings

PIECES, KEPT = 60, (0, 1, 2, *range(5, 40, 3), 41, 42, 59)
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": PIECES, "num_hidden_layers": 2}
BERT = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 40}
MODERN = {"pad_token_id": 0, "bos_token_id": 8, "eos_token_id": 59, "cls_token_id": 8, "sep_token_id": 59}
LLAMA = {"bos_token_id": 8, "eos_token_id": [41, 59], "pad_token_id": 2}
GPT2 = GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=PIECES, n_positions=40, bos_token_id=59, eos_token_id=59)
MODELS = [
    (BertForMaskedLM, BertConfig(**BERT)),
    (BertForMaskedLM, BertConfig(**BERT, tie_word_embeddings=False)),
    (BertForPreTraining, BertConfig(**BERT)),
    (BertForTokenClassification, BertConfig(**BERT, num_labels=3)),
    (RobertaForMaskedLM, RobertaConfig(**BERT)),
    (XLMRobertaForMaskedLM, XLMRobertaConfig(**BERT)),
    (DistilBertForMaskedLM, DistilBertConfig(**SIZES, hidden_dim=48, max_position_embeddings=40)),
    (ElectraForMaskedLM, ElectraConfig(**BERT, embedding_size=16)),
    (ModernBertForMaskedLM, ModernBertConfig(**SIZES, intermediate_size=48, **MODERN)),
    (LlamaForCausalLM, LlamaConfig(**SIZES, intermediate_size=48, **LLAMA)),
    (LlamaForCausalLM, LlamaConfig(**SIZES, intermediate_size=48, tie_word_embeddings=True, **LLAMA)),
    (GPT2LMHeadModel, GPT2),
]
every_model = pytest.mark.parametrize(
    ("model_class", "config"), MODELS, ids=[f"{m.__name__}-{c.tie_word_embeddings}" for m, c in MODELS]
)


def make_teacher(model_class=BertForMaskedLM, config=MODELS[0][1]):
    torch.manual_seed(0)
    model = model_class(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, which are 0 in a new model
            parameter.normal_(std=0.2)
    return model


def make_student(teacher, **options):
    config = student_config(teacher.config, num_hidden_layers=2)
    return build_student(teacher, config, kept_ids=KEPT, **options)


def outputs(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, output_hidden_states=True)


def assert_same_in_fewer_pieces(model, teacher):
    ids = torch.tensor([[0, 3, 4, 9, 12, 17], [5, 5, 2, 6, 11, 16]])  # of the student
    ours, theirs = outputs(model, ids), outputs(teacher, torch.tensor(KEPT)[ids])
    for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert torch.equal(one, other)
    key = "prediction_logits" if "prediction_logits" in ours else "logits"
    expected = theirs[key] if theirs[key].shape[-1] != PIECES else theirs[key][..., list(KEPT)]
    torch.testing.assert_close(ours[key], expected, atol=1e-6, rtol=1e-5)  # a product of another size
    assert len(ours.hidden_states) == 3


@every_model
def test_a_student_in_fewer_pieces_computes_what_the_teacher_does(model_class, config):
    teacher = make_teacher(model_class, config)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = make_student(teacher)
    assert student.config.vocab_size == len(KEPT) == student.get_input_embeddings().num_embeddings
    assert_same_in_fewer_pieces(student, teacher)
    assert teacher.config.vocab_size == PIECES
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not {t.data_ptr() for t in student.state_dict().values()} & {t.data_ptr() for t in before.values()}
    vocabularies = {name for name, tensor in before.items() if tensor.shape[0] == PIECES}
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, before[name][list(KEPT)] if name in vocabularies else before[name])


@every_model
def test_it_saves_ties_and_learns(model_class, config, tmp_path):
    student = make_student(make_teacher(model_class, config))
    student.save_pretrained(tmp_path)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_same_weights(loaded, student)
    head = student.get_output_embeddings()
    if head is not None:
        tied = head.weight is student.get_input_embeddings().weight
        assert tied == config.tie_word_embeddings
    ids = torch.tensor([[3, 4, 9]])
    names = {"next_sentence_label": torch.tensor([0])} if model_class is BertForPreTraining else {}
    labels = ids % 3 if model_class is BertForTokenClassification else ids
    student.train()(input_ids=ids, labels=labels, **names).loss.backward()
    assert student.get_input_embeddings().weight.grad.shape[0] == len(KEPT)


def assert_same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@every_model
def test_a_teacher_in_fewer_pieces_shares_the_rest(model_class, config):
    teacher = make_teacher(model_class, config).requires_grad_(False)
    trimmed = trim_embeddings(teacher, KEPT)
    assert_same_in_fewer_pieces(trimmed, teacher)
    assert not trimmed.training
    assert not any(parameter.requires_grad for parameter in trimmed.parameters())
    own = dict(teacher.named_parameters(remove_duplicate=False))
    for name, parameter in trimmed.named_parameters(remove_duplicate=False):
        assert (parameter is own[name]) == (own[name].shape[0] != PIECES)
    assert_same_in_fewer_pieces(trim_embeddings(teacher.to(torch.float64), KEPT), teacher)


def test_special_tokens_have_their_new_ids():
    new = {old: number for number, old in enumerate(KEPT)}
    student = make_student(make_teacher(*MODELS[9]))
    for config in (student.config, student.generation_config):
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (2, new[8], [new[41], new[59]])
    assert student.get_input_embeddings().padding_idx == 2
    student = make_student(make_teacher(*MODELS[8]))
    assert (student.config.cls_token_id, student.config.sep_token_id) == (new[8], new[59])


def test_the_callers_config_stays_as_it_is():
    teacher = make_teacher(*MODELS[9])
    config = student_config(teacher.config, num_hidden_layers=1)
    build_student(teacher, config, kept_ids=KEPT)
    assert (config.vocab_size, config.eos_token_id) == (PIECES, [41, 59])


def test_all_pieces_are_all():
    teacher = make_teacher()
    student = build_student(teacher, teacher.config, kept_ids=range(PIECES))
    assert_same_weights(student, teacher)


def test_with_the_other_choices():
    teacher = make_teacher()
    config = student_config(teacher.config, num_hidden_layers=1)
    student = build_student(teacher, config, "top", freeze_embeddings=True, kept_ids=KEPT)
    assert not student.get_input_embeddings().weight.requires_grad
    assert str(student.provenance).splitlines() == [
        "student block 1 <- teacher block 2",
        "vocabulary: 18 of the teacher's 60 pieces",
        "frozen: embeddings",
    ]
    assert (student.provenance.kept_pieces, student.provenance.teacher_pieces) == (18, 60)
    assert build_student(teacher, config).provenance.kept_pieces is None


# --- what is refused


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((), "from 0 to 59; got 0"),
        ((1, 0, 2), r"ascending, from 0 to 59; got 3, \[1, 0, 2\]"),
        ((0, 1, 1), "different ids"),
        ((0, 60), "from 0 to 59"),
        ((-1, 0), "from 0 to 59"),
        ((0, 1.0), "different ids"),
        ((1, 2, 3), r"config.pad_token_id is 0, a piece that is not kept.*always="),
    ],
)
def test_wrong_ids(kept, message):
    teacher = make_teacher()
    with pytest.raises(StudentError, match=message):
        build_student(teacher, teacher.config, kept_ids=kept)
    with pytest.raises(StudentError, match=message):
        trim_embeddings(teacher, kept)


def test_positions_that_are_counted_from_the_padding():
    teacher = make_teacher(RobertaForMaskedLM, RobertaConfig(**BERT, bos_token_id=None))
    for build in (trim_embeddings, lambda model, kept: build_student(model, model.config, kept_ids=kept)):
        with pytest.raises(StudentError, match="counts positions from pad_token_id, 1, which would become 0"):
            build(teacher, (1, 2, 3))


def test_models_that_cannot_be_cut():
    vit = ViTModel(ViTConfig(hidden_size=32, num_attention_heads=4, intermediate_size=48, num_hidden_layers=1))
    with pytest.raises(StudentError, match="no vocab_size of its own"):
        trim_embeddings(vit, KEPT)
    teacher = make_teacher()
    teacher.cls.predictions.decoder.weight = nn.Parameter(torch.zeros(PIECES, 32))
    with pytest.raises(StudentError, match="cannot be cut to 18 pieces"):
        trim_embeddings(teacher, KEPT)
    config = student_config(teacher.config, num_hidden_layers=2, vocab_size=61)
    with pytest.raises(StudentError, match=r"vocab_size \(teacher 60, student 61\)"):
        build_student(teacher, config, kept_ids=KEPT)
