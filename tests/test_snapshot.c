#include "tests/t.h"

#include <assert.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/scram.h"
#include "tls/snapshot.h"
#include "tls/tls.h"

static char dir[] = "/tmp/weir-test-snapshot-XXXXXX";
static struct conf_errors errors;

static const char *
in_dir(const char *name)
{
	static char path[2][128];
	static unsigned turn;

	turn = !turn;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", dir, name);
	return path[turn];
}

static FILE *
create(const char *name)
{
	FILE *f = fopen(in_dir(name), "w");

	assert_non_null(f);
	assert_int_equal(chmod(in_dir(name), 0600), 0);
	return f;
}

/* What a certificate is to be like; zeros: for localhost, and valid. */
struct like {
	const char *cn, *san; /* san as in a configuration file of OpenSSL's */
	const EVP_MD *md;
	bool rsa, expired;
};

static void
write_key(const char *name, EVP_PKEY *pkey, const EVP_CIPHER *cipher)
{
	FILE *f = create(name);

	PEM_write_PrivateKey(f, pkey, cipher, NULL, 0, NULL,
			     cipher ? (void *)(uintptr_t) "secret" : NULL);
	fclose(f);
}

static void
add_san(X509 *x, const char *san)
{
	X509_EXTENSION *ext =
	    X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, san);

	assert_non_null(ext);
	assert_int_equal(X509_add_ext(x, ext, -1), 1);
	X509_EXTENSION_free(ext);
}

/* A self-signed certificate, NAME.crt, and its key, NAME.key. */
static void
make_certificate(const char *name, const struct like *like)
{
	EVP_PKEY *pkey = like->rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256");
	const char *cn = like->cn ? like->cn : "localhost";
	X509 *x = X509_new();
	X509_NAME *subject;
	char file[64];
	FILE *f;

	assert_non_null(pkey);
	X509_set_version(x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), -7200);
	X509_gmtime_adj(X509_getm_notAfter(x), like->expired ? -3600 : 3600);
	X509_set_pubkey(x, pkey);
	subject = X509_get_subject_name(x);
	X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
				   (const unsigned char *)cn, -1, -1, 0);
	X509_set_issuer_name(x, subject);
	if (like->san != NULL)
		add_san(x, like->san);
	assert_true(X509_sign(x, pkey, like->md ? like->md : EVP_sha256()) > 0);
	snprintf(file, sizeof(file), "%s.crt", name);
	f = create(file);
	PEM_write_X509(f, x);
	fclose(f);
	snprintf(file, sizeof(file), "%s.key", name);
	write_key(file, pkey, NULL);
	write_key("locked.key", pkey, EVP_aes_128_cbc());
	X509_free(x);
	EVP_PKEY_free(pkey);
}

static int
make_dir(void **state)
{
	FILE *f;

	(void)state;
	if (mkdtemp(dir) == NULL)
		return -1;
	make_certificate("other", &(struct like){ 0 });
	make_certificate("b", &(struct like){ .cn = "ignored",
					      .san = "DNS:b.example,"
						     "DNS:*.b.example,"
						     "IP:127.0.0.1",
					      .md = EVP_sha384() });
	make_certificate("b2", &(struct like){ .san = "DNS:B.example",
					       .rsa = true,
					       .md = EVP_sha512() });
	make_certificate("c", &(struct like){ .cn = "in.b.example" });
	make_certificate("old", &(struct like){ .expired = true });
	make_certificate("a", &(struct like){ 0 }); /* locked.key is a's */
	f = create("junk");
	fputs("not PEM\n", f);
	fclose(f);
	return 0;
}

static int
remove_dir(void **state)
{
	static const char *const pairs[] = {
		"other", "a", "b", "b2", "c", "old"
	};
	static const char *const files[] = { "locked.key", "junk", "t.ini" };
	char file[64];

	(void)state;
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		snprintf(file, sizeof(file), "%s.crt", pairs[i]);
		unlink(in_dir(file));
		snprintf(file, sizeof(file), "%s.key", pairs[i]);
		unlink(in_dir(file));
	}
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		unlink(in_dir(files[i]));
	return rmdir(dir);
}

/* The least, with `fmt` behind it; every DIR there is the folder. */
static struct snapshot *
load(const char *fmt)
{
	FILE *f = create("t.ini");

	fputs("[weir]\n"
	      "postgres_listen = 127.0.0.1:6432\n"
	      "[postgres main]\n"
	      "host = 127.0.0.1\n",
	      f);
	for (const char *p; (p = strstr(fmt, "DIR")) != NULL; fmt = p + 3)
		fprintf(f, "%.*s%s", (int)(p - fmt), fmt, dir);
	fputs(fmt, f);
	fclose(f);
	return snapshot_load(in_dir("t.ini"), &errors);
}

