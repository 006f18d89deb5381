"""
Pushes: HTTP/2 to Apple's push service.

From the outside in:

  - L{service<nanomdm.push.service>} takes enrollment ids and answers for each.  A
    L{call<nanomdm.push.call>} gathers the results,
    L{topics<nanomdm.push.topics>} finds the certificate and the provider of a topic,
    and L{aftermath<nanomdm.push.aftermath>} tells the storage of bad tokens.
  - L{delivery<nanomdm.push.delivery>} is one push, with its retries and its deadline.
  - L{provider<nanomdm.push.provider>} has the connections of one topic:
    L{room<nanomdm.push.room>} says how many pushes may be under way,
    L{line<nanomdm.push.line>} has those that wait for a stream,
    L{credentials<nanomdm.push.credentials>} is the certificate and whether it is worth
    trying, L{backoff<nanomdm.push.backoff>} when to connect again.
  - L{connection<nanomdm.push.connection>} is one connection, with its deadlines on one
    timer (L{alarm<nanomdm.push.alarm>}); L{streams<nanomdm.push.streams>} has what is
    under way on it, each with its L{response<nanomdm.push.response>};
    L{http2<nanomdm.push.http2>} makes bytes of requests and events of bytes, and
    L{loss<nanomdm.push.loss>} says in plain words why a connection ended.
  - L{endpoint<nanomdm.push.endpoint>} opens it, to where L{address<nanomdm.push.address>}
    says, through a L{proxy<nanomdm.push.proxy>} if there is one.

All of these speak of what L{notification<nanomdm.push.notification>} defines.

On its own, in L{rounds<nanomdm.rounds>}, the server pushes again to who did not
connect (L{repush<nanomdm.push.repush>}), and looks which certificates expire
(L{expiry<nanomdm.push.expiry>}).
"""
