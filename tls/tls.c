#include "tls/tls.h"

#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <string.h>
#include <unistd.h>

/* TLS 1.2's; those of 1.3 are all good. */
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL"

static_assert(TLS1_2_VERSION == 0x0303, "conf_keys.c says so");
static_assert(TLS1_3_VERSION == 0x0304, "conf_keys.c says so");

/*
 * One line about one file: why it could not be opened, or else what OpenSSL
 * made of it.  `field` is where the conf keeps the name, which tells the line.
 */
static void
cannot(const struct conf *c, struct conf_errors *e, char *const *field,
       const char *key, const char *expected)
{
	unsigned long code = ERR_peek_error();
	const char *why = code ? ERR_reason_error_string(code) : NULL;

	if (access(*field, R_OK) == -1)
		why = strerror(errno);
	conf_errors_add(e, c->file, conf_line(c, field),
			"%s = %s: %s, expected %s", key, *field,
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

static int
choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n,
	    const unsigned char *in, unsigned in_n, void *arg)
{
	static const unsigned char ours[] = TLS_ALPN;
	unsigned char *chosen;

	(void)ssl;
	(void)arg;
	if (SSL_select_next_proto(&chosen, out_n, ours, sizeof(ours) - 1, in,
				  in_n) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_NOACK;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

/* What both ends have in common. */
static SSL_CTX *
context(const SSL_METHOD *method, int min_version)
{
	SSL_CTX *ctx = SSL_CTX_new(method);

	if (ctx == NULL ||
	    SSL_CTX_set_min_proto_version(ctx, min_version) != 1 ||
	    SSL_CTX_set_cipher_list(ctx, CIPHERS) != 1) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	SSL_CTX_set_options(ctx,
			    SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS |
				  SSL_MODE_ENABLE_PARTIAL_WRITE |
				  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
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

static int
load_certificate(SSL_CTX *ctx, const struct conf *c, struct conf_errors *e)
{
	const struct conf_tls *t = &c->tls;
	int rc = 0;

	ERR_clear_error();
	if (SSL_CTX_use_certificate_chain_file(ctx, t->cert_file) != 1) {
		cannot(c, e, &t->cert_file, "cert_file",
		       "a PEM certificate and its chain");
		rc = -1;
	}
	if (SSL_CTX_use_PrivateKey_file(ctx, t->key_file, SSL_FILETYPE_PEM) !=
	    1) {
		cannot(c, e, &t->key_file, "key_file",
		       "the certificate's private key, PEM without a pass "
		       "phrase");
		rc = -1;
	}
	if (rc == 0 && SSL_CTX_check_private_key(ctx) != 1) {
		cannot(c, e, &t->key_file, "key_file",
		       "the private key of cert_file");
		rc = -1;
	}
	return rc;
}

static int
verify_clients(SSL_CTX *ctx, const struct conf *c, struct conf_errors *e)
{
	const struct conf_tls *t = &c->tls;
	STACK_OF(X509_NAME) * names;

	if (t->client_mode < SSLMODE_VERIFY_CA)
		return 0;
	names = SSL_load_client_CA_file(t->ca_file);
	if (names == NULL || SSL_CTX_load_verify_file(ctx, t->ca_file) != 1) {
		sk_X509_NAME_pop_free(names, X509_NAME_free);
		cannot(c, e, &t->ca_file, "ca_file", "PEM certificates");
		return -1;
	}
	SSL_CTX_set_client_CA_list(ctx, names);
	SSL_CTX_set_verify(
	    ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return 0;
}

/*
 * Sessions are resumed by ticket alone: a cache in memory would be shared by
 * all workers behind a lock, and is no use to a client that comes back to a
 * restarted process.
 */
SSL_CTX *
tls_listen(const struct conf *c, struct conf_errors *e)
{
	static const unsigned char id[] = "weir";
	SSL_CTX *ctx = context(TLS_server_method(), c->tls.min_version);

	assert(c->tls.cert_file != NULL && c->tls.key_file != NULL);
	if (ctx == NULL) {
		no_context(c, e);
		return NULL;
	}
	SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_session_id_context(ctx, id, sizeof(id) - 1);
	SSL_CTX_set_num_tickets(ctx, 1);
	SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, NULL);
	if (load_certificate(ctx, c, e) == -1 ||
	    verify_clients(ctx, c, e) == -1) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

/*
 * A root certificate that was asked for is used: with it, require verifies
 * like verify-ca, as it does in libpq.
 */
SSL_CTX *
tls_dial(const struct conf *c, enum conf_sslmode mode, char *const *rootcert,
	 struct conf_errors *e)
{
	SSL_CTX *ctx = context(TLS_client_method(), TLS1_2_VERSION);
	bool verify = mode >= SSLMODE_VERIFY_CA ||
		      (mode == SSLMODE_REQUIRE && *rootcert != NULL);

	assert(mode != SSLMODE_DISABLE);
	if (ctx == NULL) {
		no_context(c, e);
		return NULL;
	}
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	if (!verify)
		return ctx;
	ERR_clear_error();
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	if (*rootcert == NULL) {
		SSL_CTX_set_default_verify_paths(ctx);
	} else if (SSL_CTX_load_verify_file(ctx, *rootcert) != 1) {
		cannot(c, e, rootcert, "sslrootcert", "PEM certificates");
		SSL_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}