#define CERTIFICATE                      \
	"[tls]\ncert_file = DIR/a.crt\n" \
	"key_file = DIR/a.key\n"

static struct snapshot *
loads(const char *fmt)
{
	struct snapshot *s = load(fmt);

	for (size_t i = 0; i < errors.n; i++)
		print_error("%s\n", errors.line[i]);
	assert_non_null(s);
	return s;
}

static void
done(struct snapshot *s)
{
	snapshot_unref(&s);
	assert_null(s);
	conf_errors_free(&errors);
}

/* One error alone, which has `want` in it. */
static void
refuses(const char *fmt, const char *want)
{
	assert_null(load(fmt));
	assert_int_equal(errors.n, 1);
	if (strstr(errors.line[0], want) == NULL)
		fail_msg("%s", errors.line[0]);
	assert_int_equal(ERR_peek_error(), 0);
	conf_errors_free(&errors);
}

/* Two ends of a handshake, in memory. */
struct pair {
	SSL *server, *client;
};

static struct pair
pair_new(SSL_CTX *listen, SSL_CTX *dial)
{
	struct pair p = { SSL_new(listen), SSL_new(dial) };
	BIO *a, *b;

	assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
	SSL_set_bio(p.server, a, a);
	SSL_set_bio(p.client, b, b);
	SSL_set_accept_state(p.server);
	SSL_set_connect_state(p.client);
	return p;
}

static bool
pair_shake(struct pair *p)
{
	for (int i = 0; i < 20; i++) {
		int c = SSL_do_handshake(p->client);
		int s = SSL_do_handshake(p->server);

		if (c == 1 && s == 1)
			return true;
	}
	return false;
}

static void
pair_free(struct pair *p)
{
	SSL_free(p->server);
	SSL_free(p->client);
	ERR_clear_error();
}

static bool
shakes(SSL_CTX *listen, SSL_CTX *dial)
{
	struct pair p = pair_new(listen, dial);
	bool ok = pair_shake(&p);

	pair_free(&p);
	return ok;
}

static void
there_is_a_context_exactly_where_there_can_be_tls(void **state)
{
	struct snapshot *s = loads("sslmode = disable\n"
				   "[postgres b]\nhost = b\n"
				   "[postgres c]\nhost = /run\n"
				   "[database *]\npostgres = b\n"
				   "[redis r]\nurl = redis://h\n"
				   "[redis s]\nurl = rediss://h\n");

	(void)state;
	assert_null(s->listen);
	assert_null(s->postgres[0]);
	assert_non_null(s->postgres[1]); /* prefer */
	assert_null(s->postgres[2]);
	assert_null(s->redis[0]);
	assert_non_null(s->redis[1]);
	done(s);
	s = loads(CERTIFICATE);
	assert_non_null(s->listen);
	assert_int_equal(s->conf->tls.client_mode, SSLMODE_ALLOW);
	done(s);
}

static void
what_cannot_be_used_is_one_clear_line(void **state)
{
	(void)state;
	refuses("[tls]\ncert_file = DIR/none\nkey_file = DIR/a.key\n",
		"t.ini:6: cert_file = ");
	refuses("[tls]\ncert_file = DIR/none\nkey_file = DIR/a.key\n",
		"/none: No such file or directory, expected a PEM");
	refuses("[tls]\ncert_file = DIR/junk\nkey_file = DIR/a.key\n",
		"t.ini:6: cert_file = ");
	refuses("[tls]\ncert_file = DIR/a.crt\nkey_file = DIR/none\n",
		"t.ini:7: key_file = ");
	refuses("[tls]\ncert_file = DIR/a.crt\nkey_file = DIR/junk\n",
		"t.ini:7: key_file = ");
	refuses("[tls]\ncert_file = DIR/a.crt\nkey_file = DIR/other.key\n",
		"t.ini:7: key_file = ");
	refuses("[tls]\ncert_file = DIR/a.crt\nkey_file = DIR/locked.key\n",
		"without a pass phrase");
	refuses(CERTIFICATE "ca_file = DIR/none\nclient_mode = verify-ca\n",
		"t.ini:8: ca_file = ");
	refuses(CERTIFICATE "ca_file = DIR/junk\nclient_mode = verify-full\n",
		"t.ini:8: ca_file = ");
	refuses("sslmode = verify-ca\nsslrootcert = DIR/none\n",
		"t.ini:6: sslrootcert = ");
	refuses("[redis r]\nurl = rediss://h\nsslrootcert = DIR/junk\n",
		"t.ini:7: sslrootcert = ");
}

