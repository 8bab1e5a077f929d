"""
Goal:   what a client pours in while its server does not read waits in the
        client, not in weir.
Method: a server kept busy, and behind its query one message of many
        megabytes, in pieces, while weir's memory is watched.
"""
import threading

import pgwire
from pgwire import query, sync

CONFIG = {"postgres main": {"pool_size": 2}}
BIG = 64 << 20


def test_one_great_message_waits_outside(proxy, san):
    before = proxy.memory()
    # Of an organization's user it would be refused: its end decides what it may do.
    wire = proxy.wire("plain_app")
    wire.sock.settimeout(60)
    head = b"P" + pgwire.I32.pack(4 + BIG) + b"\0SELECT '"
    tail = b"'\0" + pgwire.I16.pack(0)

    def pour():
        wire.send(query("SELECT pg_sleep(2)"), head)
        piece, left = b"x" * (1 << 20), BIG - len(head) + 5 - len(tail)
        while left > 0:
            wire.sock.sendall(piece[:left])
            left -= len(piece)
        wire.send(tail, sync())

    pouring = threading.Thread(target=pour)
    pouring.start()
    wire.until("Z")
    busy = proxy.memory("VmHWM") - before
    assert pgwire.kinds(wire.until("Z")) == "1Z"
    pouring.join()
    assert san or busy < 16 << 20
    assert san or proxy.memory("VmHWM") - before < 16 << 20
    assert wire.value("SELECT 1") == "1"
