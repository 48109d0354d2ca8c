"""Small models and data sets under the names of real ones, with their files, for a Hub that a test fills."""

import gzip
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from conftest import tiny_model
from datasets import ClassLabel, Features, List, Value
from made_sentences import ENGLISH, SWEDISH, made_sentences
from store import Hub, Repo
from transformers import BertForPreTraining, BertTokenizer

MBERT, SUCX3, WIKIANN = "google-bert/bert-base-multilingual-cased", "KBLab/sucx3_ner", "unimelb-nlp/wikiann"
CONVERTED = "refs/convert/parquet"
SPLITS = {"train": slice(30), "validation": slice(30, 40), "test": slice(40, 50)}
TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
MANUAL = {"PER": "person", "LOC": "place", "ORG": "inst"}  # the manual tags of SUCX 3.0, by the automatic ones
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROOT = Path(__file__).parent.parent.parent
# where the real vocabulary is, on machines that have it: vocab.txt.gz and tokenizer.json
VOCABULARY = Path(os.environ.get("MBERT_VOCABULARY", ROOT.parent / "shared/data/vocab/bert-base-multilingual-cased"))


def parquet(rows: Sequence[Mapping[str, Any]], features: Features) -> bytes:
    """The rows as a file whose metadata holds the features, as `datasets` writes it."""
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=features.arrow_schema), written)
    return written.getvalue()


def add_stand_ins(hub: Hub) -> None:
    """The model and both data sets."""
    add_mbert(hub)
    add_sucx3(hub)
    add_wikiann(hub)


def add_mbert(hub: Hub, vocabulary: Path | None = VOCABULARY, *, seed: int = 0, branch: str = "main") -> Repo:
    """
    Multilingual BERT with its 12 blocks and both heads of its pre-training, 24 wide and with random weights.

    `vocabulary` is the folder of the real one; a small one is made where there is none.
    """
    files = _tokenizer(vocabulary)
    size = len(files["vocab.txt"].splitlines())
    sizes = {"hidden_size": 24, "num_hidden_layers": 12, "num_attention_heads": 2, "max_position_embeddings": 512}
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    model = tiny_model(BertForPreTraining, seed=seed, vocab_size=size, **sizes, **dropout)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files |= {name: (Path(folder) / name).read_bytes() for name in ("config.json", "model.safetensors")}
    card = {"language": ["multilingual"], "license": "apache-2.0", "pipeline_tag": "fill-mask"}
    return hub.add("model", MBERT, {"README.md": _card(card), **files}, branch=branch)


def _tokenizer(vocabulary: Path | None) -> dict[str, bytes]:
    files = {"tokenizer_config.json": b'{"do_lower_case": false, "model_max_length": 512}'}
    if vocabulary is not None and vocabulary.is_dir():
        files["vocab.txt"] = gzip.decompress((vocabulary / "vocab.txt.gz").read_bytes())
        return files | {"tokenizer.json": (vocabulary / "tokenizer.json").read_bytes()}
    words = {token for sentence in made_sentences(SWEDISH) + made_sentences(ENGLISH) for token in sentence.tokens}
    letters = {letter for word in words for letter in word}
    tokens = [*SPECIAL, *sorted(letters | words), *sorted(f"##{letter}" for letter in letters)]
    files["vocab.txt"] = "".join(f"{token}\n" for token in tokens).encode()
    tokenizer = BertTokenizer({token: number for number, token in enumerate(tokens)}, do_lower_case=False)
    return files | {"tokenizer.json": tokenizer.backend_tokenizer.to_str().encode()}


def add_sucx3(hub: Hub) -> Repo:
    """
    SUCX 3.0: a loading script, which `datasets` refuses, and what the Hub has made of it on `CONVERTED`.

    Tags are strings: manual ones in the configurations "original_...", automatic ones in "simple_...".
    """
    card = {"language": ["sv"], "license": ["cc-by-4.0"], "pretty_name": "sucx3_ner"}
    script = b'raise RuntimeError("A loading script was run")\n'
    hub.add("dataset", SUCX3, {"README.md": _card(card), "sucx3_ner.py": script})
    strings = List(Value("string"))
    features = Features({"id": Value("string"), "tokens": strings, "pos_tags": strings, "ner_tags": strings})
    files = {
        f"{tags}_{case}/{split}/0000.parquet": parquet(list(_sucx3_rows(part, tags, case)), features)
        for tags in ("original", "simple")
        for case in ("cased", "lower")
        for split, part in SPLITS.items()
    }
    return hub.add("dataset", SUCX3, files, branch=CONVERTED)


def _sucx3_rows(part: slice, tags: str, case: str) -> Iterator[dict[str, Any]]:
    for number, sentence in list(enumerate(made_sentences(SWEDISH)))[part]:
        tokens, ner_tags = sentence.tokens, sentence.tags
        if case == "lower":
            tokens = tuple(token.lower() for token in tokens)
        if tags == "original":
            ner_tags = tuple(tag if tag == "O" else tag[:2] + MANUAL[tag[2:]] for tag in ner_tags)
        name = f"{number:08x}" + "_lower" * (case == "lower")
        yield {"id": name, "tokens": tokens, "pos_tags": sentence.pos, "ner_tags": ner_tags}


def add_wikiann(hub: Hub) -> Repo:
    """WikiANN, in English and Swedish only: a configuration for each language, and tags that are numbers."""
    strings = List(Value("string"))
    tags = List(ClassLabel(names=list(TAGS)))
    features = Features({"tokens": strings, "ner_tags": tags, "langs": strings, "spans": strings})
    files, configs, infos = {}, [], []
    for language, templates in (("en", ENGLISH), ("sv", SWEDISH)):
        rows = [
            {
                "tokens": sentence.tokens,
                "ner_tags": [TAGS.index(tag) for tag in sentence.tags],
                "langs": [language] * len(sentence.tokens),
                "spans": sentence.spans,
            }
            for sentence in made_sentences(templates)
        ]
        for split, part in SPLITS.items():
            files[f"{language}/{split}-00000-of-00001.parquet"] = parquet(rows[part], features)
        paths = [{"split": split, "path": f"{language}/{split}-*"} for split in SPLITS]
        configs.append({"config_name": language, "data_files": paths})
        infos.append(_wikiann_info(language, {split: len(rows[part]) for split, part in SPLITS.items()}))
    card = {"language": ["en", "sv"], "license": ["unknown"], "configs": configs, "dataset_info": infos}
    return hub.add("dataset", WIKIANN, {"README.md": _card(card), **files})


def _wikiann_info(language: str, examples: Mapping[str, int]) -> dict[str, Any]:
    """What the card says of a configuration."""
    names = {str(number): tag for number, tag in enumerate(TAGS)}
    columns = {"tokens": "string", "ner_tags": {"class_label": {"names": names}}, "langs": "string", "spans": "string"}
    features = [{"name": name, "sequence": content} for name, content in columns.items()]
    splits = [{"name": name, "num_bytes": 1, "num_examples": count} for name, count in examples.items()]
    return {"config_name": language, "features": features, "splits": splits, "download_size": 1, "dataset_size": 1}


def _card(metadata: Mapping[str, Any]) -> bytes:
    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False)}---\n".encode()