static void
several_things_that_cannot_be_used_are_told_together(void **state)
{
	(void)state;
	assert_null(load("sslmode = verify-ca\nsslrootcert = DIR/none\n"
			 "[tls]\ncert_file = DIR/none\nkey_file = DIR/none\n"));
	assert_int_equal(errors.n, 3);
	conf_errors_free(&errors);
}

static void
errors_of_the_file_are_passed_on(void **state)
{
	(void)state;
	refuses("nope = 1\n", "t.ini:5: nope: unknown key");
}

static void
a_server_is_verified_only_where_asked(void **state)
{
	static const struct {
		const char *settings;
		bool ok;
	} cases[] = {
		{ "sslmode = allow\n" CERTIFICATE, true },
		{ "sslmode = prefer\n" CERTIFICATE, true },
		{ "sslmode = require\n" CERTIFICATE, true },
		{ "sslmode = require\nsslrootcert = "
		  "DIR/other.crt\n" CERTIFICATE,
		  false },
		{ "sslmode = require\nsslrootcert = DIR/a.crt\n" CERTIFICATE,
		  true },
		{ "sslmode = verify-ca\n" CERTIFICATE, false },
		{ "sslmode = verify-ca\nsslrootcert = "
		  "DIR/other.crt\n" CERTIFICATE,
		  false },
		{ "sslmode = verify-ca\nsslrootcert = DIR/a.crt\n" CERTIFICATE,
		  true },
		{ "sslmode = verify-full\nsslrootcert = "
		  "DIR/a.crt\n" CERTIFICATE,
		  true }, /* the name is the connection's matter */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct snapshot *s = loads(cases[i].settings);

		assert_int_equal(shakes(s->listen, s->postgres[0]),
				 cases[i].ok);
		done(s);
	}
}

static void
a_client_is_verified_where_asked(void **state)
{
	struct snapshot *s = loads(CERTIFICATE "ca_file = DIR/other.crt\n"
					       "client_mode = verify-full\n");
	SSL_CTX *dial = s->postgres[0];

	(void)state;
	assert_false(shakes(s->listen, dial));
	assert_int_equal(SSL_CTX_use_certificate_file(dial, in_dir("a.crt"),
						      SSL_FILETYPE_PEM),
			 1);
	assert_int_equal(SSL_CTX_use_PrivateKey_file(dial, in_dir("a.key"),
						     SSL_FILETYPE_PEM),
			 1);
	assert_false(shakes(s->listen, dial));
	assert_int_equal(SSL_CTX_use_certificate_file(dial, in_dir("other.crt"),
						      SSL_FILETYPE_PEM),
			 1);
	assert_int_equal(SSL_CTX_use_PrivateKey_file(dial, in_dir("other.key"),
						     SSL_FILETYPE_PEM),
			 1);
	assert_true(shakes(s->listen, dial));
	done(s);
}

static void
the_oldest_version_is_as_configured(void **state)
{
	struct snapshot *s = loads(CERTIFICATE);
	SSL_CTX *dial = s->postgres[0];

	(void)state;
	SSL_CTX_set_max_proto_version(dial, TLS1_2_VERSION);
	assert_true(shakes(s->listen, dial));
	done(s);
	s = loads(CERTIFICATE "min_version = 1.3\n");
	dial = s->postgres[0];
	assert_true(shakes(s->listen, dial));
	SSL_CTX_set_max_proto_version(dial, TLS1_2_VERSION);
	assert_false(shakes(s->listen, dial));
	done(s);
	s = loads(CERTIFICATE);
	dial = s->postgres[0];
	SSL_CTX_set_min_proto_version(dial, TLS1_1_VERSION);
	SSL_CTX_set_max_proto_version(dial, TLS1_1_VERSION);
	SSL_CTX_set_security_level(dial, 0);
	assert_false(shakes(s->listen, dial));
	done(s);
}

/* The protocol the server chose of those offered, "" if none; handshake works. */
static void
chooses(struct snapshot *s, const char *offered, size_t n, const char *want)
{
	struct pair p = pair_new(s->listen, s->postgres[0]);
	const unsigned char *chosen;
	unsigned chosen_n;

	assert_int_equal(SSL_set_alpn_protos(p.client, (const uint8_t *)offered,
					     (unsigned)n),
			 0);
	assert_true(pair_shake(&p));
	SSL_get0_alpn_selected(p.client, &chosen, &chosen_n);
	assert_int_equal(chosen_n, strlen(want));
	if (chosen_n > 0)
		assert_memory_equal(chosen, want, chosen_n);
	pair_free(&p);
}

