"""The plugin for vLLM: a request for `model: prag:KEY+KEY` is answered with that merge.

vLLM calls `register` in each of its processes (entry point group `vllm.general_plugins`); nobody
else imports this module, which needs vLLM. README.md in this folder has the commands.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from functools import cached_property
from pathlib import Path

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from prag_core.adapters.shards import open_store
from prag_core.adapters.store import UnknownKeyError
from prag_core.formats.merge_name import PREFIX
from prag_core.formats.merged_folders import MergedFolders
from prag_core.formats.vllm_settings import STORE, VllmSettings

log = logging.getLogger(__name__)


class PragResolver(LoRAResolver):
    """Finds adapters by the name of a merge; leaves all other names to other resolvers."""

    def __init__(self, settings: VllmSettings) -> None:
        """Keep the settings; the store is opened when it is first asked."""
        self.settings, self._opening = settings, threading.Lock()

    @cached_property
    def folders(self) -> MergedFolders:
        """The folders that vLLM loads."""
        settings = self.settings
        limits = settings.most_bytes, settings.max_rank, settings.cut
        store = open_store(settings.store, create=False)
        return MergedFolders(store, *limits, settings.forget, settings.folder)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Return where the merge lies; None, so that vLLM answers 404, for what is not there.

        Raises:
            ValueError: as `MergedFolders.path`; vLLM answers 400 with its text.
        """
        if not lora_name.startswith(PREFIX):
            return None
        try:  # in a thread: tokens of other requests must not wait for the store, or a merge
            path = await asyncio.to_thread(self._path, lora_name, base_model_name)
        except UnknownKeyError as error:
            log.warning("%s: %s", lora_name, error)
            return None
        return LoRARequest(lora_name, 1, str(path))  # vLLM puts its own number in place of 1

    def _path(self, lora_name: str, base_model_name: str) -> Path:
        with self._opening:  # once, whoever asks first
            folders = self.folders
        return folders.path(lora_name, base_model_name)


def register() -> None:
    """Register the resolver where the variable PRAG_VLLM_STORE names a store.

    Raises:
        FileNotFoundError, ValueError: no such store, or a variable that means nothing.
    """
    if os.environ.get(STORE):  # else it is another program's vLLM that finds the plugin installed
        settings = VllmSettings.from_environment(os.environ)
        LoRAResolverRegistry.register_resolver("prag", PragResolver(settings))
