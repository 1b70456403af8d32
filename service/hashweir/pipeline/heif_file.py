"""A HEIC file's boxes: which coded pictures its primary picture is made of, where they lie, how it is to be seen.

Nothing is decoded here. Boxes as in ISO/IEC 14496-12 (8.11) and 23008-12 (6.5, 6.6).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from hashweir.model import Turn

_MOST: Final = 2_000
"""Boxes in one, items, extents, tiles: twice what libheif takes. Some of them take no room in a file."""
_MOST_CONFIG: Final = 2**16
_CORNERS: Final = np.arange(4).reshape(2, 2)
_TURNS: Final[Mapping[tuple[int, ...], Turn]] = MappingProxyType(
    {
        (1, 3, 0, 2): "rotate-90",
        (3, 2, 1, 0): "rotate-180",
        (2, 0, 3, 1): "rotate-270",
        (1, 0, 3, 2): "flip-left-right",
        (2, 3, 0, 1): "flip-top-bottom",
        (0, 2, 1, 3): "transpose",
        (3, 1, 2, 0): "transverse",
    }
)
"""Where the four corners, numbered row by row, are after a turn."""


@dataclass(frozen=True, slots=True)
class Coded:
    """One coded picture: its decoder's configuration (`hvcC`) and its bytes, None where the file ends before them."""

    config: bytes
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Still:
    """The primary picture: its coded ones (more than one in tiles), row by row, and its size before it is cut.

    `crop` is left, top, width and height of what is shown, before the `turn` that it takes to be upright.
    """

    width: int
    height: int
    rows: int
    columns: int
    in_tiles: bool
    coded: tuple[Coded, ...]
    crop: tuple[int, int, int, int] | None
    turn: Turn | None