static void
postgresql_is_chosen_when_offered(void **state)
{
	struct snapshot *s = loads(CERTIFICATE);

	(void)state;
	chooses(s, NULL, 0, "");
	chooses(s, TLS_ALPN, sizeof(TLS_ALPN) - 1, "postgresql");
	chooses(s, "\002h2" TLS_ALPN, sizeof(TLS_ALPN) + 2, "postgresql");
	done(s);
}

/* The alert a client gets that offers this; 0: none, it gets in. */
static int
alert_for(SSL_CTX *listen, SSL_CTX *dial, const char *offered, size_t n)
{
	struct pair p = pair_new(listen, dial);
	unsigned long code;
	int alert = 0;

	if (n > 0)
		SSL_set_alpn_protos(p.client, (const uint8_t *)offered,
				    (unsigned)n);
	if (!pair_shake(&p))
		alert = -1;
	while ((code = ERR_get_error()) != 0)
		if (ERR_GET_REASON(code) > SSL_AD_REASON_OFFSET)
			alert = ERR_GET_REASON(code) - SSL_AD_REASON_OFFSET;
	pair_free(&p);
	return alert;
}

static void
each_door_asks_for_the_alpn_it_must(void **state)
{
	static const char h2[] = "\002h2\005redis";
	struct snapshot *s = loads(CERTIFICATE);
	SSL_CTX *dial = s->postgres[0];

	(void)state;
	SSL_CTX_set_alpn_protos(dial, NULL, 0);
	assert_int_equal(alert_for(s->listen, dial, NULL, 0), 0);
	assert_int_equal(alert_for(s->listen, dial, h2, 9),
			 SSL_AD_NO_APPLICATION_PROTOCOL);
	assert_int_equal(alert_for(s->listen_direct, dial, NULL, 0),
			 SSL_AD_NO_APPLICATION_PROTOCOL);
	assert_int_equal(alert_for(s->listen_direct, dial, h2, 9),
			 SSL_AD_NO_APPLICATION_PROTOCOL);
	assert_int_equal(
	    alert_for(s->listen_direct, dial, TLS_ALPN, sizeof(TLS_ALPN) - 1),
	    0);
	assert_int_equal(alert_for(s->listen_redis, dial, NULL, 0), 0);
	assert_int_equal(alert_for(s->listen_redis, dial, h2, 9), 0);
	done(s);
}

/* ---- several certificates --------------------------------------------- */

static void
names_cover_hosts_as_they_should(void **state)
{
	(void)state;
	assert_true(certs_covers("db.example.org", "DB.Example.ORG"));
	assert_false(certs_covers("db.example.org", "example.org"));
	assert_true(certs_covers("*.example.org", "db.example.org"));
	assert_true(certs_covers("*.EXAMPLE.org", "db.example.org"));
	assert_false(certs_covers("*.example.org", "a.db.example.org"));
	assert_false(certs_covers("*.example.org", "example.org"));
	assert_false(certs_covers("*.example.org", ".example.org"));
	assert_false(certs_covers("*example.org", "dbexample.org"));
	assert_false(certs_covers("*", "db"));
	assert_false(certs_covers("", "db"));
	assert_false(certs_covers("*.", "db"));
}

#define CERTIFICATES                                                       \
	"[tls]\ncert_file = DIR/a.crt, DIR/b.crt, DIR/b2.crt, DIR/c.crt\n" \
	"key_file = DIR/a.key, DIR/b.key, DIR/b2.key, DIR/c.key\n"

static X509 *
read_certificate(const char *name)
{
	FILE *f = fopen(in_dir(name), "r");
	X509 *x = PEM_read_X509(f, NULL, NULL, NULL);

	assert_non_null(x);
	fclose(f);
	return x;
}

/* `sigalgs` NULL: whatever the client likes. */
static void
shows(struct snapshot *s, const char *host, const char *sigalgs,
      const char *want)
{
	SSL_CTX *doors[] = { s->listen, s->listen_direct, s->listen_redis };
	X509 *x = read_certificate(want);

	for (size_t i = 0; i < 3; i++) {
		struct pair p = pair_new(doors[i], s->postgres[0]);

		SSL_set_alpn_protos(p.client, (const uint8_t *)TLS_ALPN,
				    sizeof(TLS_ALPN) - 1);
		if (host != NULL)
			SSL_set_tlsext_host_name(p.client, host);
		if (sigalgs != NULL)
			SSL_set1_sigalgs_list(p.client, sigalgs);
		assert_true(pair_shake(&p));
		if (X509_cmp(SSL_get0_peer_certificate(p.client), x) != 0)
			fail_msg("%s, %s: not %s", host ? host : "no name",
				 sigalgs ? sigalgs : "any", want);
		pair_free(&p);
	}
	X509_free(x);
}

