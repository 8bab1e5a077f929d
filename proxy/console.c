#include "proxy/console.h"

#include <assert.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "protocol/pg.h"
#include "proxy/cancel.h"
#include "proxy/console_shows.h"
#include "proxy/pg_hello.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

enum { OID_TEXT = 25, OID_INT8 = 20, FORMATS_MAX = CONSOLE_COLUMNS };

/* What one can ask for. */
enum wish { WISH_NOTHING, WISH_TABLE, WISH_RELOAD };

struct ask {
	enum wish wish;
	const struct console_table *table;
};

struct name {
	char text[CONSOLE_NAME_MAX + 1];
	struct ask ask;
};

/* On its way over the workers. */
struct gathering {
	struct message message;
	struct weir *weir;
	unsigned home, at;
	uint64_t asker;
	struct console_rows *rows;
};

/* What tells more rows in the next turn; it may come when the asker is gone. */
struct teller {
	struct message message;
	struct session *s; /* NULL: it is */
	bool posted;
};

struct console {
	struct teller *teller;
	struct name name[CONSOLE_NAMES]; /* the unnamed one has no text */
	unsigned names;
	struct name portal; /* the last Bind */
	bool bound;
	uint16_t formats; /* one for all, or one a column; none: text */
	bool binary[FORMATS_MAX];
	bool admin;                /* of admin_users */
	bool skip;                 /* an error was told: ignore up to Sync */
	bool calling;              /* rows are being gathered, ... */
	bool simple;               /* ... for a Query */
	struct console_rows *rows; /* being told, */
	size_t told, n;            /* so many, of these */
};

bool
console_is(const struct conf *c, const char *database)
{
	if (strcmp(database, "weir") != 0 && strcmp(database, "pgbouncer") != 0)
		return false;
	for (size_t i = 0; i < c->database_n; i++)
		if (strcmp(c->database[i].name, database) == 0)
			return false;
	return true;
}

void
console_free(struct console **at)
{
	struct console *k = *at;

	*at = NULL;
	if (k == NULL)
		return;
	console_rows_free(&k->rows);
	k->teller->s = NULL;
	if (!k->teller->posted)
		free(k->teller);
	free(k);
}

/* ---- log-in ----------------------------------------------------------- */

static bool
is_among(const char *name, char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(name, list[i]) == 0)
			return true;
	return false;
}

static void
put(struct session *s, int result)
{
	if (result != 0)
		session_close(s, WHY_SLOW_READER, NULL, NULL);
}

static void
put_welcome(struct session *s)
{
	static const char *const status[][2] = {
		{ "server_version", "15.0 (weir " WEIR_VERSION ")" },
		{ "server_encoding", "UTF8" },
		{ "client_encoding", "UTF8" },
		{ "application_name", "" },
		{ "is_superuser", "off" },
		{ "DateStyle", "ISO, MDY" },
		{ "IntervalStyle", "postgres" },
		{ "TimeZone", "UTC" },
		{ "integer_datetimes", "on" },
		{ "standard_conforming_strings", "on" },
	};
	struct pg_session *ps = pg_session(s);
	struct buf *out = stream_out(&s->stream);
	int r = pg_put(out, 'R', "i", PG_AUTH_OK);

	for (size_t i = 0; i < sizeof(status) / sizeof(status[0]); i++)
		r |= pg_put(out, 'S', "ss", status[i][0], status[i][1]);
	ps->key = cancel_give_key(s->worker, s);
	r |= pg_put(out, 'K', "ii", ps->key.pid, ps->key.secret);
	r |= pg_put_ready(out, 'I');
	if (r != 0)
		abort(); /* the first bytes of any size this client is sent */
}

/* All organizations are seen there. */
static bool
has_organization(const struct session *s, const struct pg_hello *h)
{
	return h->slug != NULL || h->organization != NULL ||
	       s->user->organization != NULL || s->user->organizations_n > 0;
}

static void tell(struct message *, void *owner);

