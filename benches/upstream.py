"""What nginx cannot be by itself: an upstream of event streams and of WebSockets, and a token endpoint.

    upstream.py STREAMS_PORT TOKENS_PORT CERT KEY
"""

import asyncio
import base64
import hashlib
import json
import ssl
import sys

EVENT = b"data: " + b"x" * 100 + b"\n\n"
EVERY = 0.1


async def stream(reader, writer):
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        if "upgrade" in fields:
            key = next(line.split(": ", 1)[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
            accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                         b"sec-websocket-accept: " + accept + b"\r\n\r\n")
            await echo(reader, writer)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            while not writer.is_closing():
                writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
                await writer.drain()
                await asyncio.sleep(EVERY)
    except (OSError, asyncio.IncompleteReadError, StopIteration):
        pass
    finally:
        writer.close()


async def echo(reader, writer):
    """Small masked text frames come back unmasked."""
    while True:
        first, second = await reader.readexactly(2)
        length = second & 0x7F
        mask = await reader.readexactly(4)
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(await reader.readexactly(length)))
        writer.write(bytes([first, length]) + payload)
        await writer.drain()


async def token(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length")), 0)
            await reader.readexactly(length)
            # As long as Cognito's are.
            body = json.dumps({"access_token": "e" * 900, "token_type": "Bearer", "expires_in": 36_000}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                         % (len(body), body))
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


async def main():
    streams, tokens, cert, key = sys.argv[1:]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    await asyncio.start_server(token, "127.0.0.1", int(tokens))
    server = await asyncio.start_server(stream, "127.0.0.1", int(streams), ssl=tls, backlog=2048)
    await server.serve_forever()


asyncio.run(main())
