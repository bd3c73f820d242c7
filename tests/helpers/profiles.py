"""ICC profiles, as few bytes of them as Little CMS takes (ICC.1:2001-04)."""

import struct

# XYZ of red, green and blue at D50.
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


def rgb(name: str, primaries: tuple[tuple[float, float, float], ...], gamma: float | None = 2.2) -> bytes:
    """`gamma` None: sRGB's own curve."""
    curve = _curve(gamma)
    tags = {b"desc": _text(name), b"wtpt": _xyz((0.9642, 1.0, 0.8249))}
    tags |= {letter + b"XYZ": _xyz(value) for letter, value in zip((b"r", b"g", b"b"), primaries, strict=True)}
    return _profile(b"RGB ", tags | {letter + b"TRC": curve for letter in (b"r", b"g", b"b")})


def grey(name: str, gamma: float) -> bytes:
    return _profile(b"GRAY", {b"desc": _text(name), b"wtpt": _xyz((0.9642, 1.0, 0.8249)), b"kTRC": _curve(gamma)})


def cmyk(name: str) -> bytes:
    """Of a press whose full cyan is a middle grey, and whose other full inks are black."""
    corners = [bytes(3 * [255]), *[bytes(3)] * 15]
    corners[8] = bytes([128])
    lab = b"".join(corner[:1] + b"\x80\x80" for corner in corners)
    straight = bytes(range(256))
    lut = b"mft1\0\0\0\0\x04\x03\x02\0" + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    tags = {
        b"desc": _text(name),
        b"wtpt": _xyz((0.9642, 1.0, 0.8249)),
        b"A2B0": lut + 4 * straight + lab + 3 * straight,
    }
    return _profile(b"CMYK", tags, connection=b"Lab ")


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(gamma: float | None) -> bytes:
    if gamma is None:
        shares = [number / 1023 for number in range(1024)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in shares]
        return b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *(round(65535 * v) for v in linear))
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _text(text: str) -> bytes:
    data = text.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(data)) + data + bytes(78 + -len(data) % 4)


def _profile(space: bytes, tags: dict[bytes, bytes], *, connection: bytes = b"XYZ ") -> bytes:
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = offset + len(body)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"lcms", 0x02400000, b"mntr", space, connection, bytes(12), b"acsp")
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header[:128] + struct.pack(">I", len(tags)) + table + body