enum step
console_in(struct session *s)
{
	const struct conf *c = s->snapshot->conf;
	struct pg_session *ps = pg_session(s);
	bool admin = is_among(s->user->name, c->admin_users, c->admin_users_n);
	enum why w;

	if (has_organization(s, ps->hello) || ps->hello->replication != NULL ||
	    (!admin &&
	     !is_among(s->user->name, c->stats_users, c->stats_users_n))) {
		session_close(s, WHY_NO_DATABASE, "28000",
			      "the console is for admin_users and stats_users, "
			      "who belong to no organization");
		return STEP_WAIT;
	}
	if (!seats_take(s, s->user, NULL, &w)) {
		session_close(s, w, NULL, NULL);
		return STEP_WAIT;
	}
	if ((ps->console = calloc(1, sizeof(*ps->console))) == NULL ||
	    (ps->console->teller = calloc(1, sizeof(struct teller))) == NULL)
		abort();
	ps->console->teller->message.run = tell;
	ps->console->teller->s = s;
	ps->console->admin = admin;
	put_welcome(s);
	pg_hello_free(ps);
	session_enter(s, SESSION_IDLE);
	session_logged_in(s);
	return STEP_AGAIN;
}

/* ---- answers ---------------------------------------------------------- */

static void
say_error(struct session *s, const char *sqlstate, const char *text)
{
	struct console *k = pg_session(s)->console;

	put(s, pg_put_error(stream_out(&s->stream), "ERROR", sqlstate, text,
			    NULL));
	k->skip = true;
}

static void
say_ready(struct session *s)
{
	put(s, pg_put_ready(stream_out(&s->stream), 'I'));
}

static unsigned
columns_of(const struct console_table *t)
{
	unsigned n = 0;

	while (n < CONSOLE_COLUMNS && t->column[n].type != CONSOLE_NONE)
		n++;
	return n;
}

static bool
is_binary(const struct console *k, unsigned column)
{
	if (k->simple)
		return false;
	return k->formats == 1 ? k->binary[0]
			       : column < k->formats && k->binary[column];
}

/* `told`: how the columns are to come is known. */
static void
say_columns(struct session *s, const struct console_table *t, bool told)
{
	const struct console *k = pg_session(s)->console;
	unsigned n = columns_of(t);
	struct buf body;
	size_t len;
	int r = 0;

	buf_init(&body, 1 << 16);
	for (unsigned i = 0; i < n; i++) {
		bool text = t->column[i].type == CONSOLE_TEXT;

		r |= pg_put_bare(&body, "sihihih", t->column[i].name, 0, 0,
				 text ? OID_TEXT : OID_INT8, text ? -1 : 8, -1,
				 told && is_binary(k, i));
	}
	r |= pg_put(stream_out(&s->stream), 'T', "hb", n,
		    slice_of(buf_peek(&body, &len), buf_len(&body)));
	buf_free(&body);
	put(s, r);
}

static int
put_number(struct buf *b, int64_t number, bool binary)
{
	char text[24];
	int n;

	if (number == CONSOLE_NULL)
		return pg_put_bare(b, "i", -1);
	if (binary)
		return pg_put_bare(b, "iii", 8,
				   (uint32_t)((uint64_t)number >> 32),
				   (uint32_t)number);
	n = snprintf(text, sizeof(text), "%" PRId64, number);
	return pg_put_bare(b, "ib", n, slice_of(text, (size_t)n));
}

static int
put_text(struct buf *b, const char *text)
{
	if (text == NULL)
		return pg_put_bare(b, "i", -1);
	return pg_put_bare(b, "ib", (int)strlen(text),
			   slice_of(text, strlen(text)));
}

static void
say_row(struct session *s, size_t row)
{
	const struct console *k = pg_session(s)->console;
	const struct console_table *t = console_rows_table(k->rows);
	unsigned n = columns_of(t);
	struct buf body;
	size_t len;
	int r = 0;

	buf_init(&body, 1 << 16);
	for (unsigned i = 0; i < n; i++)
		r |= t->column[i].type == CONSOLE_TEXT
			 ? put_text(&body, console_rows_text(k->rows, row, i))
			 : put_number(&body,
				      console_rows_number(k->rows, row, i),
				      is_binary(k, i));
	r |= pg_put(stream_out(&s->stream), 'D', "hb", n,
		    slice_of(buf_peek(&body, &len), buf_len(&body)));
	buf_free(&body);
	put(s, r);
}

