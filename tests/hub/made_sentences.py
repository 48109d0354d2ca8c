"""Sentences with tagged names, made from a few templates: enough of them for a data set in a test."""

from collections.abc import Sequence
from dataclasses import dataclass

NAMES = {
    "PER": "Anna Lindqvist,Erik Sandberg,Karin,Olof Nyström,Maria,Per Åkesson,Signe Björk,Nils,Elsa Dahl,Gustav",
    "LOC": "Malmö,Norra Ängby,Umeå,Gotland,Västra Frölunda,Kiruna,Gamla Uppsala,Lund,Östersund,Hammarby Sjöstad",
    "ORG": "Nordbanken,Skånes Åkeri,Rederiet Svea,Lantmännen,Fjällräddningen,Volta,Kvarnby IF,Snickarna,Svea Tryck,Teg",
    "number": "2,3,4,5,6,7,8,9,10,11",
}
SWEDISH = (
    "{PER}|PM bor|VB i|PP {LOC}|PM .|MAD",
    "{ORG}|PM öppnar|VB ett|DT kontor|NN i|PP {LOC}|PM nästa|JJ år|NN .|MAD",
    "I|PP {LOC}|PM träffade|VB {PER}|PM sin|PS syster|NN .|MAD",
    "Det|PN regnade|VB i|PP {number}|RG dagar|NN .|MAD",
    "Enligt|PP {PER}|PM vill|VB {ORG}|PM inte|AB höja|VB lönerna|NN .|MAD",
)
ENGLISH = (
    "{PER} was born in {LOC} .",
    "{ORG} ( {LOC} )",
    "It was founded by {PER} and later sold to {ORG} .",
    "The bridge was closed for {number} months .",
    "{LOC} railway station",
)


@dataclass(frozen=True)
class Sentence:
    """Words with their parts of speech and tags; `spans` are its names as "PER: Anna Lindqvist"."""

    tokens: tuple[str, ...]
    pos: tuple[str, ...]
    tags: tuple[str, ...]
    spans: tuple[str, ...]


def made_sentences(templates: Sequence[str]) -> list[Sentence]:
    """Fifty different sentences: every template with every name, the templates in turns."""
    return [_fill(template, number) for number in range(10) for template in templates]


def _fill(template: str, number: int) -> Sentence:
    words: list[tuple[str, str, str]] = []
    spans = []
    for piece in template.split():
        word, _, pos = piece.partition("|")
        kind = word.strip("{}")
        name = NAMES[kind].split(",")[number] if word != kind else word
        if word == kind or kind == "number":
            words.append((name, pos, "O"))
        else:
            words += [(part, pos, f"{'I' if i else 'B'}-{kind}") for i, part in enumerate(name.split())]
            spans.append(f"{kind}: {name}")
    tokens, parts_of_speech, tags = zip(*words, strict=True)
    return Sentence(tokens, parts_of_speech, tags, tuple(spans))
