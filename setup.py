"""What pyproject.toml cannot say: the C files, each compiled beside the Python that uses it.

No -march: the wheel runs on every machine of its kind, and faster instructions are looked for at run time. No fused
multiply-add and no -ffast-math: the hashes are defined by single float32 operations, each rounded by itself.
"""

from pathlib import Path

from setuptools import Extension, setup

FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
SERVICE = Path("service")

setup(
    ext_modules=[
        Extension(
            ".".join(source.relative_to(SERVICE).with_suffix("").parts),
            [str(source)],
            depends=[str(header) for header in sorted(source.parent.glob("_*.h"))],
            extra_compile_args=FLAGS,
        )
        for source in sorted(SERVICE.glob("hashweir/*/_*.c"))
    ]
)
