import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_trainer.corpora import detokenize_swedish

# tokens, as Språkbanken's tokeniser makes them -> the text
SENTENCES = {
    # stops and brackets
    "Jag bor i Göteborg .": "Jag bor i Göteborg.",
    "Ja , men inte i dag ; kanske i morgon .": "Ja, men inte i dag; kanske i morgon.",
    "Vad sa du ? !": "Vad sa du?!",
    "Nej ! ! !": "Nej!!!",
    "Vad sa du ?!": "Vad sa du?!",
    "Grattis !!!": "Grattis!!!",
    "Tre saker : mjölk , bröd och ost .": "Tre saker: mjölk, bröd och ost.",
    "Riksdagen ( 349 ledamöter ) röstade .": "Riksdagen (349 ledamöter) röstade.",
    "Hon kom ( äntligen ! ) , och gick igen .": "Hon kom (äntligen!), och gick igen.",
    "Se [ 3 ] och { 4 } .": "Se [3] och {4}.",
    "1 ) Vispa grädden .": "1) Vispa grädden.",
    "( se bilaga 1 ( sidan 3 ) )": "(se bilaga 1 (sidan 3))",
    "¿ Qué ?": "¿Qué?",
    # three points
    "Jaha ...": "Jaha...",
    "Jag vet inte … kanske .": "Jag vet inte… kanske.",
    "... och sedan gick han .": "... och sedan gick han.",
    "– ... och sedan ?": "– ... och sedan?",
    "Han citerade [ ... ] ur boken .": "Han citerade [...] ur boken.",
    'Hon sa : " ... men sedan " , och skrattade .': 'Hon sa: "... men sedan", och skrattade.',
    "Ja . . . nej": "Ja... nej",
    # quotation marks
    'Han sa : " Jag går nu . "': 'Han sa: "Jag går nu."',
    '" Jag går nu " , sa han .': '"Jag går nu", sa han.',
    '" Kom ! " ropade hon och " skynda dig ! "': '"Kom!" ropade hon och "skynda dig!"',
    "” Det var bra ” , säger Anna .": "”Det var bra”, säger Anna.",
    "Filmen ” Fanny och Alexander ” visades .": "Filmen ”Fanny och Alexander” visades.",
    "“ Det var bra ” , säger Anna .": "“Det var bra”, säger Anna.",
    "» Nej » , svarade han .": "»Nej», svarade han.",
    "» Nej « , svarade han .": "»Nej«, svarade han.",
    "« Nej » , svarade han .": "«Nej», svarade han.",
    "De kallar det ' frihet ' .": "De kallar det 'frihet'.",
    "De kallar det ’ frihet ’ och ’ rätt ’ .": "De kallar det ’frihet’ och ’rätt’.",
    "” Han sa ’ nej ’ till mig ” , sa hon .": "”Han sa ’nej’ till mig”, sa hon.",
    "Hon ( ” chefen ” ) log .": "Hon (”chefen”) log.",
    "” ( Skratt ) Ja ” , sa hon .": "”(Skratt) Ja”, sa hon.",
    'Det var inte jag " , sa hon .': 'Det var inte jag", sa hon.',
    'Då sa hon : " Det var inte jag .': 'Då sa hon: "Det var inte jag.',
    'Det var inte jag . "': 'Det var inte jag."',
    'Jag går " , sa han och log : " Vi ses .': 'Jag går", sa han och log: "Vi ses.',
    "” Aftonbladet ” : s läsare": "”Aftonbladet”:s läsare",
    "Partiet ( V ) : s förslag : höj skatten": "Partiet (V):s förslag: höj skatten",
    "Titeln är ” Nu ” : en bok om tid": "Titeln är ”Nu”: en bok om tid",
    # apostrophes
    "Levi ' s jeans": "Levi's jeans",
    "McDonald ’ s öppnar": "McDonald’s öppnar",
    "Karl 's bok": "Karl's bok",
    "rock ' n ' roll": "rock'n'roll",
    "d ' Artagnan och O ' Connor": "d'Artagnan och O'Connor",
    "Jag tror på ' t .": "Jag tror på't.",
    "Ska ' ru gå ?": "Ska'ru gå?",
    "Hans ' bok": "Hans' bok",
    "Å då garva ' han": "Å då garva' han",
    "sommaren ' 68": "sommaren '68",
    # dashes and hyphens
    "– Hej , sa hon .": "– Hej, sa hon.",
    "- Hej , sa hon .": "- Hej, sa hon.",
    "Han kom – till slut – hem .": "Han kom – till slut – hem.",
    "Kriget 1939 – 45 var långt .": "Kriget 1939–45 var långt.",
    "Öppet 10.00 – 18.00 .": "Öppet 10.00–18.00.",
    "Kriget 1939-45": "Kriget 1939-45",
    "Resan Göteborg – Malmö": "Resan Göteborg – Malmö",
    "för- och nackdelar": "för- och nackdelar",
    "en TV-apparat och EU:s regler": "en TV-apparat och EU:s regler",
    "Ja -- kanske": "Ja -- kanske",
    # slashes and signs
    "och / eller": "och/eller",
    "90 km / h": "90 km/h",
    "säsongen 2014 / 15": "säsongen 2014/15",
    "/ Anna": "/Anna",
    "# metoo är viktigt , @ anna _ 92 !": "#metoo är viktigt, @anna_92!",
    "Wahlström & Widstrand": "Wahlström & Widstrand",
    "1 + 1 = 2": "1 + 1 = 2",
    # numbers, units and sections
    "Det ökade med 25 % i år .": "Det ökade med 25 % i år.",
    "Det ökade med 3,5 % .": "Det ökade med 3,5 %.",
    "Det ökade med 3 , 5 % .": "Det ökade med 3,5 %.",
    "Snittet ( 3 , 5 ) höjdes .": "Snittet (3,5) höjdes.",
    "kapitel 3 , 5 och 7": "kapitel 3, 5 och 7",
    "2 ‰ och 20 °C": "2 ‰ och 20 °C",
    "Enligt § 5 och 4 kap. 2 § gäller": "Enligt § 5 och 4 kap. 2 § gäller",
    "kl. 12.30 den 3 maj": "kl. 12.30 den 3 maj",
    "Det kostar 34 500 kr , 10 € eller 576:- .": "Det kostar 34 500 kr, 10 € eller 576:-.",
    "den 1:a maj , nr 2 , s. 11": "den 1:a maj, nr 2, s. 11",
    # what is one token
    "t.ex. hundar , katter m.m. , bl.a. här": "t.ex. hundar, katter m.m., bl.a. här",
    "J.R.R. Tolkien och H. C. Andersen": "J.R.R. Tolkien och H. C. Andersen",
    "Se http://www.gu.se/sv?a=1 , eller skriv till a@b.se .": "Se http://www.gu.se/sv?a=1, eller skriv till a@b.se.",
    "Kul :) eller ;-) och <3 !": "Kul :) eller ;-) och <3!",
    "Kul :) ! Vi ses =D .": "Kul :) ! Vi ses =D .",
    # little
    "Ja": "Ja",
    '"': '"',
    "": "",
}


