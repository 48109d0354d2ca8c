import contextlib
import io
import re
import warnings

import pytest
import torch
from card_records import metadata
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    PreTrainedTokenizerFast,
)

from distil_trainer.card import render_card
from distil_trainer.facts import model_facts
from distil_trainer.record import Record

CONFIG = BertConfig(
    vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
    max_position_embeddings=64,
)  # fmt: skip


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Stockholm", "is", "the", "of", "Sweden", "."]


def tokenizer():
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokens, **special)


def gpt2(_):
    special = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=64, **special)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("build", "task"),
    [
        (BertModel, "feature-extraction"),
        (BertForMaskedLM, "fill-mask"),
        (BertForPreTraining, "fill-mask"),
        (BertForTokenClassification, "token-classification"),
        (BertForSequenceClassification, "text-classification"),
        (BertForQuestionAnswering, "question-answering"),
        (gpt2, "text-generation"),
    ],
)
def test_the_snippet_runs_as_it_stands(tmp_path, monkeypatch, build, task):
    torch.manual_seed(0)
    model = build(CONFIG)
    model.save_pretrained(tmp_path / "my-student")
    tokenizer().save_pretrained(tmp_path / "my-student")
    card = render_card(Record(stage="distill", student=model_facts(model, name="my-student")))
    assert metadata(card)["pipeline_tag"] == task
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == {"feature-extraction": 2, "fill-mask": 2 + (build is BertForPreTraining)}.get(task, 1)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about itself here
        for snippet in snippets:
            exec(snippet, {})
    assert printed.getvalue()  # an untrained question answerer may print an empty line
    if task == "feature-extraction":
        assert printed.getvalue() == "torch.Size([1, 9, 8])\n9\n"


@pytest.mark.parametrize("name", ["ViTModel", "GPT2DoubleHeadsModel", "PeftModel"])
def test_no_snippet_is_better_than_one_that_does_not_run(name):
    card = render_card(Record(stage="distill", student={"name": "s", "class_name": name}))
    assert "How to use" not in card
    assert metadata(card)["library_name"] == ("peft" if name == "PeftModel" else "transformers")
