import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Edges = npt.NDArray[np.int64]

def down(
    levels: npt.NDArray[np.uint8],
    rows: int,
    channels: int,
    edges: Edges,
    weights: Floats,
    out: Floats,
    plain: bool = False,
) -> None:
    """Sum up 64 strips of a picture's rows, each with two rows of weights, into `out`: width x 2 x 64, luma.

    `levels` is rows x width x channels; three channels are R, G, B, and one is luma already. `edges` is 64 x 2: a
    strip's first row and the one after its last. `weights` are, strip by strip, 2 x its rows. All are C-contiguous.
    `plain` forgoes instructions that not every processor has. Works without the GIL. Raises ValueError and BufferError
    where sizes don't fit each other, MemoryError; types are not looked at.
    """

def across(
    strips: Floats,
    edges: Edges,
    weights: Floats,
    waves: Floats,
    samples: Floats,
    tie: float,
    near: float,
    plain: bool = False,
) -> tuple[bytes, float, int, int, int]:
    """Sum up what `down` made to `samples`, 64 (across) x 64 (down), and read off their cosine transform.

    `waves` is 16 x 64. Gives the 32 bytes of the hash, the gap of the 128th and the 129th coefficient, how many lie
    nearer than `near` to the former, and quality (0 to 100) if every step of brightness were lower or higher by `tie`
    per cent of the range.
    """

def turned(strips: Floats, edges: Edges, weights: Floats, waves: Floats, plain: bool = False) -> bytes:
    """The hashes of all views: 2 (upside down) x 2 (mirrored) x 2 (then transposed) x 32 bytes."""