class _Fields:
    """Big-endian numbers, one after the other."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def number(self, size: int) -> int:
        return int.from_bytes(self.bytes(size), "big")

    def bytes(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._body):
            raise ValueError("a box ends before its fields do")
        return bytes(self._body[self._at - size : self._at])

    def count(self, size: int) -> int:
        """How many of something follow. Raises ValueError where nobody needs so many."""
        return _few(self.number(size))

    def version(self) -> int:
        """The version of a full box, its flags passed over."""
        return self.number(4) >> 24

    @property
    def rest(self) -> memoryview:
        return self._body[self._at :]


@dataclass(slots=True)
class _Item:
    kind: bytes = b""
    extents: list[tuple[int, int, int]] = field(default_factory=list)
    """Where (0: in the file, 1: in `idat`), offset, length."""
    made_of: list[int] = field(default_factory=list)
    properties: list[tuple[bytes, memoryview]] = field(default_factory=list)

    def property(self, name: bytes) -> memoryview:
        for one, body in self.properties:
            if one == name:
                return body
        raise ValueError(f"no {name.decode()}")


def read(content: bytes | bytearray) -> Still:
    """The primary picture of a file. Raises ValueError, LookupError or ArithmeticError for what is none."""
    whole = memoryview(content)
    meta = _only(_boxes(whole, lenient=True), b"meta")[4:]
    parts = dict(_boxes(meta))
    items = _items(parts)
    primary = _Fields(parts.get(b"pitm", memoryview(b"")))
    item = items[primary.number(2 if primary.version() == 0 else 4)]
    size = _Fields(item.property(b"ispe")[4:])
    width, height = size.number(4), size.number(4)
    idat = parts.get(b"idat", memoryview(b""))
    rows, columns, pieces = 1, 1, [item]
    if item.kind == b"grid":
        grid = _Fields(memoryview(_data(item, whole, idat) or b""))
        wide = grid.number(2) & 1
        rows, columns = grid.number(1) + 1, grid.number(1) + 1
        if (grid.number(4 if wide else 2), grid.number(4 if wide else 2)) != (width, height):
            raise ValueError("two sizes")
        pieces = [items[number] for number in item.made_of]
        if len(pieces) != rows * columns:
            raise ValueError(f"{len(pieces)} tiles for {rows} x {columns}")
    if any(one.kind not in (b"hvc1", b"hev1") for one in pieces):
        raise ValueError("not compressed by HEVC")
    coded: list[Coded] = []
    left = len(content)
    for one in pieces:
        config, data = one.property(b"hvcC"), _data(one, whole, idat)
        left -= len(data or b"")
        if left < 0 or len(config) > _MOST_CONFIG:
            raise ValueError("tiles that share their bytes")
        coded.append(Coded(bytes(config), data))
    crop, turn = _seen(item, width, height)
    return Still(width, height, rows, columns, item.kind == b"grid", tuple(coded), crop, turn)


def _boxes(body: memoryview, *, lenient: bool = False) -> Iterator[tuple[bytes, memoryview]]:
    at = number = 0
    while at + 8 <= len(body):
        number = _few(number + 1)
        head, size = 8, int.from_bytes(body[at : at + 4], "big")
        if size == 1:
            head, size = 16, int.from_bytes(body[at + 8 : at + 16], "big")
        elif size == 0:
            size = len(body) - at
        if size < head or (at + size > len(body) and not lenient):
            raise ValueError("a box of an impossible size")
        yield bytes(body[at + 4 : at + 8]), body[at + head : at + size]
        at += size


def _few(count: int) -> int:
    if count > _MOST:
        raise ValueError(f"{count} of something")
    return count


def _only(boxes: Iterator[tuple[bytes, memoryview]], name: bytes) -> memoryview:
    for one, body in boxes:
        if one == name:
            return body
    raise ValueError(f"no {name.decode()}")


def _items(parts: Mapping[bytes, memoryview]) -> dict[int, _Item]:
    items: defaultdict[int, _Item] = defaultdict(_Item)
    if (body := parts.get(b"iinf")) is not None:
        fields = _Fields(body)
        fields.number(2 if fields.version() == 0 else 4)
        for _, entry in _boxes(fields.rest):
            one = _Fields(entry)
            number = one.number(2 if one.version() < 3 else 4)
            one.number(2)
            items[number].kind = one.bytes(4)
    if (body := parts.get(b"iloc")) is not None:
        _locate(_Fields(body), items)
    if (body := parts.get(b"iref")) is not None:
        fields = _Fields(body)
        size = 2 if fields.version() == 0 else 4
        for name, entry in _boxes(fields.rest):
            one = _Fields(entry)
            number = one.number(size)
            if name == b"dimg":
                items[number].made_of = [one.number(size) for _ in range(one.count(2))]
    _associate(dict(_boxes(parts.get(b"iprp", memoryview(b"")))), items)
    return dict(items)


def _locate(fields: _Fields, items: defaultdict[int, _Item]) -> None:
    version = fields.version()
    sizes = fields.number(2)
    of_offset, of_length, of_base, of_index = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    extents = 0
    for _ in range(fields.count(2 if version < 2 else 4)):
        number = fields.number(2 if version < 2 else 4)
        where = fields.number(2) & 15 if version else 0
        fields.number(2)
        base = fields.number(of_base)
        for _ in range(fields.number(2)):
            extents = _few(extents + 1)
            fields.number(of_index if version else 0)
            items[number].extents.append((where, base + fields.number(of_offset), fields.number(of_length)))


def _associate(parts: Mapping[bytes, memoryview], items: defaultdict[int, _Item]) -> None:
    properties = list(_boxes(parts.get(b"ipco", memoryview(b""))))
    fields = _Fields(parts.get(b"ipma", memoryview(bytes(8))))
    wide = fields.number(4)
    for _ in range(fields.count(4)):
        item = items[fields.number(2 if wide >> 24 == 0 else 4)]
        for _ in range(fields.number(1)):
            place = fields.number(2) & 0x7FFF if wide & 1 else fields.number(1) & 0x7F
            if place > len(properties):
                raise ValueError("a property that is not there")
            if place:
                item.properties.append(properties[place - 1])


def _data(item: _Item, whole: memoryview, idat: memoryview) -> bytes | None:
    pieces: list[memoryview] = []
    for where, offset, length in item.extents:
        if where > 1:
            raise ValueError("a picture inside of another")
        source = (whole, idat)[where]
        if offset + length > len(source):
            return None
        pieces.append(source[offset : offset + length] if length else source[offset:])
        if sum(map(len, pieces)) > len(whole):
            raise ValueError("extents in one another")
    return b"".join(pieces)


def _seen(item: _Item, width: int, height: int) -> tuple[tuple[int, int, int, int] | None, Turn | None]:
    """What is cut off, and the turn after that: `clap` stands before `irot` and `imir` (ISO/IEC 23000-22, 7.3.6.7)."""
    crop, corners = None, _CORNERS
    for name, body in item.properties:
        if name == b"clap":
            if crop is not None or corners is not _CORNERS:
                raise ValueError("cut after it was turned")
            crop = _crop(_Fields(body), width, height)
        elif name == b"irot":
            corners = np.rot90(corners, body[0] & 3)
        elif name == b"imir":
            corners = corners[:, ::-1] if body[0] & 1 else corners[::-1]
    return crop, _TURNS.get(tuple(corners.ravel().tolist()))


def _crop(fields: _Fields, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width, height of a `clap`: sizes, and how far its middle is from the picture's, as fractions."""
    wide, high = (fields.number(4) / fields.number(4) for _ in range(2))
    right, down = (_signed(fields.number(4)) / fields.number(4) for _ in range(2))
    left, top = round(right + (width - wide) / 2), round(down + (height - high) / 2)
    if min(left, top) < 0 or min(wide, high) < 1 or left + wide > width or top + high > height:
        raise ValueError("a crop that is larger than the picture")
    return left, top, int(wide), int(high)


def _signed(number: int) -> int:
    return number - 2**32 if number >= 2**31 else number


def places(still: Still, height: int, width: int) -> list[tuple[int, int]]:
    """Top and left of each coded picture of this size. Raises ValueError where they don't just cover the whole."""
    for count, one, side in ((still.rows, height, still.height), (still.columns, width, still.width)):
        if not (count - 1) * one < side <= count * one or (one != side and not still.in_tiles):
            raise ValueError("coded pictures of another size than the header says")
    return [(row * height, column * width) for row in range(still.rows) for column in range(still.columns)]


def shown(still: Still, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The pixels that are left of it (height x width x 3)."""
    if still.crop is None:
        return rgb
    left, top, width, height = still.crop
    return np.ascontiguousarray(rgb[top : top + height, left : left + width])
