"""An ingest that takes its time: each answer comes so many seconds after the whole body was read.

python bench/_slow_sink.py 0.005

It prints its port.
"""

import asyncio
import sys
from asyncio import IncompleteReadError, StreamReader, StreamWriter

_ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"id":"-"}'
)


async def serve(seconds: float) -> None:
    async def answer_all(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_find_length(head))
                await asyncio.sleep(seconds)
                writer.write(_ANSWER)
        except (IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer_all, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _find_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0])


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
