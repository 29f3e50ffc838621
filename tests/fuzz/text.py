"""Mutations of a prototxt: of its tokens, so that most of them still parse."""

from __future__ import annotations

import re
from random import Random

_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'"""
    r"""|[A-Za-z_]\w*|-?[0-9.][\w.+]*|."""
)
_FIELD = re.compile(r"[A-Za-z_]\w*")

NUMBERS = (
    *("0", "1", "-1", "2", "3", "7", "-0", "0.5", "1e-3", "1e-400", "1e400", "-1e400"),
    *("32", "33", "1000", "65536", "100000", "2147483647", "2147483648"),
    *("-2147483648", "4294967295", "4294967296", "9223372036854775807"),
    *("18446744073709551616", "9" * 5000, "0x" + "f" * 400, "0" + "7" * 400, "1" * 25),
    *("nan", "-nan", "inf", "-inf", "true", "false", "0x10", "010", "1.5f", "1e10"),
)
STRINGS = (
    '""', "'a'", '"\\n"', '"\\000"', '"\\xff"', '"../../x"', '"/etc/passwd"', '"data"',
    '"a\\"b"', '"\\"\\"\\"__import__(\'os\')"', '"__class__"', '"self"', '"jnp"',
    '"\\u202e"', '"\\ud800"', '"None"', '"{x}"', "'" + "n" * 10_000 + "'", '"relu"',
)  # fmt: skip
PIECES = (
    *("{", "}", "<", ">", "[", "]", ":", ",", ";", "#", '"', "'", "\\", "-", "\ufeff"),
    *("{ " * 120, "[" * 500, "\n" * 500, "a:1 " * 300, "# x", "\0", "\u2028", "\r"),
    *("layer {}", "layers {}", "dim: 0", "axis: -1", 'param { name: "w" }'),
    *("include { phase: TEST }", "exclude {}", "bias_term: false", "bottom: 'data'"),
    *('layer { name: "x" type: "Split" bottom: "data" top: "x" top: "y" }',),
)


def mutated(text: str, others: list[str], random: Random) -> str:
    """`text` after a few changes, some with parts of `others`."""
    tokens = _TOKEN.findall(text)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        if not tokens:
            tokens = _TOKEN.findall(random.choice(others)) or [" "]
        random.choice(_CHANGES)(tokens, others, random)
    return "".join(tokens)


def _place(tokens: list[str], random: Random) -> int:
    """A token that is no white space, if a few looks find one."""
    at = 0
    for _ in range(4):
        at = random.randrange(len(tokens))
        if not tokens[at].isspace():
            break
    return at


def _like(tokens: list[str], pattern: str, random: Random) -> int:
    """A token that begins with a character of `pattern`; any where there is none."""
    found = [i for i, token in enumerate(tokens) if re.match(f"[{pattern}]", token)]
    return random.choice(found) if found else _place(tokens, random)


def _number(tokens: list[str], others: list[str], random: Random) -> None:
    tokens[_like(tokens, "0-9.-", random)] = random.choice(NUMBERS)


def _near(tokens: list[str], others: list[str], random: Random) -> None:
    at = _like(tokens, "0-9-", random)
    if re.fullmatch("-?[0-9]{1,9}", tokens[at]):
        changed = int(tokens[at]) * random.choice((1, 1, -1, 2)) + random.randint(-2, 2)
        tokens[at] = str(changed)


def _string(tokens: list[str], others: list[str], random: Random) -> None:
    strings = [token for token in tokens if token[0] in "\"'"]
    given = random.choice(strings) if strings and random.random() < 0.6 else None
    tokens[_like(tokens, "\"'", random)] = given or random.choice(STRINGS)


def _word(tokens: list[str], others: list[str], random: Random) -> None:
    words = _FIELD.findall(random.choice(others)) or ["x"]
    tokens[_like(tokens, "A-Za-z_", random)] = random.choice(words)


def _delete(tokens: list[str], others: list[str], random: Random) -> None:
    at = _place(tokens, random)
    del tokens[at : at + random.choice((1, 1, 1, 2, 5, 20))]


def _truncate(tokens: list[str], others: list[str], random: Random) -> None:
    del tokens[_place(tokens, random) :]


def _double(tokens: list[str], others: list[str], random: Random) -> None:
    at = _place(tokens, random)
    part = tokens[at : at + random.choice((1, 3, 10, 30))]
    tokens[at:at] = [*part, " "] * random.choice((1, 1, 2, 50))


def _move(tokens: list[str], others: list[str], random: Random) -> None:
    start, to = _place(tokens, random), _place(tokens, random)
    part = tokens[start : start + random.choice((1, 2, 4, 12))]
    del tokens[start : start + len(part)]
    tokens[to:to] = part


def _insert(tokens: list[str], others: list[str], random: Random) -> None:
    tokens.insert(_place(tokens, random), f" {random.choice(PIECES)} ")


def _splice(tokens: list[str], others: list[str], random: Random) -> None:
    part = _TOKEN.findall(random.choice(others)) or [" "]
    start, at = random.randrange(len(part)), _place(tokens, random)
    tokens[at:at] = [" ", *part[start : start + random.choice((2, 8, 40))], " "]


def _layer(tokens: list[str], others: list[str], random: Random) -> None:
    """Another net's layers behind this one's."""
    other = random.choice(others)
    tokens += ["\n", *_TOKEN.findall(other[other.find("layer") :])]


def _character(tokens: list[str], others: list[str], random: Random) -> None:
    at = _place(tokens, random)
    token = list(tokens[at])
    token[random.randrange(len(token))] = chr(
        random.choice((random.randrange(128), 0x1F600))
    )
    tokens[at] = "".join(token)


_CHANGES = (
    *(_number, _number, _near, _near, _near, _string, _string, _word, _word),
    *(_delete, _delete, _truncate, _double, _move, _insert, _splice, _layer),
    _character,
)