#define ECDSA "ECDSA+SHA256"
#define RSA   "RSA-PSS+SHA256:RSA+SHA256"

static void
the_certificate_is_chosen_by_name(void **state)
{
	struct snapshot *s = loads(CERTIFICATES);

	(void)state;
	shows(s, NULL, NULL, "a.crt");
	shows(s, "localhost", NULL, "a.crt");
	shows(s, "nobody.example", NULL, "a.crt");
	shows(s, "ignored", NULL, "a.crt"); /* a CN beside a SAN */
	shows(s, "B.EXAMPLE", ECDSA, "b.crt");
	shows(s, "any.b.example", NULL, "b.crt");
	shows(s, "in.b.example", NULL, "c.crt"); /* exact before wildcard */
	shows(s, "x.any.b.example", NULL, "a.crt");
	done(s);
}

static void
of_two_kinds_of_key_the_client_chooses(void **state)
{
	struct snapshot *s = loads(CERTIFICATES);

	(void)state;
	shows(s, "b.example", ECDSA, "b.crt");
	shows(s, "b.example", RSA, "b2.crt");
	done(s);
	s = loads("[tls]\ncert_file = DIR/b.crt,DIR/b2.crt\n"
		  "key_file = DIR/b.key,DIR/b2.key\n");
	shows(s, NULL, ECDSA, "b.crt");
	shows(s, NULL, RSA, "b2.crt");
	done(s);
}

static void
several_files_are_checked_one_by_one(void **state)
{
	(void)state;
	refuses("[tls]\ncert_file = DIR/a.crt, DIR/b.crt\n"
		"key_file = DIR/a.key\n",
		"t.ini:7: key_file: 1 files for the 2 of cert_file");
	refuses("[tls]\ncert_file = DIR/a.crt, DIR/b.crt\n"
		"key_file = DIR/a.key, DIR/c.key\n",
		"/c.key: key values mismatch");
	refuses("[tls]\ncert_file = DIR/a.crt, DIR/none\n"
		"key_file = DIR/a.key, DIR/b.key\n",
		"/none: No such file");
	refuses("[tls]\ncert_file =\nkey_file = DIR/a.key\n",
		"t.ini:6: cert_file");
}

static void
an_expired_certificate_is_a_warning(void **state)
{
	struct snapshot *s = loads("[tls]\ncert_file = DIR/a.crt, DIR/old.crt\n"
				   "key_file = DIR/a.key, DIR/old.key\n");
	bool told = false;

	(void)state;
	for (size_t i = 0; i < errors.warning_n; i++)
		if (strstr(errors.warning[i], "t.ini:6: cert_file = ") &&
		    strstr(errors.warning[i], "/old.crt: has expired"))
			told = true;
	assert_true(told);
	done(s);
}

/* ---- channel binding, sessions ---------------------------------------- */

/* What a client sees first ends the handshake: the ticket comes with it. */
static SSL_SESSION *
get_session(struct pair *p)
{
	char byte;

	assert_int_equal(SSL_write(p->server, "x", 1), 1);
	assert_int_equal(SSL_read(p->client, &byte, 1), 1);
	return SSL_get1_session(p->client);
}

/* The same bytes at both ends, of a hash of that length. */
static void
binds(const struct pair *p, size_t want)
{
	uint8_t a[SCRAM_BINDING_MAX], b[SCRAM_BINDING_MAX];

	assert_int_equal(tls_binding(p->server, a), want);
	assert_int_equal(tls_binding(p->client, b), want);
	assert_memory_equal(a, b, want);
}

static void
both_ends_bind_to_the_certificate_that_was_shown(void **state)
{
	static const struct {
		const char *host, *sigalgs;
		size_t want;
	} cases[] = { { "localhost", NULL, 32 },
		      { "b.example", ECDSA, 48 },
		      { "b.example", RSA, 64 } };
	static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
	struct snapshot *s = loads(CERTIFICATES);

	(void)state;
	for (size_t i = 0; i < 6; i++) {
		struct pair p;
		SSL_SESSION *session;

		SSL_CTX_set_max_proto_version(s->postgres[0], versions[i % 2]);
		p = pair_new(s->listen, s->postgres[0]);
		SSL_set_tlsext_host_name(p.client, cases[i / 2].host);
		if (cases[i / 2].sigalgs != NULL)
			SSL_set1_sigalgs_list(p.client, cases[i / 2].sigalgs);
		assert_true(pair_shake(&p));
		binds(&p, cases[i / 2].want);
		tls_settle(p.server);
		binds(&p, cases[i / 2].want);
		session = get_session(&p);
		SSL_shutdown(p.client);
		pair_free(&p);
		/* Twice: the second ticket was made in a resumed session. */
		for (int again = 0; again < 2; again++) {
			p = pair_new(s->listen, s->postgres[0]);
			SSL_set_session(p.client, session);
			SSL_SESSION_free(session);
			assert_true(pair_shake(&p));
			tls_settle(p.server);
			assert_true(SSL_session_reused(p.server));
			binds(&p, cases[i / 2].want);
			session = get_session(&p);
			SSL_shutdown(p.client);
			pair_free(&p);
		}
		SSL_SESSION_free(session);
	}
	done(s);
}

