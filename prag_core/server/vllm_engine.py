"""vLLM as the engine: rows come in, a vLLM server elsewhere decodes them, their text goes out.

It gets the tokens of every prompt, and the adapters' merge by name: its plugin (README.md of
`formats`) makes it from the same store. The tokens that come back become text here, so that answers
begin, end and are cut as those of our own engine.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx

from prag_core.adapters.adapter import Adapter
from prag_core.formats.merge_name import MergeName
from prag_core.model.decoding import GREEDY_BELOW
from prag_core.model.decoding_rows import Row
from prag_core.server.engine import LATE, Emit, Ticket, require_room

PASSED_ON = (400, 404)  # statuses of vLLM that are the client's too; with others it is the server's
STARTING = 10.0  # seconds in which it must say which model it serves
MERGE = "merge"  # metadata of an adapter that stands for a merge


class BackendError(RuntimeError):
    """What vLLM refused or did not do, in its own words; `status` is what a client gets."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class VllmEngine:
    """Sends rows to vLLM, each in a thread that waits for its tokens."""

    def __init__(
        self, url: str, api_key: str = "", max_rows: int = 32, max_queue: int = 256
    ) -> None:
        """Ask the server which model it serves.

        Args:
            url: where it answers, such as http://127.0.0.1:8000.
            api_key: that it asks for.
            max_rows: rows sent at one time.
            max_queue: rows that may wait here; vLLM has a queue of its own.

        Raises:
            ValueError: nobody answers there as vLLM does.
        """
        self.url, self.max_queue = url, max_queue
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=None)
        try:
            self.http = httpx.Client(base_url=url, headers=headers, limits=limits, timeout=STARTING)
            reply = self.http.get("/v1/models").raise_for_status().json()
            # Adapters that it knows already are listed too, below their base.
            self.model = next(x["id"] for x in reply["data"] if not x.get("parent"))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, StopIteration) as error:
            raise ValueError(
                f"got no model from {url!r} ({error!r}), expected the address of a vLLM server, "
                "such as http://127.0.0.1:8000: start it, or correct --backend_url (VLLM_API_KEY "
                "where it asks for a key)"
            ) from error
        self._tickets: list[Ticket] = []
        self._changed = threading.Condition()
        self._closing = False
        self._pool = ThreadPoolExecutor(max_rows, "vllm")

    @staticmethod
    def merge(adapters: Sequence[Adapter], weights: Sequence[float], method: str) -> Adapter:
        """Name a merge, in place of making it; the adapter that comes back only stands for it."""
        name = MergeName(tuple(x.metadata["key"] for x in adapters), tuple(weights))
        return replace(adapters[0], metadata={**adapters[0].metadata, MERGE: str(name)})

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return not self._closing

    @property
    def waiting(self) -> list[Ticket]:
        """Those whose turn has not come; not those who gave up."""
        return [t for t in list(self._tickets) if t.row is None and not t.cancelled]

    @property
    def decoding(self) -> int:
        """Number of rows that vLLM has."""
        return sum(ticket.row is not None for ticket in list(self._tickets))

    def submit(self, build: Callable[[], Row], emit: Emit, timeout: float) -> Ticket:
        """Queue a row; arguments and errors are those of `Engine.submit`."""
        ticket = Ticket(build, emit, time.monotonic() + timeout)
        with self._changed:
            require_room(self, self.max_queue)
            self._tickets.append(ticket)
        self._pool.submit(self._answer, ticket)
        return ticket

    def close(self, timeout: float | None = None) -> None:
        """Take no more requests, answer what is there, and stop."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._tickets, timeout)
            for ticket in self._tickets:
                ticket.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, ticket: Ticket) -> None:
        try:
            if not ticket.cancelled:
                self._require_time(ticket)
                ticket.row = ticket.build()
                self._stream(ticket, ticket.row)
        except httpx.TimeoutException:
            ticket.emit("", TimeoutError(LATE))
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            words = f"got no answer from vLLM at {self.url} ({error}), expected one"
            ticket.emit("", BackendError(502, f"{words}: start it again, or try again later"))
        except Exception as error:  # of any kind: it is the request's
            ticket.emit("", error)
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def _stream(self, ticket: Ticket, row: Row) -> None:
        """Follow a row's tokens until its text ends, which may be before vLLM would end it."""
        if row.answer:
            ticket.emit("", None)
            row.finish = "stop"
            ticket.emit(row.answer, None)
            return
        body, left = self._body(row), max(ticket.deadline - time.monotonic(), 0.1)
        row.adapter = None
        # Whoever leaves the block closes the connection, and vLLM gives the row up.
        with self.http.stream("POST", "/v1/completions", json=body, timeout=left) as reply:
            if reply.status_code != 200:
                raise self._refusal(reply.status_code, reply.read())
            ticket.emit("", None)
            for line in _lines(reply.iter_bytes()):
                if ticket.cancelled:
                    return
                self._require_time(ticket)
                if line.startswith(b"data: {"):
                    self._push(ticket, row, json.loads(line.removeprefix(b"data: ")))
                if row.finish:
                    return
        raise BackendError(502, f"got half an answer from vLLM at {self.url}: try again")

    def _body(self, row: Row) -> dict:
        name = row.adapter.metadata[MERGE] if row.adapter else self.model
        options = row.options
        greedy = options.temperature < GREEDY_BELOW
        return {
            "model": name, "prompt": row.ids, "max_tokens": options.max_new_tokens,
            "temperature": 0.0 if greedy else options.temperature, "top_p": options.top_p,
            "seed": options.seed, "stop_token_ids": sorted(row.text.ends), "stream": True,
            "return_token_ids": True,
        }  # fmt: skip

    def _push(self, ticket: Ticket, row: Row, event: dict) -> None:
        """Take the tokens of an event, and pass on the text that became final."""
        if "error" in event:
            raise self._refusal(int(event["error"].get("code") or 502), json.dumps(event).encode())
        (choice,) = event["choices"]
        for token in choice.get("token_ids") or ():
            piece = row.push(token)
            if piece or row.finish:
                ticket.emit(piece, None)
            if row.finish:
                return
        if choice.get("finish_reason"):  # of an end token that it keeps to itself
            if not row.tokens:
                problem = f"got an answer without its tokens from vLLM at {self.url}"
                raise BackendError(502, f"{problem}, expected return_token_ids: update vLLM")
            row.finish = choice["finish_reason"]
            ticket.emit(row.text.flush(), None)

    def _refusal(self, status: int, content: bytes) -> BackendError:
        """Say what vLLM said, and what to do."""
        try:
            record = json.loads(content)
            words = record.get("error", record)["message"]
        except (ValueError, KeyError, TypeError, AttributeError):
            words = content[:200].decode("utf-8", "replace")
        remedy = ""
        if status == 404:
            remedy = (
                "; expected the adapters of this server's store: start vLLM with PRAG_VLLM_STORE "
                "and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, on the same store"
            )
        passed = status if status in PASSED_ON else 502
        return BackendError(passed, f"got status {status} from vLLM at {self.url}: {words}{remedy}")

    @staticmethod
    def _require_time(ticket: Ticket) -> None:
        if ticket.deadline < time.monotonic():
            raise TimeoutError(LATE)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the whole lines of a stream of events."""
    # httpx's own lines end at U+2028 and others too, which JSON may hold as they are.
    held = b""
    for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        yield from lines
