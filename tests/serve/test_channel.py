"""Messages between server and workers: whole, in order, bounded, and nothing of them is trusted."""

import asyncio
import json
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.errors import UserError
from zhiyin.serve import channel
from zhiyin.serve.channel import AsyncChannel, Broken, Channel, pack

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.dictionaries(st.text(), JSON, max_size=4), st.binary(max_size=300)), max_size=5))
def test_messages_arrive_as_they_were_sent(messages: list[tuple[dict[str, object], bytes]]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for header, body in messages:
            Channel(ours).send(header, body)
        ours.shutdown(socket.SHUT_WR)
        reader = Channel(theirs)
        assert [reader.receive() for _ in messages] == messages and reader.receive() is None


def test_several_threads_may_send_and_a_slow_server_is_waited_for() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        worker = Channel(theirs)
        body = bytes(300_000)

        def send(i: int) -> None:
            for n in range(5):
                worker.send({"i": i, "n": n}, body)

        senders = [threading.Thread(target=send, args=(i,)) for i in range(4)]
        for sender in senders:
            sender.start()
        server = await AsyncChannel.over(ours)
        await asyncio.sleep(0.05)
        seen: list[tuple[int, int]] = []
        for _ in range(20):
            message = await server.receive()
            assert message is not None and message[1] == body
            seen.append((message[0]["i"], message[0]["n"]))
        for i in range(4):
            assert [n for one, n in seen if one == i] == list(range(5))
        server.send({"do": "x"}, b"abc")
        await server.drain()
        assert await asyncio.to_thread(worker.receive) == ({"do": "x"}, b"abc")
        theirs.close()
        assert await server.receive() is None
        server.close()
        server.send({"do": "nothing"})
        await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF),
        struct.pack(">II", 3, 0) + b"{]x",
        struct.pack(">II", 2, 0) + b"[]",
        struct.pack(">II", 2, 0) + b"\xff\xfe",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        with pytest.raises(Broken):
            Channel(theirs).receive()


def test_too_long_and_half_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="at most 100"):
        pack({"a": "b" * 200})
    with pytest.raises(ValueError, match="JSON"):
        pack({"a": float("nan")})
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(pack({"a": 1})[:-1])
        assert Channel(theirs).receive() is None
    assert json.loads(pack({"text": "你好\ud800"})[8:].decode("utf-8", "surrogatepass")) == {"text": "你好\ud800"}
