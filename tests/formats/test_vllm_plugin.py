"""The plugin for vLLM, without vLLM: its settings, and what the resolver answers.

`make test-vllm` starts the real server (tests/formats/test_vllm_server.py).
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType, SimpleNamespace

import pytest

from prag_core.formats.vllm_settings import VllmSettings


@pytest.fixture
def environment(store, adapter):
    store.put("one", adapter)
    store.put("two", adapter)
    return {"PRAG_VLLM_STORE": str(store.path), "PRAG_VLLM_MAX_RANK": "8"}


@pytest.fixture
def plugin(monkeypatch):
    """The plugin on stand-ins for the two modules of vLLM that it takes names from."""
    request, resolver = ModuleType("vllm.lora.request"), ModuleType("vllm.lora.resolver")
    request.LoRARequest = lambda name, number, path: SimpleNamespace(name=name, path=path)
    resolver.LoRAResolver, registered = object, {}
    resolver.LoRAResolverRegistry = SimpleNamespace(register_resolver=registered.__setitem__)
    for name, module in (
        ("vllm", ModuleType("vllm")), ("vllm.lora", ModuleType("vllm.lora")),
        ("vllm.lora.request", request), ("vllm.lora.resolver", resolver),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "prag_core.formats.vllm_plugin", raising=False)
    loaded = importlib.import_module("prag_core.formats.vllm_plugin")
    monkeypatch.delitem(sys.modules, "prag_core.formats.vllm_plugin")
    return SimpleNamespace(register=loaded.register, registered=registered, module=loaded)


@pytest.fixture
def resolver(plugin, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    plugin.register()
    return plugin.registered["prag"]


def resolve(resolver, name):
    return asyncio.run(resolver.resolve_lora("org/tiny", name))


def test_without_a_store_nothing_is_registered(plugin, monkeypatch):
    monkeypatch.delenv("PRAG_VLLM_STORE", raising=False)
    plugin.register()
    assert plugin.registered == {}


def test_names_become_folders_of_the_served_base(resolver):
    request = resolve(resolver, "prag:one+two@1,0.5")
    assert request.name == "prag:one+two@1,0.5"
    with open(f"{request.path}/adapter_config.json") as file:
        config = json.load(file)
    assert (config["base_model_name_or_path"], config["r"]) == ("org/tiny", 4)
    assert resolve(resolver, "prag:one").path != request.path


def test_the_store_is_opened_once_and_not_in_the_event_loop(plugin, resolver, monkeypatch):
    open_store, threads = plugin.module.open_store, []

    def slow(*arguments, **options):
        threads.append(threading.current_thread())
        time.sleep(0.1)
        return open_store(*arguments, **options)

    async def both():
        names = "prag:one", "prag:two"
        await asyncio.gather(*(resolver.resolve_lora("org/tiny", name) for name in names))

    monkeypatch.setattr(plugin.module, "open_store", slow)
    asyncio.run(both())
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_other_names_and_unknown_keys_are_not_there_and_no_names_are_refused(resolver):
    assert resolve(resolver, "somebodys-lora") is None
    assert resolve(resolver, "prag:three") is None
    with pytest.raises(ValueError, match="expected KEY"):
        resolve(resolver, "prag:one+")
    remedy = "start vLLM with --max-lora-rank 16 and set PRAG_VLLM_MAX_RANK=16, or cut it with "
    remedy += "PRAG_VLLM_CUT=1"
    with pytest.raises(ValueError, match=rf"of rank 10 .*expected at most 8: {remedy}$"):
        resolve(resolver, "prag:one+two+one+two+one")


@pytest.mark.parametrize(("changes", "error"), [
    ({"PRAG_VLLM_MAX_RANK": "20"}, "got PRAG_VLLM_MAX_RANK=20, expected one of 1, 8, 16"),
    ({"PRAG_VLLM_CUT": "yes"}, "got PRAG_VLLM_CUT=yes, expected 0 or 1"),
    ({"PRAG_VLLM_BYTES": "-1"}, "got PRAG_VLLM_BYTES=-1, expected a whole number"),
])  # fmt: skip
def test_variables_that_mean_nothing_are_refused_by_name(environment, changes, error):
    with pytest.raises(ValueError, match=error):
        VllmSettings.from_environment(environment | changes)


def test_a_store_that_is_not_there_is_refused(environment, tmp_path):
    with pytest.raises(FileNotFoundError, match="got no store at"):
        VllmSettings.from_environment(environment | {"PRAG_VLLM_STORE": str(tmp_path / "none")})
    assert not (tmp_path / "none").exists()


UNKNOWN = json.dumps({"error": {"message": "The lora adapter 'prag:one' cannot be found."}})


@pytest.mark.parametrize(("status", "reply", "heard"), [
    (200, "", True), (404, UNKNOWN, True), (401, "", False), (0, "", False),
    (404, "", False), (404, '{"detail": "Not Found"}', False),  # of other servers
])  # fmt: skip
def test_vllm_is_told_to_forget(environment, status, reply, heard, monkeypatch):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            asked.append((self.path, json.loads(body), self.headers["authorization"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # asks no proxy
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        settings = VllmSettings.from_environment(
            environment | {"PRAG_VLLM_URL": f"{url}/", "VLLM_API_KEY": "secret"}
        )
        if not status:  # nobody listens
            server.server_close()
            assert settings.forget("prag:one") is heard
            return
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert settings.forget("prag:one") is heard
        thread.join(10)
    assert asked == [("/v1/unload_lora_adapter", {"lora_name": "prag:one"}, "Bearer secret")]
