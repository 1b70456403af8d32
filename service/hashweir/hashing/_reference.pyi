import numpy as np
import numpy.typing as npt

def coefficients(rgb: npt.NDArray[np.uint8], plain: bool = False) -> tuple[bytes, int]:
    """16 x 16 coefficients (float32, wave 1 first) and quality (0 to 100), rounded bit for bit as `pdqhash` does.

    `rgb` is height x width x 3 of uint8, C-contiguous, sides of at least 5. `plain` forgoes instructions that not every
    processor has. Works without the GIL. Raises ValueError and BufferError for anything else, MemoryError.
    """