/* Is a session of one snapshot resumed by the other? */
static bool
resumes(SSL_CTX *listen, SSL_CTX *dial, SSL_SESSION *session)
{
	struct pair p = pair_new(listen, dial);
	bool reused;

	SSL_set_session(p.client, session);
	assert_true(pair_shake(&p));
	reused = SSL_session_reused(p.client);
	assert_int_equal(SSL_session_reused(p.server), reused);
	pair_free(&p);
	return reused;
}

static void
a_session_can_be_resumed(void **state)
{
	static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
	struct snapshot *s = loads(CERTIFICATE);

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct pair p;
		SSL_SESSION *session;

		SSL_CTX_set_max_proto_version(s->postgres[0], versions[i]);
		p = pair_new(s->listen, s->postgres[0]);
		assert_true(pair_shake(&p));
		session = get_session(&p);
		assert_true(SSL_SESSION_is_resumable(session));
		SSL_shutdown(p.client);
		pair_free(&p);
		assert_true(resumes(s->listen, s->postgres[0], session));
		/* Not behind the door of another protocol. */
		assert_false(resumes(s->listen_redis, s->postgres[0], session));
		SSL_SESSION_free(session);
	}
	done(s);
}

#define VERIFIED(ca) \
	CERTIFICATE "ca_file = DIR/" ca "\nclient_mode = verify-ca\n"

static struct snapshot *
reloads(struct snapshot *before, const char *settings)
{
	struct snapshot *s = loads(settings);

	conf_errors_free(&errors);
	snapshot_inherit(s, before);
	return s;
}

static void
a_reload_keeps_sessions_but_not_under_other_authorities(void **state)
{
	struct snapshot *s = loads(VERIFIED("other.crt")), *t;
	SSL_CTX *dial = s->postgres[0];
	SSL_SESSION *session;
	struct pair p;

	(void)state;
	conf_errors_free(&errors);
	assert_int_equal(SSL_CTX_use_certificate_file(dial, in_dir("other.crt"),
						      SSL_FILETYPE_PEM),
			 1);
	assert_int_equal(SSL_CTX_use_PrivateKey_file(dial, in_dir("other.key"),
						     SSL_FILETYPE_PEM),
			 1);
	p = pair_new(s->listen, dial);
	assert_true(pair_shake(&p));
	session = get_session(&p);
	SSL_shutdown(p.client);
	pair_free(&p);

	t = reloads(s, VERIFIED("other.crt"));
	p = pair_new(t->listen, dial);
	SSL_set_session(p.client, session);
	assert_true(pair_shake(&p));
	assert_true(SSL_session_reused(p.server));
	/* Who it is has not been forgotten. */
	assert_non_null(SSL_get0_peer_certificate(p.server));
	assert_int_equal(SSL_get_verify_result(p.server), X509_V_OK);
	pair_free(&p);
	snapshot_unref(&t);

	t = reloads(s, CERTIFICATE); /* client_mode */
	assert_false(resumes(t->listen, dial, session));
	snapshot_unref(&t);

	t = reloads(s, VERIFIED("a.crt")); /* ca_file */
	p = pair_new(t->listen, dial);
	SSL_set_session(p.client, session);
	assert_false(
	    pair_shake(&p)); /* must show its certificate, is refused */
	pair_free(&p);
	SSL_SESSION_free(session);
	snapshot_unref(&t);
	done(s);
}

/* ---- sessions with upstreams ------------------------------------------ */

/* A connection to that host by that context: is a session resumed? */
static bool
dials(struct snapshot *s, SSL_CTX *dial, const char *host, bool keep)
{
	struct pair p = pair_new(s->listen, dial);
	bool reused;
	char byte;

	if (host != NULL)
		SSL_set_tlsext_host_name(p.client, host);
	resume_offer(&s->resume, p.client);
	assert_true(pair_shake(&p));
	reused = SSL_session_reused(p.client);
	assert_int_equal(SSL_write(p.server, "x", 1), 1);
	assert_int_equal(SSL_read(p.client, &byte, 1), 1);
	if (keep)
		resume_keep(&s->resume, p.client);
	pair_free(&p);
	return reused;
}

