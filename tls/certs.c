#include "tls/certs.h"

#include <assert.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "conf/mem.h"
#include "tls/tls.h"

enum { NAME_MAX_BYTES = 255 };

/* A context serves as the holder of a certificate, its chain and its key. */
struct cert {
	SSL_CTX *holder;
	char **name;
	size_t name_n;
};

struct certs {
	struct cert *cert;
	size_t n;
};

/* ---- names ------------------------------------------------------------ */

bool
certs_covers(const char *pattern, const char *host)
{
	const char *rest = strchr(host, '.');

	if (strcasecmp(pattern, host) == 0)
		return true;
	return strncmp(pattern, "*.", 2) == 0 && rest != NULL && rest > host &&
	       strcasecmp(pattern + 1, rest) == 0;
}

/* A NUL inside would make another name of it. */
static void
add_name(struct cert *c, const void *text, size_t n)
{
	if (n == 0 || n > NAME_MAX_BYTES || memchr(text, '\0', n) != NULL)
		return;
	c->name = mem_more(c->name, c->name_n, sizeof(*c->name));
	c->name[c->name_n++] = mem_text(text, n);
}

static void
read_common_name(struct cert *c, X509 *x)
{
	X509_NAME *subject = X509_get_subject_name(x);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	const ASN1_STRING *s;

	if (at < 0)
		return;
	s = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
	add_name(c, ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s));
}

static void
read_names(struct cert *c, X509 *x)
{
	GENERAL_NAMES *all =
	    X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);

	for (int i = 0; i < sk_GENERAL_NAME_num(all); i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(all, i);

		if (g->type == GEN_DNS)
			add_name(c, ASN1_STRING_get0_data(g->d.dNSName),
				 (size_t)ASN1_STRING_length(g->d.dNSName));
	}
	if (all == NULL)
		read_common_name(c, x);
	GENERAL_NAMES_free(all);
	ERR_clear_error();
}

/* ---- loading ---------------------------------------------------------- */

static void
check_dates(const X509 *x, const struct certs_pair *p, const struct conf *c,
	    struct conf_errors *e)
{
	if (X509_cmp_current_time(X509_get0_notAfter(x)) < 0)
		conf_errors_warn(e, c->file, p->cert_line,
				 "%s = %s: has expired, expected a "
				 "certificate that is valid",
				 p->cert_key, p->cert);
	if (X509_cmp_current_time(X509_get0_notBefore(x)) > 0)
		conf_errors_warn(e, c->file, p->cert_line,
				 "%s = %s: is not valid yet, expected a "
				 "certificate that is",
				 p->cert_key, p->cert);
}

/* What OpenSSL works out about a certificate when it is first used, it does now:
 * later all workers would at once. */
static void
work_out(SSL_CTX *ctx)
{
	STACK_OF(X509) *chain = NULL;

	X509_check_purpose(SSL_CTX_get0_certificate(ctx), -1, 0);
	SSL_CTX_get0_chain_certs(ctx, &chain);
	for (int i = 0; i < sk_X509_num(chain); i++)
		X509_check_purpose(sk_X509_value(chain, i), -1, 0);
}

int
certs_put(SSL_CTX *ctx, const struct certs_pair *p, const struct conf *c,
	  struct conf_errors *e)
{
	const char *key = "the certificate's private key, PEM without a pass "
			  "phrase";
	int rc = 0;

	ERR_clear_error();
	if (SSL_CTX_use_certificate_chain_file(ctx, p->cert) != 1) {
		tls_cannot(c, e, p->cert_line, p->cert_key, p->cert,
			   "a PEM certificate and its chain");
		rc = -1;
	}
	if (SSL_CTX_use_PrivateKey_file(ctx, p->key, SSL_FILETYPE_PEM) != 1) {
		tls_cannot(c, e, p->key_line, p->key_key, p->key, key);
		rc = -1;
	}
	if (rc == 0 && SSL_CTX_check_private_key(ctx) != 1) {
		tls_cannot(c, e, p->key_line, p->key_key, p->key, key);
		rc = -1;
	}
	if (rc == 0) {
		work_out(ctx);
		check_dates(SSL_CTX_get0_certificate(ctx), p, c, e);
	}
	return rc;
}

