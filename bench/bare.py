"""
The yardstick: a C{twisted.web} handler that does nothing, on a free port.
"""

import sys

from twisted.internet import endpoints, reactor
from twisted.web.resource import Resource
from twisted.web.server import Site


class Empty(Resource):
    """
    Answers everything with 200 and no body.
    """

    isLeaf = True

    def render(self, request):
        """
        Answer any method.
        """
        return b""


def listening(port):
    """
    Tell the parent process where.
    """
    print(port.getHost().port, flush=True)


endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Site(Empty())).addCallbacks(
    listening, lambda failure: sys.exit(str(failure))
)
reactor.run()
