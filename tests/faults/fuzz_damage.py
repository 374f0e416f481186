"""Ways to damage bytes, tables, YAML and JSON, drawn from a `random.Random`."""

from __future__ import annotations

import json
import random
from typing import Any

import yaml


def edit_bytes(rng: random.Random, size: int) -> list[list[Any]]:
    """One to four edits, later positions first, so that each is where it says."""
    edits = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(size + 1) if rng.random() < 0.7 else min(rng.randrange(64), size)
        kind = rng.randrange(6)
        if kind == 0:
            edits.append([at, size - at, ""])
        elif kind == 1:
            edits.append([at, 1, rng.randbytes(1).hex()])
        elif kind == 2:
            edits.append([at, 0, rng.randbytes(rng.choice([1, 2, 8, 300])).hex()])
        elif kind == 3:
            edits.append([at, rng.choice([1, 2, 8, 300]), ""])
        elif kind == 4:
            edits.append([at, 0, rng.choice([b"\0", b'"', b"\t", b"\n", b"\r", b"{", b"]", b":", b"\xff", b"9"]).hex()])
        else:
            edits.append([at, 8, rng.choice([b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f"]).hex()])
    return sorted(edits, key=lambda edit: -edit[0])


def apply_edits(data: bytes, edits: list[list[Any]]) -> bytes:
    for at, removed, inserted in edits:
        data = data[:at] + bytes.fromhex(inserted) + data[at + removed :]
    return data


FIELDS = [
    "", " ", "nan", "inf", "-inf", "1e999", "-1", "5", "6", "99999999999999999999", "1.5", "0x1", "1_0", "true",
    "None", "\uff11", "\u0664", '"', '""', '"ab', 'ab"cd', "a\tb", "a,b", "\u2028", "\x0c", "\x1b[31m", "\ufeff",
    "\ufdd0", "\U0001f600", "\u0301" * 50, "ab " * 40_000, "a" * 140_000, "'", "\\", "\\N", "=1+1",
    "[CLS] [SEP] [PAD]", "##ab",
]  # fmt: skip


def damage_table(rng: random.Random, text: str, delimiter: str) -> bytes:
    """A table of text with one to three things wrong."""
    rows = [line.split(delimiter) for line in text.splitlines()]
    encoding, end = "utf-8", "\n"
    for _ in range(rng.choice([1, 1, 2, 3])):
        kind, at = rng.randrange(16), rng.randrange(len(rows))
        column = rng.randrange(max(len(rows[at]), 1))
        if kind == 0:
            del rows[at]
            rows = rows or [[""]]
        elif kind == 1:
            rows.insert(at, list(rng.choice(rows)))
        elif kind == 2:
            rows.insert(at, [rng.choice(FIELDS)])
        elif kind == 3:
            other = rng.choice([",", ";", "|", " ", ":"])
            rows[at : rng.choice([at + 1, len(rows)])] = [
                [other.join(r)] for r in rows[at : rng.choice([at + 1, len(rows)])]
            ]
        elif kind in (4, 5, 6, 7):
            for row in rng.sample(rows, min(len(rows), rng.choice([1, 1, 1, 3, 1000]))):
                if row:
                    row[min(column, len(row) - 1)] = rng.choice(FIELDS)
        elif kind == 8:
            for row in rows:
                del row[min(column, len(row)) : column + 1]
        elif kind == 9:
            for row in rows:
                row.insert(0, row[column] if column < len(row) else "")
        elif kind == 10:
            names = rows[0]
            names[rng.randrange(len(names)) if names else 0 :][:1] = []
            rows[0] = [rng.choice([name, name.upper(), name + " ", name[::-1], '"' + name]) for name in names]
        elif kind == 11:
            rng.shuffle(rows)
        elif kind == 12:
            encoding = rng.choice(["utf-8-sig", "utf-16", "utf-32", "utf-7", "cp037", "latin-1"])
        elif kind == 13:
            end = rng.choice(["\r", "\r\n", "\n\n", "\n\r", "", "\u2028"])
        elif kind == 14:
            rows = rows[: rng.choice([0, 1, 2])] or [[]]
        else:
            rows[at] = rows[at] * rng.choice([2, 5000])
    data = end.join(delimiter.join(row) for row in rows).encode(encoding, "replace")
    return apply_edits(data, edit_bytes(rng, len(data))) if rng.random() < 0.3 else data


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


VALUES: list[Any] = [
    None, True, False, "", " ", "x", "nan", float("nan"), float("inf"), -1, 0, 1, 2, 1.5, -0.5, 10**20, -(10**20),
    1e300, 1e-320, 10**400, [], {}, [1], ["a", "a"], {"a": 1}, {"a": {"b": []}}, [[]], [None], deep(60), "a" * 5000,
    "yes", "no", "../x", "/", "/dev/null", "/proc/nope/x", "a\nb", "\x07\x1b[2J", "\u202eab", "{text_a}",
    "{0.__class__}", "{", "%s", "2020-13-45", "!!python/object/apply:os.system", "${HOME}", "~", "sst", "sst,sts",
    "data", "model", "auto", "1e3",
]  # fmt: skip


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every node but the root."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in inner for found in [(*path, key), *nodes(value, (*path, key))]]


def damage_tree(rng: random.Random, tree: Any, many: int = 3, values: list[Any] | None = None) -> Any:
    """The tree with nodes renamed, dropped, doubled, moved or of another type; not the one given."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, many)):
        paths = nodes(tree)
        if not paths:
            return rng.choice(VALUES)
        *above, key = rng.choice(paths)
        parent = tree
        for step in above:
            parent = parent[step]
        kind = rng.randrange(8)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            name = str(key)
            parent[rng.choice([name[:-1], name.upper(), name + "s", " " + name, "", "x", "__class__", "0"])] = (
                parent.pop(key)
            )
        elif kind == 2:
            parent[key] = rng.choice([[parent[key]], {"x": parent[key]}, [parent[key]] * 3, str(parent[key])])
        elif kind == 3:
            other = tree
            for step in rng.choice(paths):
                other = other[step] if isinstance(other, dict | list) and other else other
            parent[key] = json.loads(json.dumps(other))
        else:
            parent[key] = rng.choice(values or VALUES)
    return tree


BOMB = "\n".join(
    [f"b0: &b0 [{', '.join(['x'] * 9)}]", *(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 9))]
)
SCRAPS = [
    "x: !!python/object/apply:os.getcwd []", "x: !!python/name:os.system", "x: !!binary gA=", "x: !!timestamp no",
    "x: !!bool maybe", "x: !!int 1_x", "x: !!float nope", "x: !!set {a, b}", "x: !custom 1", "x: *nowhere",
    "x: &a [*a]", "x: &a {b: *a}", "<<: 1", "<<: [{a: 1}, 2]", "? [a]\n: 1", "? {a: 1}\n: 1", "1: x", "null: x",
    "true: x", "2020-13-45: x", "x: 2020-02-30", "x: 1:99:99", "x: 0o9", "x: |\n a\n\tb", "x: >-", "--- \n",
    "...\n--- a", "%YAML 9.9", "%TAG", "x: 'a", 'x: "\\ud800"', 'x: "\\x"', "\tx: 1", "x:\ty: 1", "- x", "x: @a",
    "x: `a`", "x: " + "[" * 3000, "x: " + "{a: " * 400, "x: " + "9" * 6000, "x: " + "- " * 2000, BOMB,
    BOMB.replace("x", '"' + "y" * 99 + '"'), "\ufeff", "\x00", "\x85", "\x1b",
]  # fmt: skip


def damage_yaml(rng: random.Random, tree: Any, many: int = 3) -> bytes:
    """The tree as damaged YAML: in its structure, in its text, or in its bytes."""
    kind = rng.randrange(10)
    if kind < 6:
        tree = damage_tree(rng, tree, many)
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5)
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    if kind in (6, 7):
        scrap = rng.choice(SCRAPS)
        if scrap.startswith("x: ") and rng.random() < 0.6 and ": " in lines[at]:
            lines[at] = lines[at].split(": ")[0] + scrap[1:]
        else:
            lines.insert(rng.choice([0, at, len(lines)]), scrap)
        if scrap.startswith("b0: ") and ": " in lines[-2]:
            lines[-2] = lines[-2].split(": ")[0] + ": *b8"
    elif kind == 8:
        lines[at : at + 1] = rng.choice(
            [[], [lines[at]] * 2, ["  " + lines[at]], [lines[at].lstrip()], ["# " + lines[at]]]
        )
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return apply_edits(data, edit_bytes(rng, len(data))) if kind == 9 else data


def damage_json(rng: random.Random, data: bytes, values: list[Any] | None = None) -> bytes:
    kind = rng.randrange(12)
    if kind < 8:
        return json.dumps(damage_tree(rng, json.loads(data), 2, values)).encode()
    if kind == 8:
        scraps = [
            b"",
            b"[]",
            b"null",
            b"1",
            b'"x"',
            b"{}",
            b"[" * 9000,
            b'{"a":' * 9000,
            b"\xef\xbb\xbf" + data,
            b"NaN",
        ]
        return rng.choice([*scraps, data.decode().encode("utf-16"), data + data, data[: len(data) // 2]])
    return apply_edits(data, edit_bytes(rng, len(data)))
