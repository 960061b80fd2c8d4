"""Settings of the plugin for vLLM: environment variables go in, checked values come out.

PRAG_VLLM_STORE     folder of the store, or place of many; without it the plugin does nothing
PRAG_VLLM_MAX_RANK  as vLLM's --max-lora-rank (default 16, as vLLM's)
PRAG_VLLM_CUT       1: a merge of a higher rank is cut to it; 0 (default): it is refused by name
PRAG_VLLM_BYTES     of merged folders (default 10 GiB)
PRAG_VLLM_FOLDER    folder to make them in (default: that of temporary files)
PRAG_VLLM_URL       where this vLLM answers (default http://127.0.0.1:8000), by which it is told to
                    forget the adapters of folders that are removed; with the key VLLM_API_KEY
"""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prag_core.adapters.shards import open_store
from prag_core.formats.view import VLLM_RANKS

STORE = "PRAG_VLLM_STORE"
DEFAULTS = {
    "PRAG_VLLM_MAX_RANK": "16",
    "PRAG_VLLM_CUT": "0",
    "PRAG_VLLM_BYTES": str(10 << 30),
    "PRAG_VLLM_FOLDER": "",
    "PRAG_VLLM_URL": "http://127.0.0.1:8000",
    "VLLM_API_KEY": "",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VllmSettings:
    """What the variables say."""

    store: str
    max_rank: int
    cut: bool
    most_bytes: int
    folder: str | None
    url: str
    api_key: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> VllmSettings:
        """Read and check the variables.

        Raises:
            FileNotFoundError: no such store.
            ValueError: a number or a switch that is none.
        """
        texts = {name: environment.get(name) or value for name, value in DEFAULTS.items()}
        rank, cut, most, folder, url, api_key = texts.values()
        ranks = [str(rank) for rank in VLLM_RANKS]
        for name, fits, expected in (
            ("PRAG_VLLM_MAX_RANK", rank in ranks, f"one of {', '.join(ranks)}"),
            ("PRAG_VLLM_CUT", cut in ("0", "1"), "0 or 1"),
            ("PRAG_VLLM_BYTES", most.isdecimal(), "a whole number"),
        ):
            if not fits:
                raise ValueError(f"got {name}={texts[name]}, expected {expected}: correct it")
        open_store(environment[STORE], create=False).close()
        limits = int(rank), cut == "1", int(most)
        return cls(environment[STORE], *limits, folder or None, url.rstrip("/"), api_key)

    def forget(self, name: str) -> bool:
        """Tell vLLM to forget an adapter; False, and a line in the log, where it does not hear."""
        body = json.dumps({"lora_name": name}).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.api_key}"}
        request = urllib.request.Request(f"{self.url}/v1/unload_lora_adapter", body, headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            direct.open(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            # By name vLLM says that it does not know it; another server that there is no such page.
            if error.code == 404 and json.dumps(name, ensure_ascii=False)[1:-1] in text:
                return True
            remedy = "set PRAG_VLLM_URL, and VLLM_API_KEY if it has a key"
            log.warning("got status %d from %s (%s): %s", error.code, self.url, text[:200], remedy)
            return False
        except OSError as error:
            log.warning("got no answer from %s (%s): set PRAG_VLLM_URL", self.url, error)
            return False
        return True
