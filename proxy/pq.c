#include "proxy/pq.h"

#include <assert.h>
#include <libpq-fe.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* libpq says what happened in several lines, the last of which may be empty. */
static void
keep_error(char out[CONTROL_ERROR_MAX], const char *text)
{
	snprintf(out, CONTROL_ERROR_MAX, "%s", text);
	for (size_t n = strlen(out); n > 0 && out[n - 1] == '\n'; n--)
		out[n - 1] = '\0';
}

static void
pq_enter(struct pq *q, enum pq_state to)
{
	assert(q->state != PQ_GONE);
	q->state = to;
	if (to == PQ_GONE && q->error[0] == '\0')
		keep_error(q->error, PQerrorMessage(q->conn));
}

/* ---- dialing ---------------------------------------------------------- */

static const char *
sslmode_word(enum conf_sslmode mode)
{
	static const char *const words[] = {
		[SSLMODE_DISABLE] = "disable",
		[SSLMODE_ALLOW] = "allow",
		[SSLMODE_PREFER] = "prefer",
		[SSLMODE_REQUIRE] = "require",
		[SSLMODE_VERIFY_CA] = "verify-ca",
		[SSLMODE_VERIFY_FULL] = "verify-full",
	};

	return words[mode];
}

/*
 * Without a file libpq verifies by one in the home directory; we verify by the
 * system's authorities, which it is to be told by name.
 */
static const char *
rootcert(const struct conf_postgres *up)
{
	static const char bundle[] = "/etc/ssl/certs/ca-certificates.crt";
	const char *file = getenv(X509_get_default_cert_file_env());

	if (up->sslmode < SSLMODE_VERIFY_CA ||
	    (up->sslrootcert != NULL &&
	     strcmp(up->sslrootcert, CONF_ROOTCERT_SYSTEM) != 0))
		return up->sslrootcert;
	if (file == NULL)
		file = X509_get_default_cert_file();
	return access(file, R_OK) == 0 ? file : bundle;
}

static const char *
role_word(enum conf_role role)
{
	return role == ROLE_PRIMARY   ? "primary"
	       : role == ROLE_STANDBY ? "standby"
				      : NULL;
}

/* A notice is nobody's business here, and libpq would print it. */
static void
no_notice(void *arg, const char *message)
{
	(void)arg;
	(void)message;
}

static void on_event(evutil_socket_t fd, short what, void *arg);

/* Once: libpq may change its socket, so each wait names it anew. */
static void
pq_wait(struct pq *q, short what)
{
	event_del(&q->event);
	event_assign(&q->event, q->base, PQsocket(q->conn), what, on_event, q);
	if (event_add(&q->event, NULL) != 0)
		abort();
}

int
pq_open(struct pq *q, struct event_base *base, const struct conf_postgres *up,
	const struct pq_place *place, const char *dbname,
	void (*changed)(struct pq *))
{
	char port[8];
	/* What is not said here comes from weir's own environment, as with
	 * any client; nothing comes from weir's clients. */
	const char *const option[][2] = {
		{ "host", place->host },
		{ "hostaddr", place->address },
		{ "port", port },
		{ "dbname", dbname },
		{ "user", up->user },
		{ "password", up->password },
		{ "sslmode", sslmode_word(up->sslmode) },
		{ "sslrootcert", rootcert(up) },
		{ "sslcert", up->sslcert },
		{ "sslkey", up->sslkey },
		{ "gssencmode", "disable" },
		{ "application_name", "weir" },
		{ "target_session_attrs", role_word(up->target_role) },
	};
	enum { OPTIONS = sizeof(option) / sizeof(option[0]) };
	const char *name[OPTIONS + 1] = { 0 }, *value[OPTIONS + 1] = { 0 };

	assert(up->user != NULL);
	*q = (struct pq){ .base = base, .changed = changed };
	event_assign(&q->event, base, -1, 0, on_event, q);
	snprintf(port, sizeof(port), "%u", place->port);
	for (size_t i = 0, n = 0; i < OPTIONS; i++) {
		if (option[i][1] == NULL)
			continue;
		name[n] = option[i][0];
		value[n++] = option[i][1];
	}
	if ((q->conn = PQconnectStartParams(name, value, 0)) == NULL)
		abort();
	PQsetNoticeProcessor(q->conn, no_notice, NULL);
	if (PQstatus(q->conn) == CONNECTION_BAD) {
		pq_enter(q, PQ_GONE);
		return -1;
	}
	pq_wait(q, EV_WRITE);
	return 0;
}

