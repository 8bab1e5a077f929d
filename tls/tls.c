#include "tls/tls.h"

#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <unistd.h>

#include "protocol/scram.h"

/* TLS 1.2's; those of 1.3 are all good. */
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL"

static_assert(TLS1_2_VERSION == 0x0303, "conf_keys.c says so");
static_assert(TLS1_3_VERSION == 0x0304, "conf_keys.c says so");

void
tls_cannot(const struct conf *c, struct conf_errors *e, unsigned line,
	   const char *key, const char *path, const char *expected)
{
	unsigned long code = ERR_peek_error();
	const char *why = code ? ERR_reason_error_string(code) : NULL;

	if (access(path, R_OK) == -1)
		why = strerror(errno);
	conf_errors_add(e, c->file, line, "%s = %s: %s, expected %s", key, path,
			why ? why : "cannot be used", expected);
	ERR_clear_error();
}

/* Asking for a pass phrase would stop a start or a reload for ever. */
static int
no_pass_phrase(char *buf, int size, int writing, void *arg)
{
	(void)buf;
	(void)size;
	(void)writing;
	(void)arg;
	return -1;
}

SSL_CTX *
tls_context(const SSL_METHOD *method)
{
	SSL_CTX *ctx = SSL_CTX_new(method);

	if (ctx == NULL || SSL_CTX_set_cipher_list(ctx, CIPHERS) != 1 ||
	    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	SSL_CTX_set_options(ctx,
			    SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS |
				  SSL_MODE_ENABLE_PARTIAL_WRITE |
				  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_default_passwd_cb(ctx, no_pass_phrase);
	return ctx;
}

static void
no_context(const struct conf *c, struct conf_errors *e)
{
	ERR_clear_error();
	conf_errors_add(e, c->file, 0,
			"no TLS context could be made, expected a working "
			"libssl");
}

/* ---- ALPN ------------------------------------------------------------- */

/* The reason goes to our log; the alert says the same to the client. */
static void
no_protocol(void)
{
	ERR_raise(ERR_LIB_SSL, SSL_R_NO_APPLICATION_PROTOCOL);
}

static int
choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n,
	    const unsigned char *in, unsigned in_n, void *arg)
{
	static const unsigned char ours[] = TLS_ALPN;
	unsigned char *chosen;

	(void)ssl;
	(void)arg;
	if (SSL_select_next_proto(&chosen, out_n, ours, sizeof(ours) - 1, in,
				  in_n) != OPENSSL_NPN_NEGOTIATED) {
		no_protocol();
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	}
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

/* Without the extension choose_alpn() would not be asked. */
static int
want_alpn(SSL *ssl, int *alert, void *arg)
{
	const unsigned char *p;
	size_t n;

	(void)arg;
	if (SSL_client_hello_get0_ext(
		ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &p,
		&n) == 1)
		return SSL_CLIENT_HELLO_SUCCESS;
	no_protocol();
	*alert = SSL_AD_NO_APPLICATION_PROTOCOL;
	return SSL_CLIENT_HELLO_ERROR;
}

static void
set_alpn(SSL_CTX *ctx, enum tls_door door)
{
	if (door != TLS_REDIS)
		SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, NULL);
	if (door == TLS_POSTGRES_DIRECT)
		SSL_CTX_set_client_hello_cb(ctx, want_alpn, NULL);
}

/* ---- channel binding -------------------------------------------------- */

/* The hash is the certificate signature's own, but SHA-256 for MD5 and SHA-1. */
static size_t
hash_certificate(const X509 *cert, uint8_t *out)
{
	uint8_t hash[EVP_MAX_MD_SIZE];
	int nid = NID_undef;
	const EVP_MD *md;
	unsigned n = 0;

	if (cert == NULL ||
	    X509_get_signature_info((X509 *)(uintptr_t)cert, &nid, NULL, NULL,
				    NULL) != 1 ||
	    nid == NID_undef)
		return 0;
	if (nid == NID_md5 || nid == NID_sha1)
		nid = NID_sha256;
	if ((md = EVP_get_digestbynid(nid)) == NULL ||
	    EVP_MD_get_size(md) > SCRAM_BINDING_MAX ||
	    X509_digest(cert, md, hash, &n) != 1)
		return 0;
	memcpy(out, hash, n);
	return n;
}

/* Whoever resumes shows no certificate: the ticket remembers which it was. */
static size_t
resumed_binding(const SSL *ssl, uint8_t *out)
{
	SSL_SESSION *session = SSL_get_session(ssl);
	void *data = NULL;
	size_t n = 0;

	if (session == NULL ||
	    SSL_SESSION_get0_ticket_appdata(session, &data, &n) != 1 ||
	    data == NULL || n > SCRAM_BINDING_MAX)
		return 0;
	memcpy(out, data, n);
	return n;
}

size_t
tls_binding(const SSL *ssl, uint8_t *out)
{
	if (!SSL_is_server(ssl))
		return hash_certificate(SSL_get0_peer_certificate(ssl), out);
	if (SSL_session_reused(ssl))
		return resumed_binding(ssl, out);
	return hash_certificate(SSL_get_certificate(ssl), out);
}

static int
remember_binding(SSL *ssl, void *arg)
{
	uint8_t binding[SCRAM_BINDING_MAX];
	size_t n = tls_binding(ssl, binding);

	(void)arg;
	return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), binding,
					       n);
}

