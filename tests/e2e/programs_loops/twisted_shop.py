"""An application for twistd whose every order fails, reported by an errback.

SHOP_LISTENER is the descriptor to listen at: twistd gives applications no arguments.
"""

import os
import socket

from twisted.application import service
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.web import server
from twisted.web.resource import Resource

from tests.e2e.programs_loops.shop import OrderFailed, describe, make_client, report, stand_still


class Shop(Resource):
    isLeaf = True

    def render_GET(self, request):
        stand_still()
        return say(request, 200, describe(client))

    def render_POST(self, request):
        order = deferLater(reactor, 0, take_order, request.path.decode())
        order.addErrback(self.apologize, request)
        return server.NOT_DONE_YET

    def apologize(self, failure, request):
        request.write(say(request, 500, describe(client, report(client, failure.value))))
        request.finish()


class Listening(service.Service):
    def startService(self):
        super().startService()
        with socket.socket(fileno=int(os.environ["SHOP_LISTENER"])) as listener:
            listener.setblocking(False)
            reactor.adoptStreamPort(listener.fileno(), socket.AF_INET, server.Site(Shop()))


def take_order(path):
    raise OrderFailed(path)


def say(request, status, headers):
    request.setResponseCode(status)
    for name, value in headers.items():
        request.setHeader(name, value)
    return b""


client = make_client()
application = service.Application("shop")
Listening().setServiceParent(application)
