# SPDX-License-Identifier: BSD-2-Clause
"""Prometheus' text format (0.0.4), read strictly, with the rules of `promtool check metrics`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")
# promtool: base units only, spelled out; no type in a name.
_NO_UNITS = {
    "milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "ms", "us", "ns",
    "sec", "kilobytes", "megabytes", "bits", "kb", "mb", "percent",
    "counter", "gauge", "histogram", "summary",
}  # fmt: skip

Labels = tuple[tuple[str, str], ...]


@dataclass
class Histogram:
    """One of a family: how many observations were not above each bound."""

    buckets: dict[float, float] = field(default_factory=dict)
    sum: float = -1
    count: float = -1


@dataclass
class Family:
    type: str
    help: str
    samples: dict[Labels, float] = field(default_factory=dict)
    histograms: dict[Labels, Histogram] = field(default_factory=dict)


def parse(text: str) -> dict[str, Family]:
    """Families by name. Each has HELP and TYPE, once and before its samples, which stand together
    and are unique; counters end in _total and are not negative; histograms are cumulative and whole.
    """
    families: dict[str, Family] = {}
    helps: dict[str, str] = {}
    assert text.endswith("\n"), "the last line does not end"
    current = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, help_text = line[7:].split(" ", 1)
            assert name not in helps, f"HELP of {name} twice"
            assert help_text.strip(), line
            helps[name] = help_text
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name in helps and name not in families, f"TYPE of {name} out of order"
            _check_name(name, kind)
            families[name] = Family(kind, helps[name])
            current = name
        else:
            match = _SAMPLE.fullmatch(line)
            assert match is not None, f"no sample: {line!r}"
            labels = tuple(re.findall(_LABEL, match[2] or ""))
            assert len({name for name, _ in labels}) == len(labels), line
            _take(current, families[current], match[1], labels, float(match.groups()[-1]), line)
    assert helps.keys() == families.keys()
    for name, family in families.items():
        for histogram in family.histograms.values():
            _check_histogram(name, histogram)
    return families


def _check_name(name: str, kind: str) -> None:
    assert kind in ("counter", "gauge", "histogram"), (name, kind)
    assert (kind == "counter") == name.endswith("_total"), name
    assert not name.endswith(("_count", "_sum", "_bucket")), name
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name), name
    assert not _NO_UNITS & set(name.split("_")), name


def _take(current: str, family: Family, name: str, labels: Labels, value: float, line: str) -> None:
    if family.type != "histogram":
        assert name == current, f"{name} stands with {current}"
        assert labels not in family.samples, f"twice: {line}"
        assert value >= 0 and "le" not in dict(labels), line
        family.samples[labels] = value
        return
    bare = tuple(label for label in labels if label[0] != "le")
    histogram = family.histograms.setdefault(bare, Histogram())
    if name == f"{current}_bucket":
        bound = float(dict(labels)["le"])
        assert all(bound > before for before in histogram.buckets), f"out of order: {line}"
        histogram.buckets[bound] = value
    elif name == f"{current}_sum":
        assert histogram.sum == -1 and bare == labels, line
        histogram.sum = value
    else:
        assert name == f"{current}_count" and histogram.count == -1 and bare == labels, line
        histogram.count = value


def _check_histogram(name: str, histogram: Histogram) -> None:
    counts = list(histogram.buckets.values())
    assert counts == sorted(counts) and counts[0] >= 0, name
    assert list(histogram.buckets)[-1] == float("inf"), name
    assert histogram.count == counts[-1], name
    assert histogram.sum >= 0, name
    assert histogram.sum == 0 or histogram.count > 0, name