void
tls_settle(SSL *ssl)
{
	SSL_SESSION *session = SSL_get_session(ssl);

	if (SSL_is_server(ssl) && !SSL_session_reused(ssl) && session != NULL)
		SSL_SESSION_set1_ticket_appdata(session, NULL, 0);
}

/* ---- contexts --------------------------------------------------------- */

/* What OpenSSL works out about an authority when it is first used: see certs.c. */
static void
work_out(SSL_CTX *ctx)
{
	STACK_OF(X509_OBJECT) *all =
	    X509_STORE_get0_objects(SSL_CTX_get_cert_store(ctx));

	for (int i = 0; i < sk_X509_OBJECT_num(all); i++) {
		X509 *x = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(all, i));

		if (x != NULL)
			X509_check_purpose(x, -1, 0);
	}
}

static int
verify_clients(SSL_CTX *ctx, const struct conf *c, struct conf_errors *e)
{
	const struct conf_tls *t = &c->tls;
	int mode = SSL_VERIFY_PEER;
	STACK_OF(X509_NAME) * names;

	if (t->ca_file == NULL)
		return 0;
	names = SSL_load_client_CA_file(t->ca_file);
	if (names == NULL || SSL_CTX_load_verify_file(ctx, t->ca_file) != 1) {
		sk_X509_NAME_pop_free(names, X509_NAME_free);
		tls_cannot(c, e, conf_line(c, &t->ca_file), "ca_file",
			   t->ca_file, "PEM certificates");
		return -1;
	}
	SSL_CTX_set_client_CA_list(ctx, names);
	work_out(ctx);
	/* Below verify-ca one is asked for all the same: users may have it. */
	if (t->client_mode >= SSLMODE_VERIFY_CA)
		mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
	SSL_CTX_set_verify(ctx, mode, NULL);
	return 0;
}

/*
 * A session is resumed only where it was made: behind a door of the same
 * protocol, with the same demand for a certificate and the same authorities,
 * because who resumes shows no certificate again.
 */
static int
name_sessions(SSL_CTX *ctx, enum tls_door door, const struct conf *c)
{
	const uint8_t what[] = { door == TLS_REDIS,
				 (uint8_t)c->tls.client_mode };
	STACK_OF(X509_OBJECT) *all =
	    X509_STORE_get0_objects(SSL_CTX_get_cert_store(ctx));
	uint8_t one[EVP_MAX_MD_SIZE], id[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	unsigned n = 0;
	int ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
		 EVP_DigestUpdate(md, what, sizeof(what)) == 1;

	for (int i = 0; ok && i < sk_X509_OBJECT_num(all); i++) {
		X509 *x = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(all, i));

		ok = x == NULL || (X509_digest(x, EVP_sha256(), one, &n) == 1 &&
				   EVP_DigestUpdate(md, one, n) == 1);
	}
	ok = ok && EVP_DigestFinal_ex(md, id, &n) == 1 &&
	     SSL_CTX_set_session_id_context(ctx, id, n) == 1;
	EVP_MD_CTX_free(md);
	return ok ? 0 : -1;
}