static void
pq_dial(struct pq *q)
{
	event_del(&q->event);
	switch (PQconnectPoll(q->conn)) {
	case PGRES_POLLING_READING:
		pq_wait(q, EV_READ);
		return;
	case PGRES_POLLING_WRITING:
		pq_wait(q, EV_WRITE);
		return;
	case PGRES_POLLING_OK:
		if (PQsetnonblocking(q->conn, 1) != 0)
			break;
		pq_wait(q, EV_READ);
		pq_enter(q, PQ_IDLE);
		q->changed(q);
		return;
	case PGRES_POLLING_FAILED:
	case PGRES_POLLING_ACTIVE:
		break;
	}
	pq_enter(q, PQ_GONE);
	q->changed(q);
}

/* ---- questions -------------------------------------------------------- */

static void
pq_notify(struct pq *q)
{
	PGnotify *n;

	while ((n = PQnotifies(q->conn)) != NULL) {
		if (q->notified != NULL)
			q->notified(q, n->extra);
		PQfreemem(n);
	}
}

bool
pq_is_alive(struct pq *q)
{
	assert(q->state == PQ_IDLE);
	if (PQconsumeInput(q->conn) != 1)
		return false;
	pq_notify(q);
	return PQstatus(q->conn) == CONNECTION_OK;
}

int
pq_ask(struct pq *q, struct control_ask *ask)
{
	assert(q->state == PQ_IDLE && q->ask == NULL);
	if (PQsendQueryParams(q->conn, ask->sql, (int)ask->params, NULL,
			      (const char *const *)ask->param, NULL, NULL,
			      0) != 1) {
		pq_enter(q, PQ_GONE);
		return -1;
	}
	/* Row by row, so that an answer without end can be left. */
	(void)PQsetSingleRowMode(q->conn);
	ask->result = CONTROL_DOWN;
	q->ask = ask;
	pq_enter(q, PQ_BUSY);
	pq_wait(q, EV_READ | EV_WRITE);
	return 0;
}

/* Of 63 bytes at most each, and as many as a row may have. */
static void
take_names(struct control_ask *ask, const PGresult *r)
{
	ask->column = calloc(ask->columns + 1, sizeof(*ask->column));
	if (ask->column == NULL)
		abort();
	for (unsigned i = 0; i < ask->columns; i++)
		if ((ask->column[i] = strdup(PQfname(r, (int)i))) == NULL)
			abort();
}

/* False: it is more than was asked for. */
static bool
take_row(struct control_ask *ask, const PGresult *r)
{
	unsigned columns = (unsigned)PQnfields(r);
	size_t n = (size_t)ask->rows * columns;

	if (ask->rows == ask->rows_max)
		return false;
	ask->columns = columns;
	ask->value =
	    realloc(ask->value, (n + columns + 1) * sizeof(*ask->value));
	if (ask->value == NULL)
		abort();
	memset(ask->value + n, 0, columns * sizeof(*ask->value));
	if (ask->rows++ == 0)
		take_names(ask, r);
	for (int i = 0; i < (int)columns; i++) {
		size_t size = (size_t)PQgetlength(r, 0, i) + 1;

		if ((ask->bytes += size) > CONTROL_BYTES)
			return false;
		if (PQgetisnull(r, 0, i))
			continue;
		if ((ask->value[n + (size_t)i] = malloc(size)) == NULL)
			abort();
		memcpy(ask->value[n + (size_t)i], PQgetvalue(r, 0, i), size);
	}
	return true;
}