static void
a_session_is_offered_once_to_the_host_it_is_of(void **state)
{
	static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
	struct snapshot *s = loads("[postgres b]\nhost = b\n"
				   "[database *]\npostgres = b\n" CERTIFICATE);
	SSL_CTX *a = s->postgres[0], *b = s->postgres[1];

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		SSL_CTX_set_max_proto_version(a, versions[i]);
		assert_false(dials(s, a, "one.example", true));
		assert_false(dials(s, a, "two.example", false));
		assert_false(dials(s, a, NULL, true));
		assert_false(dials(s, a, NULL, true));
		assert_false(dials(s, b, "one.example", false));
		assert_true(dials(s, a, "one.example", true));
		assert_true(dials(s, a, "ONE.example", false));
		/* The one before did not turn out well. */
		assert_false(dials(s, a, "one.example", false));
	}
	done(s);
}

static void
of_many_sessions_the_latest_are_kept(void **state)
{
	struct snapshot *s = loads(CERTIFICATE);
	SSL_CTX *a = s->postgres[0];
	char host[32];

	(void)state;
	for (int i = 0; i < RESUME_MAX + 2; i++) {
		snprintf(host, sizeof(host), "h%d.example", i);
		assert_false(dials(s, a, host, true));
	}
	assert_false(dials(s, a, "h1.example", false));
	assert_true(dials(s, a, "h2.example", false));
	done(s);
}

static void
a_certificate_is_shown_to_a_server_that_wants_one(void **state)
{
	struct snapshot *s = loads(
	    "sslmode = require\n"
	    "sslcert = DIR/other.crt\nsslkey = DIR/other.key\n"
	    "[redis r]\nurl = rediss://h\nsslmode = require\n"
	    "sslcert = DIR/c.crt\nsslkey = DIR/c.key\n" VERIFIED("other.crt"));

	(void)state;
	assert_true(shakes(s->listen, s->postgres[0]));
	assert_false(shakes(s->listen_redis, s->redis[0]));
	done(s);
	refuses("sslcert = DIR/a.crt\nsslkey = DIR/c.key\n",
		"t.ini:6: sslkey = ");
	refuses("sslcert = DIR/none\nsslkey = DIR/a.key\n",
		"t.ini:5: sslcert = ");
	refuses("[redis r]\nurl = rediss://h\n"
		"sslcert = DIR/a.crt\nsslkey = DIR/none\n",
		"t.ini:8: sslkey = ");
	refuses("sslcert = DIR/a.crt\n", "t.ini:5: sslcert alone");
	refuses("sslkey = DIR/a.key\n", "t.ini:5: sslkey alone");
}

static void
the_authorities_of_the_system_demand_verify_full(void **state)
{
	struct snapshot *s =
	    loads("sslrootcert = system\n"
		  "[redis r]\nurl = rediss://h\nsslrootcert = system\n");

	(void)state;
	assert_int_equal(s->conf->postgres[0].sslmode, SSLMODE_VERIFY_FULL);
	assert_int_equal(s->conf->redis[0].sslmode, SSLMODE_VERIFY_FULL);
	assert_int_equal(SSL_CTX_get_verify_mode(s->postgres[0]),
			 SSL_VERIFY_PEER);
	done(s);
	refuses("sslrootcert = system\nsslmode = verify-ca\n",
		"t.ini:6: sslmode: too weak for sslrootcert = system");
	refuses("[redis r]\nurl = rediss://h\nsslmode = require\n"
		"sslrootcert = system\n",
		"t.ini:7: sslmode: too weak");
}

static void
direct_tls_is_for_those_who_insist_on_tls(void **state)
{
	struct snapshot *s =
	    loads("sslnegotiation = direct\nsslmode = require\n");

	(void)state;
	assert_int_equal(s->conf->postgres[0].sslnegotiation,
			 SSLNEGOTIATION_DIRECT);
	done(s);
	refuses("sslnegotiation = direct\n",
		"t.ini:5: sslnegotiation = direct");
	refuses("sslnegotiation = direct\nsslmode = prefer\n",
		"t.ini:5: sslnegotiation = direct");
}

static void
no_early_data_is_offered(void **state)
{
	struct snapshot *s = loads(CERTIFICATE);
	struct pair p = pair_new(s->listen, s->postgres[0]);
	SSL_SESSION *session;

	(void)state;
	assert_true(pair_shake(&p));
	session = get_session(&p);
	assert_int_equal(SSL_SESSION_get_max_early_data(session), 0);
	SSL_SESSION_free(session);
	pair_free(&p);
	done(s);
}

