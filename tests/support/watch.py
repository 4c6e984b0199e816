"""A reader of one run's stream over HTTP that comes back when its connection breaks."""

import httpx

from runs_domain.frames import Frame, decode
from tests.support.waiting import until

FINISH_SECONDS = 50.0


class Watch:
    """What a client has received so far, over all its connections."""

    def __init__(self, http: httpx.AsyncClient, path: str, start_index: int) -> None:
        self.chunks: list[bytes] = []
        self.connections = 0
        self.done = False
        """[DONE] was said, or 204: there is nothing more."""
        self.failure: BaseException | None = None
        self._http = http
        self._path = path
        self._first = start_index

    @property
    def frames(self) -> list[Frame]:
        return [decode(chunk) for chunk in self.chunks]

    @property
    def text(self) -> str:
        return "".join(getattr(frame, "delta", "") for frame in self.frames)

    async def follow(self) -> None:
        try:
            while not self.done:
                await until(self._follow_once, timeout_seconds=FINISH_SECONDS)
        except BaseException as error:
            self.failure = error
            raise

    async def has(self, count: int) -> None:
        """Wait for so many chunks."""
        await until(lambda: self._checked() and len(self.chunks) >= count, timeout_seconds=30)

    async def says(self, text: str) -> None:
        """Wait until this stands in what was streamed as text."""
        await until(lambda: self._checked() and text in self.text, timeout_seconds=30)

    async def finished(self) -> list[bytes]:
        """Wait for [DONE]; all chunks."""
        await until(lambda: self._checked() and self.done, timeout_seconds=FINISH_SECONDS)
        return self.chunks

    def _checked(self) -> bool:
        if self.failure is not None:
            raise AssertionError(f"the stream broke: {self.failure!r}") from self.failure
        return True

    async def _follow_once(self) -> bool:
        """One connection; False if there is no server to connect to, or it cannot tell now."""
        query = {"startIndex": self._first + len(self.chunks)}
        try:
            async with self._http.stream("GET", self._path, params=query) as response:
                if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                    return False
                self.connections += 1
                self.done = response.status_code == 204
                assert response.status_code in {200, 204}, response.status_code
                async for line in response.aiter_lines():
                    self._take(line)
        except httpx.ConnectError:
            return False
        except httpx.TransportError:
            pass  # the connection broke; what came whole was taken
        return True

    def _take(self, line: str) -> None:
        assert not (self.done and line), f"{line} after [DONE]"
        kind, _, rest = line.partition(": ")
        match kind:
            case "id":
                assert int(rest) == self._first + len(self.chunks), "an index was left out or twice"
            case "data" if rest == "[DONE]":
                self.done = True
            case "data":
                self.chunks.append(rest.encode())
            case "":
                pass  # the end of a frame, or a comment
            case _:
                raise AssertionError(f"not a line of the stream: {line}")
