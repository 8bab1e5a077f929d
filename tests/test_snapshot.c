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

/* A self-signed certificate for localhost, and its key. */
static void
make_certificate(const char *crt, const char *key)
{
	EVP_PKEY *pkey = EVP_EC_gen("P-256");
	X509 *x = X509_new();
	X509_NAME *name;
	FILE *f;

	assert_non_null(pkey);
	X509_set_version(x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	X509_set_pubkey(x, pkey);
	name = X509_get_subject_name(x);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
				   (const unsigned char *)"localhost", -1, -1,
				   0);
	X509_set_issuer_name(x, name);
	assert_true(X509_sign(x, pkey, EVP_sha256()) > 0);
	f = create(crt);
	PEM_write_X509(f, x);
	fclose(f);
	f = create(key);
	PEM_write_PrivateKey(f, pkey, NULL, NULL, 0, NULL, NULL);
	fclose(f);
	f = create("locked.key");
	PEM_write_PrivateKey(f, pkey, EVP_aes_128_cbc(), NULL, 0, NULL,
			     (void *)(uintptr_t) "secret");
	fclose(f);
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
	make_certificate("other.crt", "other.key");
	make_certificate("a.crt", "a.key"); /* and locked.key is a's */
	f = create("junk");
	fputs("not PEM\n", f);
	fclose(f);
	return 0;
}

static int
remove_dir(void **state)
{
	static const char *const files[] = { "other.crt", "other.key",  "a.crt",
					     "a.key",     "locked.key", "junk",
					     "t.ini" };

	(void)state;
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

	if (n > 0)
		assert_int_equal(SSL_set_alpn_protos(p.client,
						     (const uint8_t *)offered,
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
postgresql_is_chosen_when_offered_and_others_are_ignored(void **state)
{
	struct snapshot *s = loads(CERTIFICATE);

	(void)state;
	chooses(s, NULL, 0, "");
	chooses(s, TLS_ALPN, sizeof(TLS_ALPN) - 1, "postgresql");
	chooses(s, "\002h2" TLS_ALPN, sizeof(TLS_ALPN) + 2, "postgresql");
	chooses(s, "\002h2\005redis", 9, "");
	done(s);
}

static void
a_session_can_be_resumed(void **state)
{
	struct snapshot *s = loads(CERTIFICATE);
	struct pair p = pair_new(s->listen, s->postgres[0]);
	SSL_SESSION *session;
	char byte;

	(void)state;
	assert_true(pair_shake(&p));
	assert_int_equal(SSL_write(p.server, "x", 1), 1);
	assert_int_equal(SSL_read(p.client, &byte, 1), 1); /* and the ticket */
	session = SSL_get1_session(p.client);
	assert_true(SSL_SESSION_is_resumable(session));
	SSL_shutdown(p.client);
	pair_free(&p);
	p = pair_new(s->listen, s->postgres[0]);
	SSL_set_session(p.client, session);
	assert_true(pair_shake(&p));
	assert_true(SSL_session_reused(p.client));
	SSL_SESSION_free(session);
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
		cmocka_unit_test(
		    postgresql_is_chosen_when_offered_and_others_are_ignored),
		cmocka_unit_test(a_session_can_be_resumed),
		cmocka_unit_test(the_modes_the_streams_rely_on_are_set),
		cmocka_unit_test(a_reload_reads_the_certificate_again),
		cmocka_unit_test(the_last_to_leave_frees_it),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