@pytest.mark.parametrize(("tokens", "text"), SENTENCES.items(), ids=SENTENCES.values())
def test_sentences(tokens, text):
    assert detokenize_swedish(tokens.split()) == text


def test_the_table_is_large():
    assert len(SENTENCES) >= 60


def test_tokens_are_not_changed():
    assert detokenize_swedish(["1 000", "kr", "", "."]) == "1 000 kr."
    assert detokenize_swedish([". . .", "och"]) == ". . . och"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.text(alphabet="aÅ1.,:-–/\"'”»«(%#_ ", min_size=0, max_size=3), max_size=15))
def test_nothing_but_spaces_is_added(tokens):
    text = detokenize_swedish(tokens)
    assert text.replace(" ", "") == "".join(tokens).replace(" ", "")
    if not any(" " in token for token in tokens):
        assert "  " not in text
        assert text == text.strip(" ")


WORDS = ["Anna", "och", "för-", "t.ex.", "EU:s", "TV-apparat", "12.30", "1939-45", "25", "%", "§", ":)", "<3", "&", "s"]
TOKEN = re.compile(r"(?<!\S):\)(?!\S)|\.{3}|<3|t\.ex\.|för-|\d+(?:[.-]\d+)*|\w+(?:[-:]\w+)*|\S")
phrases = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)
pairs = st.sampled_from([("(", ")"), ("[", "]"), ('"', '"'), ("”", "”"), ("»", "»"), ("»", "«"), ("«", "»")])
groups = st.recursive(
    phrases,
    lambda inner: st.one_of(
        st.tuples(pairs, inner).map(lambda pair: [pair[0][0], *pair[1], pair[0][1]]),
        st.tuples(inner, st.sampled_from(",;:!?/–-"), inner).map(lambda three: [*three[0], three[1], *three[2]]),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(groups, st.sampled_from([[], ["."], ["!"], ["?", "!"], ["..."]]))
def test_the_tokens_can_be_had_back(tokens, end):
    tokens = tokens + end
    text = detokenize_swedish(tokens)
    assert TOKEN.findall(text) == tokens
    assert not re.search(r"(?<!:\))\s[.,;!?)\]]|[(\[]\s(?!:\))", text)


def test_time_is_linear_in_the_tokens():
    for token in ("'", '"', ",", "–", "a"):
        assert len(detokenize_swedish([token, "b"] * 50_000)) >= 100_000