static int
load_one(struct cert *to, const struct conf *c, size_t i, struct conf_errors *e)
{
	const struct conf_tls *t = &c->tls;
	const struct certs_pair pair = {
		.cert_key = "cert_file",
		.cert = t->cert_file[i],
		.cert_line = conf_line(c, &t->cert_file),
		.key_key = "key_file",
		.key = t->key_file[i],
		.key_line = conf_line(c, &t->key_file),
	};

	if ((to->holder = tls_context(TLS_server_method())) == NULL)
		abort(); /* a working libssl was there a moment ago */
	if (certs_put(to->holder, &pair, c, e) != 0)
		return -1;
	read_names(to, SSL_CTX_get0_certificate(to->holder));
	return 0;
}

struct certs *
certs_load(const struct conf *c, struct conf_errors *e)
{
	struct certs *all = mem_zero(1, sizeof(*all), "certificates");
	int rc = 0;

	assert(c->tls.cert_file_n > 0);
	assert(c->tls.cert_file_n == c->tls.key_file_n);
	all->n = c->tls.cert_file_n;
	all->cert = mem_zero(all->n, sizeof(*all->cert), "certificates");
	for (size_t i = 0; i < all->n; i++)
		if (load_one(&all->cert[i], c, i, e) != 0)
			rc = -1;
	if (rc != 0)
		certs_free(&all);
	return all;
}

void
certs_free(struct certs **at)
{
	struct certs *all = *at;

	*at = NULL;
	if (all == NULL)
		return;
	for (size_t i = 0; i < all->n; i++) {
		struct cert *c = &all->cert[i];

		for (size_t k = 0; k < c->name_n; k++)
			free(c->name[k]);
		free(c->name);
		SSL_CTX_free(c->holder);
	}
	free(all->cert);
	free(all);
}

/* ---- choosing --------------------------------------------------------- */

static bool
has_name(const struct cert *c, const char *host, bool wildcard)
{
	for (size_t i = 0; i < c->name_n; i++)
		if (wildcard ? certs_covers(c->name[i], host)
			     : strcasecmp(c->name[i], host) == 0)
			return true;
	return false;
}

static int
use_in_context(SSL_CTX *ctx, const struct cert *c)
{
	STACK_OF(X509) *chain = NULL;

	SSL_CTX_get0_chain_certs(c->holder, &chain);
	return SSL_CTX_use_cert_and_key(
	    ctx, SSL_CTX_get0_certificate(c->holder),
	    SSL_CTX_get0_privatekey(c->holder), chain, 1);
}

static int
use_in_connection(SSL *ssl, const struct cert *c)
{
	STACK_OF(X509) *chain = NULL;

	SSL_CTX_get0_chain_certs(c->holder, &chain);
	return SSL_use_cert_and_key(ssl, SSL_CTX_get0_certificate(c->holder),
				    SSL_CTX_get0_privatekey(c->holder), chain,
				    1);
}

/*
 * Those with the name, one of each kind of key.  Backwards, because a later
 * one of the same kind takes the place of an earlier one.
 */
static int
use_all_with(SSL *ssl, const struct certs *all, const char *host, bool wildcard)
{
	int used = 0;

	for (size_t i = all->n; i-- > 0;) {
		if (!has_name(&all->cert[i], host, wildcard))
			continue;
		if (used++ == 0)
			SSL_certs_clear(ssl);
		if (use_in_connection(ssl, &all->cert[i]) != 1)
			return -1;
	}
	return used;
}

/* A name nobody has gets the default: the client judges that. */
static int
choose(SSL *ssl, void *arg)
{
	const char *host = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	const struct certs *all = arg;
	int used;

	if (host == NULL)
		return 1;
	if ((used = use_all_with(ssl, all, host, false)) == 0)
		used = use_all_with(ssl, all, host, true);
	return used >= 0;
}

/* With the first go those that carry its name with another kind of key. */
int
certs_use(const struct certs *all, SSL_CTX *ctx)
{
	const struct cert *first = &all->cert[0];

	for (size_t i = all->n; i-- > 0;) {
		if (i > 0 && (first->name_n == 0 ||
			      !has_name(&all->cert[i], first->name[0], false)))
			continue;
		if (use_in_context(ctx, &all->cert[i]) != 1)
			return -1;
	}
	if (all->n > 1)
		SSL_CTX_set_cert_cb(ctx, choose, (void *)(uintptr_t)all);
	return 0;
}
