"""Where a bundle is written: beside its place, and put there whole; an older one is replaced, nothing else ever is."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zhiyin.errors import UserError
from zhiyin.runtime import bundle


def check(folder: Path, *, marker: str = bundle.RECORD) -> Path:
    """The absolute path of a folder that may be written.

    Args:
        folder: a new or empty folder, or one that holds `marker`.
        marker: the file by which a folder of ours is known.

    Raises:
        UserError: it holds something else.
    """
    out = Path(folder).absolute()
    is_ours = (out / bundle.RECORD).is_file() or (out / marker).is_file()
    if out.exists() and not is_ours and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"export to {out}: it is there and no bundle; give a new folder or an older bundle")
    return out


@contextmanager
def fresh(out: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `out` when the block ends well; otherwise nothing is left of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder, old = Path(scratch) / "new", Path(scratch) / "old"
        folder.mkdir()
        yield folder
        if out.exists():
            os.replace(out, old)
        try:
            os.replace(folder, out)
        except OSError:
            if old.exists():
                os.replace(old, out)
            raise