/*
 * Sessions are resumed by ticket alone: a cache in memory would be shared by
 * all workers behind a lock, and is no use to a client that comes back to a
 * restarted process.
 */
SSL_CTX *
tls_listen(enum tls_door door, const struct conf *c, const struct certs *certs,
	   struct tickets *tickets, struct conf_errors *e)
{
	SSL_CTX *ctx = tls_context(TLS_server_method());

	if (ctx == NULL || certs_use(certs, ctx) != 0 ||
	    SSL_CTX_set_min_proto_version(ctx, c->tls.min_version) != 1) {
		no_context(c, e);
		goto failed;
	}
	SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_num_tickets(ctx, 1);
	SSL_CTX_set_session_ticket_cb(ctx, remember_binding, NULL, NULL);
	tickets_use(tickets, ctx);
	set_alpn(ctx, door);
	if (verify_clients(ctx, c, e) == -1)
		goto failed;
	if (name_sessions(ctx, door, c) == -1) {
		no_context(c, e);
		goto failed;
	}
	return ctx;
failed:
	SSL_CTX_free(ctx);
	return NULL;
}

static int
show_certificate(SSL_CTX *ctx, const struct conf *c,
		 const struct tls_upstream *up, struct conf_errors *e)
{
	const struct certs_pair pair = {
		.cert_key = "sslcert",
		.cert = *up->cert,
		.cert_line = conf_line(c, up->cert),
		.key_key = "sslkey",
		.key = *up->key,
		.key_line = conf_line(c, up->key),
	};

	if (*up->cert == NULL || *up->key == NULL)
		return 0;
	return certs_put(ctx, &pair, c, e);
}

/*
 * A root certificate that was asked for is used: with it, require verifies
 * like verify-ca, as it does in libpq.
 */
static int
verify_server(SSL_CTX *ctx, const struct conf *c, const struct tls_upstream *up,
	      struct conf_errors *e)
{
	const char *root = *up->rootcert;

	if (up->mode < SSLMODE_REQUIRE ||
	    (up->mode == SSLMODE_REQUIRE && root == NULL))
		return 0;
	ERR_clear_error();
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	if (root == NULL || strcmp(root, CONF_ROOTCERT_SYSTEM) == 0) {
		SSL_CTX_set_default_verify_paths(ctx);
	} else if (SSL_CTX_load_verify_file(ctx, root) != 1) {
		tls_cannot(c, e, conf_line(c, up->rootcert), "sslrootcert",
			   root, "PEM certificates");
		return -1;
	}
	work_out(ctx);
	return 0;
}

SSL_CTX *
tls_dial(const struct conf *c, const struct tls_upstream *up,
	 struct conf_errors *e)
{
	static const unsigned char alpn[] = TLS_ALPN;
	SSL_CTX *ctx = tls_context(TLS_client_method());
	int rc;

	assert(up->mode != SSLMODE_DISABLE);
	/* It answers the other way round: 0 is good. */
	if (ctx == NULL ||
	    (up->is_postgres &&
	     SSL_CTX_set_alpn_protos(ctx, alpn, sizeof(alpn) - 1) != 0)) {
		no_context(c, e);
		SSL_CTX_free(ctx);
		return NULL;
	}
	rc = verify_server(ctx, c, up, e);
	if (show_certificate(ctx, c, up, e) != 0 || rc != 0) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

bool
tls_is_postgres(const SSL *ssl)
{
	static const unsigned char alpn[] = TLS_ALPN;
	const unsigned char *chosen;
	unsigned n;

	SSL_get0_alpn_selected(ssl, &chosen, &n);
	return n == alpn[0] && memcmp(chosen, alpn + 1, n) == 0;
}
