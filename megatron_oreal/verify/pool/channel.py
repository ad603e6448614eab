"""Length-prefixed JSON over a socket: what the pool and its workers speak. Nothing is unpickled."""

import json
import socket
import struct

HEADER = struct.Struct("!I")
MAX_MESSAGE = 1 << 20


def send(channel: socket.socket, message: dict) -> None:
    """One message: its length in four bytes, then JSON."""
    data = json.dumps(message).encode()
    channel.sendall(HEADER.pack(len(data)) + data)


def receive(channel: socket.socket) -> dict:
    """The next message; raises EOFError at the end of the stream."""
    (size,) = HEADER.unpack(_exactly(channel, HEADER.size))
    if size > MAX_MESSAGE:
        raise EOFError("a message beyond size")
    return json.loads(_exactly(channel, size))


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            raise EOFError("the other end is closed")
        data += part
    return bytes(data)
