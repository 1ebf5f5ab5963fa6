"""A folder for a server that runs as another user: those of a test or a checkout may be closed to all but one."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class TemporaryHome:
    """A new folder that others may enter, removed by `remove` or, at the latest, at the end of this process.

    Args:
        owner: the user it belongs to; None for the one who runs this.
    """

    def __init__(self, owner: str | None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="kip-"))
        self.path.chmod(0o755)
        if owner is not None:
            shutil.chown(self.path, owner, owner)
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