/* They are all here. */
static void
begin_rows(struct session *s)
{
	struct console *k = pg_session(s)->console;

	k->n = console_rows_merge(k->rows);
	k->told = 0;
	if (k->simple)
		say_columns(s, console_rows_table(k->rows), true);
}

static void
tell_later(struct session *s)
{
	struct teller *t = pg_session(s)->console->teller;

	t->posted = true;
	mailbox_post(&s->worker->mailbox, &t->message);
}

/* As many as the client reads, and no more than a slice in a turn. */
static void
say_rows(struct session *s)
{
	struct console *k = pg_session(s)->console;
	size_t end = k->told + CONSOLE_SLICE;

	if (k->teller->posted)
		return;
	if (end > k->n)
		end = k->n;
	while (k->told < end && !stream_is_high(&s->stream) &&
	       !session_is_over(s))
		say_row(s, k->told++);
	if (session_is_over(s))
		return;
	if (k->told < k->n) {
		if (!stream_is_high(&s->stream))
			tell_later(s);
		return;
	}
	if (console_rows_cut(k->rows))
		put(s, pg_put(stream_out(&s->stream), 'N', "cscscscsc", 'S',
			      "NOTICE", 'V', "NOTICE", 'C', "54000", 'M',
			      "there are more rows than can be shown", 0));
	put(s, pg_put(stream_out(&s->stream), 'C', "s", "SHOW"));
	if (k->simple)
		say_ready(s);
	console_rows_free(&k->rows);
	k->simple = false;
}

static void
tell(struct message *m, void *owner)
{
	struct teller *t = (struct teller *)(void *)m;

	(void)owner;
	t->posted = false;
	if (t->s == NULL)
		free(t);
	else
		session_run(t->s);
}

/* ---- gathering -------------------------------------------------------- */

static void
gathering_free(struct gathering *g)
{
	console_rows_free(&g->rows);
	free(g);
}

static void
come_home(struct gathering *g, struct worker *w)
{
	struct session *s = w->sessions;

	while (s != NULL && s->id != g->asker)
		s = s->next;
	if (s != NULL && !session_is_over(s)) {
		struct console *k = pg_session(s)->console;

		assert(k->calling && k->rows == NULL);
		k->calling = false;
		k->rows = g->rows;
		g->rows = NULL;
		begin_rows(s);
		session_wake(s);
	}
	gathering_free(g);
}

static void
visit(struct message *m, void *owner)
{
	struct gathering *g = (struct gathering *)(void *)m;
	struct worker *w = owner;

	/* Its last turn: other workers, and the asker, may be no more. */
	if (w->drain_ns != 0 && w->sessions_n == 0) {
		gathering_free(g);
		return;
	}
	if (g->at == g->weir->workers) {
		come_home(g, w);
		return;
	}
	assert(w->id == g->at);
	if (!console_rows_visit(g->rows, w))
		g->at++;
	mailbox_post(
	    g->weir->mailboxes[g->at < g->weir->workers ? g->at : g->home], m);
}

static void
gather(struct session *s, const struct console_table *t)
{
	struct console *k = pg_session(s)->console;
	struct gathering *g;

	if (t->each == NULL) {
		k->rows = console_rows_new(t);
		(void)console_rows_visit(k->rows, s->worker);
		begin_rows(s);
		say_rows(s);
		return;
	}
	if ((g = calloc(1, sizeof(*g))) == NULL)
		abort();
	g->message.run = visit;
	g->weir = s->worker->weir;
	g->home = s->worker->id;
	g->asker = s->id;
	g->rows = console_rows_new(t);
	k->calling = true;
	mailbox_post(g->weir->mailboxes[0], &g->message);
}

/* ---- what is asked ---------------------------------------------------- */

/* The next word of a statement; false: there is none that fits.  A semicolon
 * ends the statement. */
static bool
next_word(const char **at, char *word, size_t size)
{
	const char *p = *at + strspn(*at, " \t\r\n\f\v");
	size_t n = strcspn(p, " \t\r\n\f\v;");

	if (n == 0 || n >= size)
		return false;
	memcpy(word, p, n);
	word[n] = '\0';
	*at = p + n;
	return true;
}

static bool
is_end(const char *p)
{
	return p[strspn(p, " \t\r\n\f\v;")] == '\0';
}

