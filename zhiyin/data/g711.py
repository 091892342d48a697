"""ITU-T G.711: eight-bit companding of telephones, mu-law (America, Japan) and A-law (elsewhere).

Tables 1a to 2b of the recommendation, computed: a code word is a sign, a segment of three bits and a step of four.
mu-law sends its bits inverted, A-law inverts every other one.
"""

import numpy as np
from numpy.typing import NDArray

from zhiyin.errors import UserError

LAWS = ("mu-law", "a-law")
_BIAS = 132  # mu-law on 16 bits: 33 on the 14 bits of the recommendation
_LARGEST = 32635


def encode(linear_T: NDArray[np.int16], law: str) -> NDArray[np.uint8]:
    """Code words [T] of 16-bit samples; those beyond the range of the law become its largest.

    Raises:
        UserError: there is no such law.
    """
    _check(law)
    wide = linear_T.astype(np.int32)
    if law == "mu-law":
        height = np.minimum(np.abs(wide), _LARGEST) + _BIAS
        segment = _segment(height >> 7)
        code = (segment << 4) | ((height >> (segment + 3)) & 15)
        return (~(code | np.where(wide < 0, 0x80, 0))).astype(np.uint8)
    height = np.where(wide < 0, ~wide, wide)  # steps of A-law meet between -1 and 0
    segment = _segment(height >> 8, first=1)
    code = (segment << 4) | ((height >> np.maximum(segment + 3, 4)) & 15)
    return ((code | np.where(wide < 0, 0, 0x80)) ^ 0x55).astype(np.uint8)


def decode(codes_T: NDArray[np.uint8], law: str) -> NDArray[np.int16]:
    """16-bit samples [T] in the middle of each code word's step.

    Raises:
        UserError: there is no such law.
    """
    _check(law)
    if law == "mu-law":
        code = (~codes_T).astype(np.int32) & 0xFF
        height = ((((code & 15) << 3) + _BIAS) << ((code >> 4) & 7)) - _BIAS
        return np.where(code & 0x80, -height, height).astype(np.int16)
    code = (codes_T ^ 0x55).astype(np.int32)
    segment, step = (code >> 4) & 7, code & 15
    height = np.where(segment == 0, (step << 4) + 8, ((step << 4) + 264) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, height, -height).astype(np.int16)


def _segment(high_bits: NDArray[np.int32], first: int = 0) -> NDArray[np.int32]:
    """Number of the segment: the place of the highest bit set."""
    edges = 1 << np.arange(1 - first, 8 - first)
    return np.searchsorted(edges, high_bits, side="right").astype(np.int32)


def _check(law: str) -> None:
    if law not in LAWS:
        raise UserError(f"G.711 law '{law}' is not known; known: {' '.join(LAWS)}")
