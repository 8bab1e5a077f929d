"""A signed token as the password: auth = jwt.

Goal: who holds a token that we signed is the user it names, with the
organization and the claims it names; no other token and nobody else gets in.
Method: tokens made by hand (HMAC in Python, RS256 and ES256 by openssl), given
as a password by libpq over TLS.
"""
import base64
import hashlib
import hmac
import json
import os
import subprocess
import time

import psycopg2
import pytest

import pgwire
from servers import DATABASE, ORGANIZATIONS, wait_for

pytestmark = pytest.mark.weir_only

SECRET = "the secret that signs our tokens"
OLD_SECRET = "the secret that signed them once"


def b64(data):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signed(text, secret):
    return hmac.new(secret.encode(), text, hashlib.sha256).digest()


def token(secret=SECRET, alg="HS256", exp=60, **claims):
    claims = dict({"sub": "token_app", "exp": time.time() + exp}, **claims)
    text = b64({"alg": alg}) + b"." + b64({k: v for k, v in claims.items()
                                           if v is not None})
    return (text + b"." + b64(signed(text, secret))).decode()


def key_pair(folder, name, *kind):
    path = os.path.join(folder, name)
    subprocess.run(["openssl", "genpkey", *kind, "-out", path + ".key"],
                   check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", path + ".key", "-pubout",
                    "-out", path + ".pub"], check=True)
    return path


def token_by(path, alg):
    text = b64({"alg": alg}) + b"." + b64({"sub": "token_app",
                                           "exp": int(time.time()) + 60})
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", path + ".key"],
                               input=text, check=True, capture_output=True).stdout
    if alg == "ES256":      # from DER to r and s
        numbers, at = [], 2
        for _ in range(2):
            n = signature[at + 1]
            numbers.append(signature[at + 2:at + 2 + n].lstrip(b"\0").rjust(32, b"\0"))
            at += 2 + n
        signature = b"".join(numbers)
    return (text + b"." + b64(signature)).decode()


CHANGES = {
    "auth": {"jwt_secret": SECRET, "jwt_previous_secret": OLD_SECRET,
             "jwt_organization_claim": "org"},
    "user token_app": {"auth": "jwt"},
    "user other_app": {"auth": "jwt"},
    "user fixed_app": {"auth": "jwt", "organization": "acme"},
    "variables": {"app.current_organization_id": "%{organization.id}",
                  "app.person": "%{jwt.name}", "app.team": "%{jwt.team}",
                  "app.admin": "<%{jwt.admin}>"},
}
CONFIG = CHANGES


def connect(proxy, password, user="token_app", sslmode="require", **more):
    return psycopg2.connect(host="127.0.0.1", port=proxy.pg_port, user=user,
                            password=password, dbname=DATABASE, sslmode=sslmode, **more)


def one(proxy, sql, password, **more):
    c = connect(proxy, password, **more)
    try:
        with c.cursor() as cur:
            cur.execute(sql)
            return cur.fetchone()
    finally:
        c.close()


def refused(proxy, password, text="password authentication failed", **more):
    with pytest.raises(psycopg2.OperationalError) as e:
        connect(proxy, password, **more).close()
    assert text in str(e.value)


def test_a_token_lets_in_the_user_it_names(proxy):
    assert one(proxy, "SELECT 1", token()) == (1,)
    assert one(proxy, "SELECT 1", token(OLD_SECRET)) == (1,)
    assert one(proxy, "SELECT 1", token(sub="other_app"), user="other_app") == (1,)
    refused(proxy, token(), user="other_app")
    refused(proxy, token(sub="other_app"))
    refused(proxy, token(sub=None))
    refused(proxy, token(sub=["token_app"]))
    refused(proxy, token(), user="nobody_app")


def test_a_token_opens_no_user_with_a_password(proxy):
    refused(proxy, token(sub="acme_app"), user="acme_app")


@pytest.mark.parametrize("change", [
    dict(exp=-60), dict(exp=None), dict(nbf=4e9), dict(iat=4e9), dict(aud="weir"),
    dict(secret="a secret that nobody ever trusted"), dict(alg="none"),
    dict(alg="HS512"), dict(alg="RS256"), dict(secret="")])
def test_what_does_not_hold_does_not_let_in(proxy, change):
    if "exp" in change and change["exp"] is None:
        wrong = token()
        text = b64({"alg": "HS256"}) + b"." + b64({"sub": "token_app"})
        wrong = (text + b"." + b64(signed(text, SECRET))).decode()
    else:
        wrong = token(**change)
    refused(proxy, wrong)


def test_why_a_token_was_refused_is_logged_and_not_told(weir):
    proxy = weir(CHANGES)
    refused(proxy, token(exp=-60))
    event = wait_for(lambda: proxy.events("auth"), 5, "nothing is logged")[0]
    assert event["token"] == "it has expired" and event["user"] == "token_app"
    with pytest.raises(psycopg2.OperationalError) as e:
        connect(proxy, token(exp=-60))
    assert "expired" not in str(e.value)


@pytest.mark.parametrize("password", ["x", "a.b.c", "..", "x" * 16384, "." * 16384])
def test_what_is_no_token_is_refused(proxy, password):
    refused(proxy, password)


def test_a_token_as_long_as_may_be_is_read(proxy):
    long = token(filler="x" * 11000)
    assert 14000 < len(long) < 16384
    assert one(proxy, "SELECT 1", long) == (1,)
    wire = proxy.wire(login=False, tls=True)
    wire.send(pgwire.startup("token_app", DATABASE))
    wire.message()
    wire.send(pgwire.message("p", b"x" * 16385 + b"\0"))
    assert pgwire.errors(wire.until_closed())[0]["C"] == "08P01"


