"""
Goal:   a service user names its organization when it logs in, by every way
        there is, and never one it may not use.
Method: the ways one by one and in pairs, over TLS where the name of the host
        is one of them; what is refused is refused before a server is touched,
        counted and logged.
"""
import pytest

import pgwire
from servers import DATABASE, ORGANIZATIONS, wait_for

pytestmark = pytest.mark.weir_only

GAMMA = "cccccccc-0000-4000-8000-000000000003"
IDS = dict(ORGANIZATIONS, gamma=GAMMA)
CONFIG = {
    "tls": {"sni_domain": "weir.test"},
    "organization gamma": {"id": GAMMA, "var.app.color": "green"},
    "variables": {"app.current_organization_id": "%{organization.id}",
                  "app.slug": "%{organization.slug}",
                  "app.who": "%{user}/%{organization.slug}",
                  "app.color": "grey"},
    "user svc": {"auth": "trust", "organizations": "*"},
    "user two": {"auth": "trust", "organizations": "acme, gamma"},
    "user fixed": {"auth": "trust", "organization": "acme"},
}
OWN = "SELECT current_setting('app.current_organization_id')"


def login(proxy, user, host=None, **options):
    wire = proxy.wire(login=False)
    if host:
        wire.start_tls(proxy.tls_context(check_hostname=False), host)
    wire.login(user, DATABASE, **options)
    return wire


def option(name, value):
    return {"options": "-c %s=%s" % (name, value)}


TENANT = "app.current_organization_id"
ACME, BETA = ORGANIZATIONS["acme"], ORGANIZATIONS["beta"]
# Who | over TLS to this host | what it says at its startup | whose it is.
AGREE = {
    "its user's dot": ("svc.beta", None, {}, BETA),
    "the startup option": ("svc", None, option("weir.organization", "beta"), BETA),
    "the parameter": ("svc", None, {"weir.organization": "beta"}, BETA),
    "the variable with its id": ("svc", None, option(TENANT, BETA), BETA),
    "the variable with its slug": ("svc", None, option("app.slug", "beta"), BETA),
    "the variable in capitals": ("svc", None, option(TENANT.upper(), BETA), BETA),
    "the host": ("svc", "beta.weir.test", {}, BETA),
    "the host in capitals": ("svc.beta", "BETA.Weir.Test", {}, BETA),
    "all at once": ("svc.beta", "beta.weir.test", {
        "weir.organization": "beta", TENANT: BETA, "app.slug": "beta"}, BETA),
    "nothing": ("svc", None, {}, ""),
    "another host": ("svc", "localhost", {}, ""),
    "the domain itself": ("svc", "weir.test", {}, ""),
    "one of its list": ("two.gamma", None, {}, GAMMA),
    "a locked user's own variable": ("fixed", None, option(TENANT, ACME), ACME),
    "a locked user's own host": ("fixed", "acme.weir.test", {}, ACME),
    "a locked user's own option": (
        "fixed", None, option("weir.organization", "acme"), ACME),
}
REFUSED = {
    "an unknown one": ("svc.nope", None, {}),
    "an unknown id": ("svc", None, option(TENANT, "nope")),
    "an id where the slug belongs": ("svc", None, option("app.slug", BETA)),
    "a slug where the id belongs": ("svc", None, option(TENANT, "beta")),
    "an empty id": ("svc", None, {TENANT: ""}),
    "an unknown host": ("svc", "nope.weir.test", {}),
    "a host of two parts": ("svc", "a.beta.weir.test", {}),
    "user and option": ("svc.beta", None, option("weir.organization", "acme")),
    "user and variable": ("svc.beta", None, option(TENANT, ACME)),
    "user and host": ("svc.beta", "acme.weir.test", {}),
    "two variables": ("svc", None, {TENANT: BETA, "app.slug": "acme"}),
    "variable and host": ("svc", "acme.weir.test", option(TENANT, BETA)),
    "one not of its list": ("two.beta", None, {}),
    "an id not of its list": ("two", None, option(TENANT, BETA)),
    "a host not of its list": ("two", "beta.weir.test", {}),
    "a locked user elsewhere": ("fixed.beta", None, {}),
    "a locked user's other variable": ("fixed", None, option(TENANT, BETA)),
    "a locked user's empty variable": ("fixed", None, {TENANT: ""}),
    "a locked user's other host": ("fixed", "beta.weir.test", {}),
    "somebody who has none": ("plain_app.acme", None, {}),
    "somebody who has none, by host": ("open_app", "acme.weir.test", {}),
    "somebody who has none, by variable": ("open_app", None, option(TENANT, ACME)),
}


@pytest.mark.parametrize("name", AGREE)
def test_an_organization_is_named_by(proxy, name):
    user, host, options, expected = AGREE[name]
    wire = login(proxy, user, host, **options)
    assert wire.value(OWN) == expected
    slug = {v: k for k, v in IDS.items()}.get(expected, "")
    assert wire.value("SELECT current_setting('app.slug')") == slug
    user = user.split(".")[0]
    assert wire.value("SELECT current_setting('app.who')") == (
        "%s/%s" % (user, slug) if slug else "")


@pytest.mark.parametrize("name", REFUSED)
def test_a_log_in_is_refused_that_names(proxy, pg, name):
    user, host, options = REFUSED[name]
    counter = 'organization_refused_total{at="login"}'
    before, lines = proxy.metric(counter), len(proxy.events("refuse"))
    if user.startswith("plain"):        # it must prove who it is first
        wire = proxy.wire(login=False)
        with pytest.raises(pgwire.Failed) as e:
            wire.login(user, DATABASE, "plain-secret", **options)
    else:
        with pytest.raises(pgwire.Failed) as e:
            login(proxy, user, host, **options)
    assert e.value.code == "28000"
    wait_for(lambda: proxy.metric(counter) == before + 1, 5, "not counted")
    wait_for(lambda: len(proxy.events("refuse")) == lines + 1, 5, "not logged")
