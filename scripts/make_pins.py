"""Print the constraints file of this environment: `make pins`.

Names and versions only, so that it says nothing of where packages come from and lets pip choose the build of torch. A
version that no longer runs on the oldest Python we support holds from the Python on that it needs.
"""

import re
import sys
from importlib.metadata import distributions

HEADER = """\
# The versions the tests were run with; made by `make pins`, read by `make demo` and `make test`.
# On a Python older than a pin allows, pip chooses for itself within pyproject.toml.
"""
OLDEST = (3, 10)
NOT_PINNED = {"zhiyin", "setuptools", "uv", "wheel"}  # ourselves, and tools that come with the interpreter


def canonical(name: str) -> str:
    """The name as package indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pin(name: str, version: str, requires_python: str) -> str:
    """One line; the local part of a version (``+cpu``) names a build, not a version."""
    line = f"{name}=={version.partition('+')[0]}"
    found = re.search(r">=\s*(\d+)\.(\d+)", requires_python)
    if found and (needed := (int(found[1]), int(found[2]))) > OLDEST:
        line += f'; python_version >= "{needed[0]}.{needed[1]}"'
    return line


def main() -> int:
    """Print the pins, sorted."""
    rows = {}
    for distribution in distributions():
        name = canonical(distribution.metadata["Name"])
        if name not in NOT_PINNED:
            rows[name] = pin(name, distribution.version, distribution.metadata.get("Requires-Python") or "")
    print(HEADER + "\n".join(rows[name] for name in sorted(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