def test_a_token_is_asked_for_over_tls_only(proxy):
    refused(proxy, token(), "SSL required", sslmode="disable")


def test_claims_are_variables_and_those_not_there_are_empty(proxy):
    sql = ("SELECT current_setting('app.person'), current_setting('app.team'), "
           "current_setting('app.admin')")
    assert one(proxy, sql, token(name="Ann O'Hara", team=7, admin=True)) == (
        "Ann O'Hara", "7", "<true>")
    assert one(proxy, sql, token(name=["Ann"])) == ("", "", "")
    # Who has no token has no claims.
    assert one(proxy, sql, "acme-secret", user="acme_app") == ("", "", "")


def test_two_tokens_of_one_user_are_kept_apart(weir):
    proxy = weir(dict(CHANGES, **{"postgres main": {"pool_size": 1}}))
    people = [connect(proxy, token(name=name)) for name in ("ann", "bob")]
    for c in people:
        c.autocommit = True
    for _ in range(5):
        for c, name in zip(people, ("ann", "bob")):
            with c.cursor() as cur:
                cur.execute("SELECT current_setting('app.person')")
                assert cur.fetchone() == (name,)
    for c in people:
        c.close()


def test_a_token_names_the_organization(proxy):
    sql = "SELECT own_organization()::text"
    assert one(proxy, sql, token(org="acme")) == (ORGANIZATIONS["acme"],)
    assert one(proxy, sql, token(org="beta")) == (ORGANIZATIONS["beta"],)
    assert one(proxy, sql, token()) == (None,)
    assert one(proxy, sql, token(org="acme"), user="token_app.acme") == (
        ORGANIZATIONS["acme"],)
    assert one(proxy, sql, token(org="acme"), options="-c weir.organization=acme") == (
        ORGANIZATIONS["acme"],)


def test_all_that_name_the_organization_must_agree(proxy):
    no = "no such organization"
    refused(proxy, token(org="acme"), no, user="token_app.beta")
    refused(proxy, token(org="acme"), no, options="-c weir.organization=beta")
    refused(proxy, token(org="nowhere"), no)
    refused(proxy, token(org=""), no)
    refused(proxy, token(org=["acme"]), no)
    refused(proxy, token(), no, user="token_app.acme")
    for org, good in (("acme", True), ("beta", False), (None, True)):
        mine = token(sub="fixed_app", org=org)
        if good:
            assert one(proxy, "SELECT own_organization()::text", mine,
                       user="fixed_app") == (ORGANIZATIONS["acme"],)
        else:
            refused(proxy, mine, no, user="fixed_app")
            wire = proxy.wire(login=False, tls=True)
            with pytest.raises(pgwire.Failed) as e:
                wire.login("fixed_app", DATABASE, mine)
            assert e.value.code == "28000"


@pytest.mark.parametrize("alg, kind", [
    ("RS256", ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ("ES256", ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])])
def test_a_public_key_is_enough_to_judge(weir, tmp_path, alg, kind):
    ours = key_pair(str(tmp_path), "ours", *kind)
    theirs = key_pair(str(tmp_path), "theirs", *kind)
    proxy = weir(dict(CHANGES, auth={"jwt_public_key_file": ours + ".pub",
                                     "jwt_secret": None, "jwt_previous_secret": None}))
    assert one(proxy, "SELECT 1", token_by(ours, alg)) == (1,)
    refused(proxy, token_by(theirs, alg))
    # The public key, which everybody knows, as a secret.
    with open(ours + ".pub") as f:
        refused(proxy, token(f.read()))
    refused(proxy, token(SECRET))


def test_another_claim_may_name_the_user_and_an_audience_is_kept(weir):
    proxy = weir(dict(CHANGES, auth={"jwt_secret": SECRET, "jwt_user_claim": "role",
                                     "jwt_audience": "weir"}))
    sql = "SELECT current_setting('app.person')"
    good = dict(role="token_app", sub="person 17", name="Ann", aud=["x", "weir"])
    assert one(proxy, sql, token(**good)) == ("Ann",)
    refused(proxy, token(**dict(good, aud="x")))
    refused(proxy, token(**dict(good, aud=None)))
    refused(proxy, token(**dict(good, role=None, sub="token_app")))


def test_who_leaves_while_its_token_is_judged_harms_nobody(proxy):
    for _ in range(20):
        wire = proxy.wire(login=False, tls=True)
        wire.send(pgwire.startup("token_app", DATABASE))
        wire.message()
        wire.send(pgwire.message("p", token().encode() + b"\0"))
        wire.close()
    assert one(proxy, "SELECT 1", token()) == (1,)


def test_who_has_its_organization_from_a_token_cannot_leave_it(proxy):
    mine = token(org="acme")
    for sql in ("SET ROLE clear_role", "SET app.current_organization_id = 'x'",
                "SET SESSION AUTHORIZATION clear_role"):
        with pytest.raises(psycopg2.Error) as e:
            one(proxy, sql, mine)
        assert e.value.pgcode == "42501"
    for name in ("role", "session_authorization"):
        refused(proxy, mine, "is set by the proxy", options="-c %s=x" % name)
    refused(proxy, mine, "no such organization",
            options="-c app.current_organization_id=x")
