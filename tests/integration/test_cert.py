"""Certificates of clients: auth = cert, client_mode = verify-ca and verify-full.

Goal: a certificate that our authority signed is its name's user's and nobody
else's; no other certificate counts.
Method: certificates made by openssl, shown by libpq; and one with a NUL in its
name, which openssl would not make, put together by hand.
"""
import os
import subprocess

import psycopg2
import pytest

import servers
from servers import DATABASE, ORGANIZATIONS

pytestmark = pytest.mark.weir_only

CERT_USERS = {
    "user card_app": {"auth": "cert"},
    "user other_card": {"auth": "cert", "organization": "beta"},
    "user named.like.this": {"auth": "cert"},
}


@pytest.fixture(scope="module")
def cards(folder, authority):
    """cards(CN): certificate and key, as libpq's options."""
    def card(name, by=authority, subject=None):
        path = os.path.join(folder, "card-%d" % len(os.listdir(folder)))
        servers.openssl("req", "-new", "-subj", subject or "/CN=" + name,
                        *servers.NEW_KEY, "-keyout", path + ".key", "-out", path + ".csr")
        servers.openssl("x509", "-req", "-in", path + ".csr", "-CA", by.crt, "-CAkey",
                        by.key, "-CAcreateserial", "-days", "30", "-out", path + ".crt")
        os.chmod(path + ".key", 0o600)
        return {"sslcert": path + ".crt", "sslkey": path + ".key"}
    return card


def connect(proxy, user, card=None, password="", sslmode="require", **more):
    card = card or {"sslcert": "/nowhere", "sslkey": "/nowhere"}
    c = psycopg2.connect(host="127.0.0.1", port=proxy.pg_port, user=user, dbname=DATABASE,
                         password=password, sslmode=sslmode, **card, **more)
    with c.cursor() as cur:
        cur.execute("SELECT own_organization()::text")
        (answer,) = cur.fetchone()
    c.close()
    return answer


def refused(text, *args, **more):
    with pytest.raises(psycopg2.OperationalError) as e:
        connect(*args, **more)
    assert text in str(e.value)


NONE = "connection requires a valid client certificate"
WRONG = "certificate authentication failed"


@pytest.mark.parametrize("mode", ["allow", "require", "verify-ca", "verify-full"])
def test_a_certificate_lets_in_the_user_it_names(weir, cards, mode):
    proxy = weir(dict(CERT_USERS, tls={"client_mode": mode}))
    mine, other = cards("card_app"), cards("other_card")
    assert connect(proxy, "card_app", mine) is None
    assert connect(proxy, "other_card", other) == ORGANIZATIONS["beta"]
    assert connect(proxy, "other_card.beta", other) == ORGANIZATIONS["beta"]
    refused("no such organization", proxy, "other_card.acme", other)
    refused(WRONG, proxy, "other_card", mine)
    refused(WRONG, proxy, "nobody", mine) if mode == "verify-full" else None
    refused("SSL required" if mode != "allow" else NONE, proxy, "card_app", mine,
            sslmode="disable")
    if mode in ("allow", "require"):
        refused(NONE, proxy, "card_app")
    else:
        refused("certificate", proxy, "card_app")   # no handshake without


def test_a_name_must_be_the_user_byte_by_byte(weir, cards):
    proxy = weir(CERT_USERS)
    for name in ("Card_app", "card_app ", " card_app", "card_ap", "card_appp",
                 "card_app.acme", "*"):
        refused(WRONG, proxy, "card_app", cards(name))
    assert connect(proxy, "named.like.this", cards("named.like.this")) is None
    refused(WRONG, proxy, "named.like.this", cards("named.like"))


def test_a_certificate_with_no_name_or_two_is_nobodys(weir, cards):
    proxy = weir(CERT_USERS)
    refused(NONE, proxy, "card_app", cards("", subject="/O=card_app"))
    refused(NONE, proxy, "card_app", cards("", subject="/CN=card_app/CN=other_card"))


