"""Merged folders: a name goes in, an immutable PEFT folder of that merge comes out.

A serving engine loads an adapter from a folder, may load it again at any time, and keys its caches
by the folder's path. So a folder is written once, under a name made of what is in it, and leaves
only after the engine was told to forget the adapter.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from prag_core.adapters.adapter import Adapter, fingerprint
from prag_core.adapters.store import AdapterStore
from prag_core.formats.merge_name import MergeName
from prag_core.formats.peft_folder import to_peft
from prag_core.formats.view import fit_rank, require_rank

GRACE = 600.0  # seconds in which requests that were under way may still load a forgotten adapter
PATIENCE = 10.0  # seconds in which an engine that answers slowly is asked to forget more
REFUSALS = 3  # names that an engine may not forget before it is asked no more, until next time
# How a merge of too high a rank is refused: by the settings of the plugin, who makes these folders.
RANK, CUT = "PRAG_VLLM_MAX_RANK=", "cut it with PRAG_VLLM_CUT=1"
log = logging.getLogger(__name__)


@dataclass
class _Entry:
    name: str  # as the engine knows the adapter
    bytes: int
    forgotten: float = 0.0  # `time.monotonic()` when the engine forgot it; 0: it has not


class MergedFolders:
    """Folders of merges; above a limit of bytes those that were asked for longest ago leave."""

    def __init__(
        self,
        store: AdapterStore,
        most_bytes: int,
        max_rank: int,
        cut: bool,
        forget: Callable[[str], bool],
        parent: str | Path | None = None,
    ) -> None:
        """Start without folders; all are removed when the object or its process ends.

        Args:
            store: where adapters are.
            most_bytes: of all folders that the engine has not forgotten.
            max_rank: the most rows a module that the engine takes.
            cut: whether a merge of more is cut (see `fit_rank`), or else refused.
            forget: tells the engine to forget an adapter's name; False where it could not be told.
            parent: folder to make them in; that of temporary files when omitted.
        """
        self.store, self.most_bytes, self.max_rank, self.cut = store, most_bytes, max_rank, cut
        self.forget, self._lock = forget, threading.Lock()
        self.folder = Path(tempfile.mkdtemp(prefix="prag-merged-", dir=parent))
        self._entries: dict[Path, _Entry] = {}  # the one asked for longest ago first
        self._resolving: list[str] = []  # the names that callers wait for
        weakref.finalize(self, shutil.rmtree, self.folder, True)

    def path(self, name: str, base_model_name: str) -> Path:
        """Return the folder of a merge; write it where it is not there.

        Args:
            name: see `MergeName`.
            base_model_name: what the engine calls its base model.

        Raises:
            UnknownKeyError: a key that the store does not have.
            ValueError: no name of a merge, adapters that do not fit each other, or a rank above the
                limit that is not to be cut.
        """
        merge = MergeName.parse(name).whole(self.store)
        self._resolving.append(name)
        try:
            with self._lock:
                contents = [row.checksums for key in merge.keys for row in self.store.rows(key)]
                # Of the weights too: a document whose adapter was made again has another folder.
                folder = self.folder / fingerprint([name, base_model_name, contents])
                entry = self._entries.pop(folder, None)
                if entry is None:
                    entry = self._write(name, merge, base_model_name, folder)
                self._entries[folder] = replace(entry, forgotten=0.0)  # last: the newest
                self._shrink(folder)
        finally:
            self._resolving.remove(name)
        return folder

    def _write(self, name: str, merge: MergeName, base_model_name: str, folder: Path) -> _Entry:
        adapter = self._fitted(name, merge.adapter(self.store))
        # What only another merge would need: an engine reads A and B alone.
        adapter = replace(adapter, memory=None, shared_rows=0)
        linked = self.store.weights_path(merge.keys[0]) if merge.weights == (1.0,) else None
        to_peft(adapter, folder, base_model_name, linked)
        return _Entry(name, sum(file.stat().st_size for file in folder.iterdir()))

    def _fitted(self, name: str, adapter: Adapter) -> Adapter:
        if not self.cut:
            require_rank(name, adapter, self.max_rank, RANK, CUT)
        fitted = fit_rank(adapter, self.max_rank)
        if fitted is not adapter:
            log.info("%s was cut from rank %d to %d", name, adapter.rank, fitted.rank)
        return fitted

    def _shrink(self, newest: Path) -> None:
        """Let the engine forget what is too much, and remove what it forgot a while ago."""
        now = time.monotonic()
        older = {folder: entry for folder, entry in self._entries.items() if folder != newest}
        for entry in older.values():
            # An engine asks for what it does not know; and it answers no other request about a
            # name while it waits for its folder.
            if entry.name in self._resolving and not entry.forgotten:
                entry.forgotten = now
        known = sum(entry.bytes for entry in self._entries.values() if not entry.forgotten)
        refused = 0
        for folder, entry in older.items():
            if entry.forgotten and now - entry.forgotten > GRACE:
                del self._entries[folder]
                shutil.rmtree(folder, ignore_errors=True)
                continue
            too_much = known > self.most_bytes and not entry.forgotten
            # One name that is not forgotten keeps no other; an engine that forgets none, or does
            # not answer, is not asked for long.
            if too_much and refused < REFUSALS and time.monotonic() - now < PATIENCE:
                if self.forget(entry.name):
                    known -= entry.bytes
                    entry.forgotten = now
                else:
                    refused += 1
        if known > self.most_bytes and not all(entry.forgotten for entry in older.values()):
            log.warning("%d bytes of merges, expected %d at most", known, self.most_bytes)