static void
take_error(struct pq *q, const PGresult *r)
{
	const char *code = PQresultErrorField(r, PG_DIAG_SQLSTATE);
	const char *text = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);

	if (code != NULL)
		snprintf(q->ask->sqlstate, sizeof(q->ask->sqlstate), "%s",
			 code);
	keep_error(q->ask->error, text ? text : PQresultErrorMessage(r));
	q->ask->result =
	    PQstatus(q->conn) == CONNECTION_OK ? CONTROL_REFUSED : CONTROL_DOWN;
}

/* False: the connection cannot go on after it. */
static bool
take_result(struct pq *q, const PGresult *r)
{
	switch (PQresultStatus(r)) {
	case PGRES_SINGLE_TUPLE:
		if (take_row(q->ask, r))
			return true;
		q->ask->result = CONTROL_TOO_BIG;
		keep_error(q->ask->error, "the answer is too big");
		return false;
	case PGRES_TUPLES_OK:
		q->ask->columns = (unsigned)PQnfields(r);
		q->ask->result = CONTROL_OK;
		return true;
	case PGRES_COMMAND_OK:
	case PGRES_EMPTY_QUERY:
		q->ask->result = CONTROL_OK;
		return true;
	case PGRES_FATAL_ERROR:
	case PGRES_BAD_RESPONSE:
	case PGRES_NONFATAL_ERROR:
		take_error(q, r);
		return PQstatus(q->conn) == CONNECTION_OK;
	case PGRES_COPY_OUT:
	case PGRES_COPY_IN:
	case PGRES_COPY_BOTH:
	case PGRES_PIPELINE_SYNC:
	case PGRES_PIPELINE_ABORTED:
		break;
	}
	q->ask->result = CONTROL_REFUSED;
	keep_error(q->ask->error, "the query does not return rows");
	return false;
}

static void
pq_answered(struct pq *q, bool can_go_on)
{
	if (q->ask->result == CONTROL_DOWN && q->ask->error[0] == '\0')
		keep_error(q->ask->error, PQerrorMessage(q->conn));
	if (can_go_on && PQstatus(q->conn) == CONNECTION_OK &&
	    PQtransactionStatus(q->conn) == PQTRANS_IDLE) {
		pq_wait(q, EV_READ);
		pq_enter(q, PQ_IDLE);
	} else {
		event_del(&q->event);
		pq_enter(q, PQ_GONE);
	}
	q->changed(q);
}

static void
pq_listen(struct pq *q, short what)
{
	int more = 0;

	/* What fails here is told by the result that follows. */
	if (what & EV_READ)
		(void)PQconsumeInput(q->conn);
	more = PQflush(q->conn);
	pq_notify(q);
	while (!PQisBusy(q->conn)) {
		PGresult *r = PQgetResult(q->conn);
		bool ok = r == NULL || take_result(q, r);

		PQclear(r);
		if (r == NULL || !ok) {
			pq_answered(q, ok);
			return;
		}
	}
	pq_wait(q, more > 0 ? EV_READ | EV_WRITE : EV_READ);
}

static void
on_event(evutil_socket_t fd, short what, void *arg)
{
	struct pq *q = arg;

	(void)fd;
	switch (q->state) {
	case PQ_DIAL:
		pq_dial(q);
		break;
	case PQ_IDLE:
		if (pq_is_alive(q)) {
			pq_wait(q, EV_READ);
		} else {
			pq_enter(q, PQ_GONE);
			q->changed(q);
		}
		break;
	case PQ_BUSY:
		pq_listen(q, what);
		break;
	case PQ_GONE:
		break;
	}
}

void
pq_close(struct pq *q)
{
	assert(q->ask == NULL);
	event_del(&q->event);
	PQfinish(q->conn);
	q->conn = NULL;
	q->state = PQ_GONE;
}