def test_nothing_hides_behind_a_nul(weir, authority, cards, folder):
    """As `card_app\\0.evil.example`, which a C string would cut."""
    proxy = weir(CERT_USERS)
    good = cards("card_app#.evil.example")
    path = os.path.join(folder, "nul")
    servers.openssl("x509", "-req", "-in", good["sslcert"][:-4] + ".csr", "-CA",
                    authority.crt, "-CAkey", authority.key, "-CAcreateserial", "-days", "30",
                    "-outform", "DER", "-out", path + ".der")
    with open(path + ".der", "rb") as f:
        cert = f.read()
    assert cert.count(b"card_app#.evil") == 1
    resign(cert.replace(b"card_app#.evil", b"card_app\0.evil"), authority, path)
    refused(NONE, proxy, "card_app", {"sslcert": path + ".crt", "sslkey": good["sslkey"]})
    refused(WRONG, proxy, "card_app", good)


def length(der, at):
    """Where the content of a DER element begins, and where it ends."""
    n = der[at + 1]
    if n < 0x80:
        return at + 2, at + 2 + n
    size = n & 0x7f
    return at + 2 + size, at + 2 + size + int.from_bytes(der[at + 2:at + 2 + size], "big")


def element(tag, content):
    n = len(content)
    if n < 0x80:
        return bytes([tag, n]) + content
    size = n.to_bytes((n.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def resign(cert, authority, path):
    """The same certificate, changed, with a signature that fits (ECDSA, SHA-256)."""
    start, _ = length(cert, 0)
    _, end = length(cert, start)
    body = cert[start:end]
    _, algorithm_end = length(cert, end)
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", authority.key],
                               input=body, check=True, capture_output=True).stdout
    with open(path + ".der", "wb") as f:
        f.write(element(0x30, body + cert[end:algorithm_end] +
                        element(0x03, b"\0" + signature)))
    servers.openssl("x509", "-inform", "DER", "-in", path + ".der", "-out", path + ".crt")


def test_another_authority_counts_for_nothing(weir, cards, folder):
    proxy = weir(CERT_USERS)
    stranger = servers.Authority(folder, "stranger")
    with pytest.raises(psycopg2.OperationalError):
        connect(proxy, "card_app", cards("card_app", by=stranger))
    with pytest.raises(psycopg2.OperationalError):
        connect(proxy, "acme_app", cards("acme_app", by=stranger), "acme-secret")


def test_an_expired_certificate_counts_for_nothing(weir, authority, cards, folder):
    proxy = weir(CERT_USERS)
    card = cards("card_app")
    servers.openssl("x509", "-req", "-in", card["sslcert"][:-4] + ".csr", "-CA", authority.crt,
                    "-CAkey", authority.key, "-CAcreateserial", "-days", "-1",
                    "-out", card["sslcert"])
    with pytest.raises(psycopg2.OperationalError):
        connect(proxy, "card_app", card)


def test_passwords_live_beside_certificates(weir, cards):
    proxy = weir(CERT_USERS)
    acme = ORGANIZATIONS["acme"]
    assert connect(proxy, "acme_app", None, "acme-secret") == acme
    assert connect(proxy, "acme_app", None, "acme-secret", sslmode="disable") == acme
    assert connect(proxy, "acme_app", cards("whoever"), "acme-secret") == acme
    refused("password authentication failed", proxy, "acme_app", cards("acme_app"), "wrong")


def test_verify_ca_wants_any_certificate_and_verify_full_the_users(weir, cards):
    mine, other = cards("acme_app"), cards("beta_app")
    proxy = weir({"tls": {"client_mode": "verify-ca"}})
    assert connect(proxy, "acme_app", other, "acme-secret") == ORGANIZATIONS["acme"]
    proxy = weir({"tls": {"client_mode": "verify-full"}})
    assert connect(proxy, "acme_app", mine, "acme-secret") == ORGANIZATIONS["acme"]
    assert connect(proxy, "acme_app.acme", mine, "acme-secret") == ORGANIZATIONS["acme"]
    refused("password authentication failed", proxy, "acme_app", mine, "wrong")
    refused(WRONG, proxy, "acme_app", other, "acme-secret")
    refused(WRONG, proxy, "open_app", mine)
    assert connect(proxy, "open_app", cards("open_app")) is None
