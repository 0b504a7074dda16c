# SPDX-License-Identifier: BSD-2-Clause
"""Prometheus' text format (0.0.4), read strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")

Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    type: str
    help: str
    samples: dict[Labels, float] = field(default_factory=dict)


def parse(text: str) -> dict[str, Family]:
    """Families by name. Each has HELP and TYPE, once and before its samples, which stand together
    and are unique; counters end in _total and are not negative.
    """
    families: dict[str, Family] = {}
    helps: dict[str, str] = {}
    assert text.endswith("\n"), "the last line does not end"
    current = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, help_text = line[7:].split(" ", 1)
            assert name not in helps, f"HELP of {name} twice"
            helps[name] = help_text
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name in helps and name not in families, f"TYPE of {name} out of order"
            assert kind in ("counter", "gauge"), line
            assert (kind == "counter") == name.endswith("_total"), line
            families[name] = Family(kind, helps[name])
            current = name
        else:
            match = _SAMPLE.fullmatch(line)
            assert match is not None, f"no sample: {line!r}"
            assert match[1] == current, f"{match[1]} stands with {current}"
            labels = tuple(re.findall(_LABEL, match[2] or ""))
            samples = families[current].samples
            assert labels not in samples, f"twice: {line}"
            samples[labels] = float(match.groups()[-1])
            assert samples[labels] >= 0
    assert helps.keys() == families.keys()
    return families