static void
nobody_renegotiates(void **state)
{
	struct snapshot *s = loads(CERTIFICATE);
	struct pair p;
	char byte;

	(void)state;
	SSL_CTX_clear_options(s->postgres[0], SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_max_proto_version(s->postgres[0], TLS1_2_VERSION);
	p = pair_new(s->listen, s->postgres[0]);
	assert_true(pair_shake(&p));
	assert_int_equal(SSL_renegotiate(p.client), 1);
	assert_false(pair_shake(&p) && SSL_num_renegotiations(p.client) > 0 &&
		     !SSL_renegotiate_pending(p.client));
	/* A warning; the server's end lives. */
	assert_int_equal(SSL_read(p.server, &byte, 1), -1);
	assert_int_equal(SSL_num_renegotiations(p.server), 0);
	pair_free(&p);
	done(s);
}

static void
the_modes_the_streams_rely_on_are_set(void **state)
{
	const long want = SSL_MODE_RELEASE_BUFFERS |
			  SSL_MODE_ENABLE_PARTIAL_WRITE |
			  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER;
	struct snapshot *s = loads(CERTIFICATE);

	(void)state;
	assert_int_equal(SSL_CTX_get_mode(s->listen) & want, want);
	assert_int_equal(SSL_CTX_get_mode(s->postgres[0]) & want, want);
	assert_true(SSL_CTX_get_options(s->listen) & SSL_OP_NO_RENEGOTIATION);
	assert_true(SSL_CTX_get_options(s->listen) & SSL_OP_NO_COMPRESSION);
	done(s);
}

static void
a_reload_reads_the_certificate_again(void **state)
{
	struct snapshot *before = loads(CERTIFICATE), *after;

	(void)state;
	conf_errors_free(&errors);
	after = loads(CERTIFICATE);
	assert_ptr_not_equal(before->listen, after->listen);
	snapshot_unref(&before);
	assert_true(shakes(after->listen, after->postgres[0]));
	done(after);
}

enum { THREADS = 4, EACH = 20000 };

static void *
hold_and_let_go(void *arg)
{
	struct snapshot *s = arg;

	for (int i = 0; i < EACH; i++) {
		struct snapshot *mine = snapshot_ref(s);

		assert(mine->conf->postgres_n == 1);
		snapshot_unref(&mine);
	}
	snapshot_unref(&s);
	return NULL;
}

/* Freed too early or not at all: a sanitizer's to see. */
static void
the_last_to_leave_frees_it(void **state)
{
	struct snapshot *s = loads(CERTIFICATE);
	pthread_t t[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, hold_and_let_go,
						snapshot_ref(s)),
				 0);
	done(s);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    there_is_a_context_exactly_where_there_can_be_tls),
		cmocka_unit_test(what_cannot_be_used_is_one_clear_line),
		cmocka_unit_test(
		    several_things_that_cannot_be_used_are_told_together),
		cmocka_unit_test(errors_of_the_file_are_passed_on),
		cmocka_unit_test(a_server_is_verified_only_where_asked),
		cmocka_unit_test(a_client_is_verified_where_asked),
		cmocka_unit_test(the_oldest_version_is_as_configured),
		cmocka_unit_test(postgresql_is_chosen_when_offered),
		cmocka_unit_test(each_door_asks_for_the_alpn_it_must),
		cmocka_unit_test(names_cover_hosts_as_they_should),
		cmocka_unit_test(the_certificate_is_chosen_by_name),
		cmocka_unit_test(of_two_kinds_of_key_the_client_chooses),
		cmocka_unit_test(several_files_are_checked_one_by_one),
		cmocka_unit_test(an_expired_certificate_is_a_warning),
		cmocka_unit_test(
		    both_ends_bind_to_the_certificate_that_was_shown),
		cmocka_unit_test(a_session_can_be_resumed),
		cmocka_unit_test(
		    a_reload_keeps_sessions_but_not_under_other_authorities),
		cmocka_unit_test(
		    a_session_is_offered_once_to_the_host_it_is_of),
		cmocka_unit_test(of_many_sessions_the_latest_are_kept),
		cmocka_unit_test(
		    a_certificate_is_shown_to_a_server_that_wants_one),
		cmocka_unit_test(
		    the_authorities_of_the_system_demand_verify_full),
		cmocka_unit_test(direct_tls_is_for_those_who_insist_on_tls),
		cmocka_unit_test(no_early_data_is_offered),
		cmocka_unit_test(nobody_renegotiates),
		cmocka_unit_test(the_modes_the_streams_rely_on_are_set),
		cmocka_unit_test(a_reload_reads_the_certificate_again),
		cmocka_unit_test(the_last_to_leave_frees_it),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