/* false: not understood, and told so. */
static bool
understand(struct session *s, const char *text, struct ask *ask)
{
	const struct console *k = pg_session(s)->console;
	char word[CONSOLE_NAME_MAX + 1];

	*ask = (struct ask){ .wish = WISH_NOTHING };
	if (is_end(text))
		return true;
	if (next_word(&text, word, sizeof(word))) {
		if (strcasecmp(word, "RELOAD") == 0 && is_end(text)) {
			ask->wish = WISH_RELOAD;
			if (k->admin)
				return true;
			say_error(s, "42501", "RELOAD is for admin_users");
			return false;
		}
		if (strcasecmp(word, "SHOW") == 0 &&
		    next_word(&text, word, sizeof(word)) && is_end(text) &&
		    (ask->table = console_table_find(word)) != NULL) {
			ask->wish = WISH_TABLE;
			return true;
		}
	}
	say_error(s, "42601", "not a command of the console: see SHOW HELP");
	return false;
}

static void
carry_out(struct session *s, const struct ask *ask)
{
	struct console *k = pg_session(s)->console;

	switch (ask->wish) {
	case WISH_NOTHING:
		put(s, pg_put(stream_out(&s->stream), 'I', ""));
		break;
	case WISH_TABLE:
		gather(s, ask->table);
		return;
	case WISH_RELOAD:
		kill(getpid(), SIGHUP);
		put(s, pg_put(stream_out(&s->stream), 'C', "s", "RELOAD"));
		break;
	}
	if (k->simple)
		say_ready(s);
	k->simple = false;
}

static void
on_query(struct session *s, struct pg_reader *r)
{
	struct console *k = pg_session(s)->console;
	struct slice text = pg_read_str(r);
	struct ask ask;

	k->simple = true;
	if (understand(s, (const char *)text.p, &ask)) {
		carry_out(s, &ask);
		return;
	}
	k->simple = k->skip = false;
	say_ready(s);
}

/* ---- the extended protocol -------------------------------------------- */

static struct name *
find_name(struct console *k, const char *text)
{
	for (unsigned i = 0; i < k->names; i++)
		if (strcmp(k->name[i].text, text) == 0)
			return &k->name[i];
	return NULL;
}

static void
on_parse(struct session *s, struct pg_reader *r)
{
	struct console *k = pg_session(s)->console;
	const char *name = (const char *)pg_read_str(r).p;
	const char *text = (const char *)pg_read_str(r).p;
	struct name *at;
	struct ask ask;

	if (r->bad)
		return;
	at = find_name(k, name);
	if (at != NULL && name[0] != '\0') {
		say_error(s, "42P05", "prepared statement already exists");
	} else if (strlen(name) > CONSOLE_NAME_MAX ||
		   (at == NULL && k->names == CONSOLE_NAMES)) {
		say_error(s, "54000", "too many prepared statements");
	} else if (understand(s, text, &ask)) {
		if (at == NULL) {
			at = &k->name[k->names++];
			strcpy(at->text, name);
		}
		at->ask = ask;
		put(s, pg_put(stream_out(&s->stream), '1', ""));
	}
}

/* false: malformed. */
static bool
read_formats(struct console *k, struct pg_reader *r)
{
	k->formats = pg_read_u16(r);
	if (k->formats > FORMATS_MAX)
		return false;
	for (unsigned i = 0; i < k->formats; i++) {
		unsigned format = pg_read_u16(r);

		if (format > 1)
			return false;
		k->binary[i] = format;
	}
	return true;
}

static void
on_bind(struct session *s, struct pg_reader *r)
{
	struct console *k = pg_session(s)->console;
	const char *portal = (const char *)pg_read_str(r).p;
	const char *name = (const char *)pg_read_str(r).p;
	const struct name *at;
	unsigned formats = pg_read_u16(r);

	k->bound = false;
	pg_read_bytes(r, 2 * (size_t)formats);
	if (pg_read_u16(r) != 0 || !read_formats(k, r) ||
	    strlen(portal) > CONSOLE_NAME_MAX) {
		say_error(s, "08P01", "the console takes no parameters");
		return;
	}
	if (r->bad)
		return;
	if ((at = find_name(k, name)) == NULL) {
		say_error(s, "26000", "prepared statement does not exist");
		return;
	}
	k->portal = *at;
	strcpy(k->portal.text, portal);
	k->bound = true;
	put(s, pg_put(stream_out(&s->stream), '2', ""));
}

