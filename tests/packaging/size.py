"""Megabytes of the running interpreter's environment: `python size.py LIMIT`; fails above it."""

import importlib.metadata
import sys
from pathlib import Path


def installed_bytes(distribution: importlib.metadata.Distribution) -> int:
    """Bytes of a distribution's files, compiled modules among them."""
    paths = {Path(str(distribution.locate_file(f))) for f in distribution.files or ()}
    return sum(p.stat().st_size for p in paths if p.is_file())


def environment_bytes() -> int:
    """Bytes below the environment's root, each file once."""
    files = (p for p in Path(sys.prefix).rglob("*") if p.is_file() and not p.is_symlink())
    return sum(p.stat().st_size for p in files)


def main(limit_mb: int) -> None:
    found = {d.name: installed_bytes(d) for d in importlib.metadata.distributions()}
    for name, nbytes in sorted(found.items(), key=lambda item: -item[1])[:12]:
        print(f"{name:20} {nbytes / 1e6:8.1f} MB")
    total = environment_bytes() / 1e6
    print(f"{'environment':20} {total:8.1f} MB in {len(found)} distributions, limit {limit_mb} MB")
    heavy = {"torch", "transformers", "triton"} & {name.lower() for name in found}
    if heavy:
        sys.exit(f"perfxlm[cpu] must not bring {', '.join(sorted(heavy))}")
    if total > limit_mb:
        sys.exit(f"perfxlm[cpu] takes {total:.1f} MB, more than {limit_mb} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]))
