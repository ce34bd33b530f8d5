"""How are a server and clients of different sites connected, without anything but Python?

The server listens, and each client connects to it, so that sites need no open port. What travels is
the bytes of messages.py, over TLS with certificates of both sides; without certificates only on one
host.

Read in this order; each file imports from those above it only:

1. tls.py: who may connect, and to whom?
2. connections.py: how do bytes travel over a connection?
3. over_sites.py: how does a server reach clients that connect to it?
4. serving.py: how does a site be the server?
5. joining.py: how does a site be a client?
"""
