"""What is done to a file, and the attacks that any file of a kind must stand."""

import gzip
import json
import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Spoil = Callable[[Path], None]
GIGANTIC = 60_000  # voxels on each of three axes: 400 TB


@dataclass(frozen=True)
class Hostile:
    """One attack: a file of the world spoiled, then a command.

    Attributes:
        arguments: of `nnunet_ssl`, with {root} for the world; of the trainer if the first is "train".
        file: what is spoiled, below the world's root; "" for nothing.
        told: what the message must contain besides; the name of the file if None.
        fine: the command must work (True), must refuse (False), or may do either, without a traceback (None).
    """

    name: str
    arguments: tuple[str, ...]
    file: str = ""
    spoil: Spoil | None = None
    told: str | None = None
    fine: bool | None = False
    environment: tuple[tuple[str, str], ...] = ()


# ---------------------------------------------------------------------- what is done to a file


def text(content: str, encoding: str = "utf-8") -> Spoil:
    return lambda file: file.write_bytes(content.encode(encoding, "surrogatepass"))


def as_json(content) -> Spoil:
    return text(json.dumps(content))


def bytes_(content: bytes) -> Spoil:
    return lambda file: file.write_bytes(content)


def changed(change: Callable[[bytes], bytes]) -> Spoil:
    """The file's own bytes, changed."""
    return lambda file: file.write_bytes(change(file.read_bytes()))


def cut(share: float) -> Spoil:
    return changed(lambda content: content[: int(len(content) * share)])


def flipped(seed: int, first: int = 400, count: int = 8) -> Spoil:
    """Some of the first bytes replaced by others."""

    def change(content: bytes) -> bytes:
        generator, spoiled = random.Random(seed), bytearray(content)
        for _ in range(count):
            spoiled[generator.randrange(min(first, len(spoiled)))] = generator.randrange(256)
        return bytes(spoiled)

    return changed(change)


def in_gzip(spoil: Callable[[bytes], bytes]) -> Spoil:
    return changed(lambda content: gzip.compress(spoil(gzip.decompress(content))))


def packed(format_: str, offset: int, *values) -> Callable[[bytes], bytes]:
    """Other values at a place of a header."""

    def change(content: bytes) -> bytes:
        spoiled = bytearray(content)
        struct.pack_into(format_, spoiled, offset, *values)
        return bytes(spoiled)

    return change


def folder(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


def link(target: str) -> Spoil:
    def spoil(file: Path) -> None:
        file.unlink(missing_ok=True)
        file.symlink_to(target)

    return spoil


def moved(name: str) -> Spoil:
    """Another name for the same file."""
    return lambda file: file.rename(file.with_name(name))


def mutated(path: tuple, value) -> Spoil:
    """The JSON file with one value replaced, or left out if it is `...`."""

    def spoil(file: Path) -> None:
        content = json.loads(file.read_text(encoding="utf-8"))
        place = content
        for key in path[:-1]:
            place = place[key]
        if value is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        file.write_text(json.dumps(content), encoding="utf-8")

    return spoil


NASTY = [
    ...,
    None,
    True,
    -1,
    0,
    1.5,
    math.nan,
    math.inf,
    10**30,
    "",
    "x",
    "../../x",
    "a\nb\x1b[31m",
    "x" * 3000,
    [],
    {},
    [None],
    [[1]],
    ["../x"],
    {"x": None},
]
DEEP = "[" * 100_000
WHOLE_FILE: dict[str, Spoil] = {
    "empty": bytes_(b""),
    "folder": folder,
    "broken link": link("nowhere"),
    "link to itself": lambda file: link(file.name)(file),
    "utf-16": changed(lambda content: content.decode().encode("utf-16")),
    "latin-1": bytes_('{"ä": 1}'.encode("latin-1")),
    "binary": bytes_(bytes(range(256)) * 4),
    "truncated": cut(0.6),
    "deep": text(DEEP),
    "list": text("[1]"),
    "null": text("null"),
    "string": text('"x"'),
    "number": text("5"),
    "long number": text("9" * 5000),
    "NUL": bytes_(b"\0" * 100),
    "two values": text("{} {}"),
    "double key": changed(lambda content: doubled(content)),
}


def doubled(content: bytes) -> bytes:
    """JSON in which the first key of the first object stands twice."""
    loaded = json.loads(content)
    first = loaded[0] if isinstance(loaded, list) else loaded
    key, value = next(iter(first.items()))
    return content.replace(b"{", b"{" + json.dumps(key).encode() + b": " + json.dumps(value).encode() + b", ", 1)


def paths(content, at: tuple = ()) -> Iterator[tuple]:
    """The places of a JSON value; of a list the first two entries only."""
    items = (
        content.items() if isinstance(content, dict) else enumerate(content[:2]) if isinstance(content, list) else ()
    )
    for key, value in items:
        yield (*at, key)
        yield from paths(value, (*at, key))


def mutations(
    name: str, arguments: tuple[str, ...], root: Path, file: str, count: int, keep=lambda path: True, told=None
):
    """`count` single replacements in a JSON file, chosen by seed; what is not needed may be anything."""
    content = json.loads((root / file).read_text(encoding="utf-8"))
    all_ = [(path, number) for path in paths(content) if keep(path) for number in range(len(NASTY))]
    for path, number in random.Random(name).sample(all_, min(count, len(all_))):
        title = f"{name}: {'.'.join(map(str, path))} = {str(NASTY[number])[:20]!r}"
        yield Hostile(title, arguments, file, mutated(path, NASTY[number]), told, None)


def whole_files(name: str, arguments: tuple[str, ...], file: str, told: str | None = None, but=()) -> Iterator[Hostile]:
    for fault, spoil in WHOLE_FILE.items():
        if fault not in but:
            yield Hostile(f"{name}: {fault}", arguments, file, spoil, told)
