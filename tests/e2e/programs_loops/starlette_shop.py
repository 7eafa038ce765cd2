"""A Starlette application whose every order fails, reported by its handler of exceptions."""

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from tests.e2e.programs_loops.shop import OrderFailed, describe, make_client, report, stand_still

client = make_client()


async def look_in(request):
    stand_still()
    return Response(headers=describe(client))


async def take_order(request):
    raise OrderFailed(request.url.path)


async def apologize(request, error):
    return Response(status_code=500, headers=describe(client, report(client, error)))


application = Starlette(
    routes=[Route("/", look_in), Route("/order/{number}", take_order, methods=["POST"])],
    exception_handlers={OrderFailed: apologize},
)
