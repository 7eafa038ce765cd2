"""A Starlette application that fails; a handler of exceptions reports it, and the loop delivers.

    SENTRY_DSN=https://key@host/1 RAVEN_SPOOL_PATH=./spool python -m examples.starlette_app

The program serves itself with uvicorn, asks itself for ten orders, and ends. What ends the
transport well is the application's lifespan; under `uvicorn examples.starlette_app:app` too.
"""

import asyncio
import socket
from contextlib import asynccontextmanager

import aiohttp
import raven
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from raven_spool.transport.asyncio import AsyncioHTTPTransport

captured, delivered = [], []
client = raven.Client(transport=AsyncioHTTPTransport(on_delivered=delivered.append))


async def take_order(request):
    raise ValueError(f"order {request.path_params['number']}: not found")


# With `def` Starlette would call it in a thread, where an event can't start the loop's tasks.
async def report(request, error):
    event_id = client.captureException((type(error), error, error.__traceback__))
    client.context.clear()  # the end of a request, as raven's integrations do it
    return PlainTextResponse(f"{error}; reported as {event_id}", status_code=500)


@asynccontextmanager
async def lifespan(app):
    yield
    await client.remote.get_transport().aclose()  # delivers, before the loop ends


app = Starlette(
    routes=[Route("/order/{number}", take_order)],
    exception_handlers={Exception: report},
    lifespan=lifespan,
)


async def ask(port):
    limit = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=limit) as session:
        for number in range(1, 11):
            async with session.get(f"/order/{number}") as answer:
                text = await answer.text()
            print(text)
            captured.append(text.split()[-1])


async def serve(listener):
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await ask(listener.getsockname()[1])
    server.should_exit = True
    await serving
    print(f"captured {len(captured)}, delivered {len(delivered)}")


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(serve(listener))


if __name__ == "__main__":
    main()
