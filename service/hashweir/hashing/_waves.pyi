import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

def read(
    views: Floats, waves: Floats, tie: float, near: float, plain: bool = False
) -> tuple[bytes, float, int, int, int, bytes]:
    """What the cosine transform of 64 x 64 samples, the first of `views`, says.

    `waves` is 16 x 64: waves 1 to 16, whose second half repeats the first one, those of odd number upside down. Gives
    the 32 bytes of the hash, the gap of the 128th and the 129th coefficient, how many lie nearer than `near` to the
    former, quality (0 to 100) if every step of brightness were lower or higher by `tie` per cent of the range, and the
    16 x 16 coefficients (float32, wave 1 first).
    `plain` forgoes instructions that not every processor has. Works without the GIL. Raises ValueError and BufferError
    where sizes don't fit; types are not looked at.
    """

def turned(views: Floats, waves: Floats, value: bytes, plain: bool = False) -> bytes:
    """The hashes of all turns: 2 (upside down) x 2 (mirrored) x 2 (then transposed) x 32 bytes.

    `views` are as `_linear.samples` makes them, `value` is the hash of the first of them. Raises as `read`.
    """

def dihedral(coefficients: bytes, near: float) -> tuple[bytes, float, int]:
    """The hashes of all turns by changed signs of the coefficients that `read` gives, in the order of `turned`.

    Then the least gap of any turn's 128th and 129th coefficient, and how many lie nearer than `near` to the former.
    Works without the GIL. Raises as `read`.
    """
