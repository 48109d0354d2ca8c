"""Files in Språkbanken's layouts, made for the tests."""

from xml.sax.saxutils import escape, quoteattr

ANNOTATION = (
    'pos="NN" msd="NN.UTR.SIN.DEF.NOM" lemma="|bil|bila|" lex="|bil..nn.1|" saldo="|bil..1|bila..1|" prefix="|" '
    'suffix="|" ref="01" dephead="02" deprel="SS"'
)


def w(tokens):
    """A sentence in the layout of Gigaword, of tokens with spaces between them."""
    words = "".join(f"<w {ANNOTATION}>{escape(token)}</w>\n" for token in tokens.split())
    return f'<sentence id="8f7-84d">\n{words}</sentence>\n'


def text(*sentences, **attributes):
    """A text of sentences."""
    listed = "".join(f" {name}={quoteattr(str(value))}" for name, value in attributes.items())
    return f"<text{listed}>\n{''.join(sentences)}</text>\n"


def corpus(*texts):
    """A whole file."""
    return f"<?xml version='1.0' encoding='UTF-8'?>\n<corpus id=\"gigaword\">\n{''.join(texts)}</corpus>\n".encode()