static bool
is_bound(const struct console *k, const char *portal)
{
	return k->bound && strcmp(k->portal.text, portal) == 0;
}

static void
on_describe(struct session *s, struct pg_reader *r)
{
	struct console *k = pg_session(s)->console;
	bool statement = pg_read_u8(r) == 'S';
	const char *name = (const char *)pg_read_str(r).p;
	const struct name *at;

	if (r->bad)
		return;
	at = statement           ? find_name(k, name)
	     : is_bound(k, name) ? &k->portal
				 : NULL;
	if (at == NULL) {
		say_error(s, statement ? "26000" : "34000",
			  statement ? "prepared statement does not exist"
				    : "portal does not exist");
		return;
	}
	if (statement)
		put(s, pg_put(stream_out(&s->stream), 't', "h", 0));
	if (at->ask.wish == WISH_TABLE)
		say_columns(s, at->ask.table, !statement);
	else
		put(s, pg_put(stream_out(&s->stream), 'n', ""));
}

static void
on_execute(struct session *s, struct pg_reader *r)
{
	struct console *k = pg_session(s)->console;
	const char *portal = (const char *)pg_read_str(r).p;

	pg_read_u32(r); /* all rows come at once, however few are asked for */
	if (r->bad)
		return;
	if (is_bound(k, portal))
		carry_out(s, &k->portal.ask);
	else
		say_error(s, "34000", "portal does not exist");
}

static void
on_close(struct session *s, struct pg_reader *r)
{
	struct console *k = pg_session(s)->console;
	bool statement = pg_read_u8(r) == 'S';
	const char *name = (const char *)pg_read_str(r).p;
	struct name *at;

	if (r->bad)
		return;
	if (!statement && is_bound(k, name))
		k->bound = false;
	if (statement && (at = find_name(k, name)) != NULL)
		*at = k->name[--k->names];
	put(s, pg_put(stream_out(&s->stream), '3', ""));
}

static void
on_message(struct session *s, uint8_t type, struct pg_reader *r)
{
	struct console *k = pg_session(s)->console;

	if (type == 'S') {
		k->skip = false;
		say_ready(s);
		return;
	}
	if (type == 'X') {
		session_close(s, WHY_QUIT, NULL, NULL);
		return;
	}
	if (k->skip)
		return;
	switch (type) {
	case 'Q':
		on_query(s, r);
		break;
	case 'P':
		on_parse(s, r);
		break;
	case 'B':
		on_bind(s, r);
		break;
	case 'D':
		on_describe(s, r);
		break;
	case 'E':
		on_execute(s, r);
		break;
	case 'C':
		on_close(s, r);
		break;
	case 'H':
		break;
	default:
		session_close(s, WHY_BAD_FRAME, NULL, NULL);
		return;
	}
	if (r->bad)
		session_close(s, WHY_BAD_FRAME, NULL, NULL);
}

enum step
console_step(struct session *s)
{
	struct console *k = pg_session(s)->console;
	struct pg_frame f;
	size_t n;

	if (k->rows != NULL)
		say_rows(s);
	while (!session_is_over(s) && !k->calling && k->rows == NULL) {
		const uint8_t *p = stream_peek(&s->stream, &n);
		int got = pg_frame_next(&f, p, n);
		struct pg_reader r;

		if (got < 0 || (got > 0 && f.size > CONSOLE_MESSAGE)) {
			session_close(s, WHY_BAD_FRAME, NULL, NULL);
			return STEP_WAIT;
		}
		if (got == 0 || n < f.size)
			break;
		r = pg_reader(p + PG_HEADER, f.size - PG_HEADER);
		on_message(s, f.type, &r);
		if (!session_is_over(s))
			stream_consume(&s->stream, f.size);
	}
	if (session_is_over(s))
		return STEP_WAIT;
	if (s->worker->drain_ns != 0 && !k->calling && k->rows == NULL)
		session_close(s, WHY_SHUTDOWN, NULL, NULL);
	else
		session_rearm(s);
	return STEP_WAIT;
}
