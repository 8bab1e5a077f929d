#include "protocol/sql.h"

#include <assert.h>

enum token { END, WORD, PUNCT, OTHER };

struct lexer {
	const char *p, *end;
	const char *word; /* the last WORD, not NUL-terminated */
	size_t word_n;
	char punct;
	bool quoted; /* that word stood in quotes: it is no keyword */
	bool
	    escapes; /* the last token was E'...': a string behind it goes on */
	bool odd;    /* met what we do not read: be careful */
};

enum { SPACE = 1, START = 2, NAME = 4, DIGIT = 8 };

/* What a byte can be: PostgreSQL's lexer, and bytes above 127 are letters. */
static const uint8_t kind_of[256] = {
	['\t'] = SPACE,
	['\n'] = SPACE,
	['\v'] = SPACE,
	['\f'] = SPACE,
	['\r'] = SPACE,
	[' '] = SPACE,
	['$'] = NAME,
	['_'] = START | NAME,
	['0' ... '9'] = NAME | DIGIT,
	['A' ... 'Z'] = START | NAME,
	['a' ... 'z'] = START | NAME,
	[128 ... 255] = START | NAME,
};

static inline bool
is_kind(char c, unsigned kind)
{
	return kind_of[(uint8_t)c] & kind;
}

static inline bool
is_word_start(char c)
{
	return is_kind(c, START);
}

static inline bool
is_word_char(char c)
{
	return is_kind(c, NAME);
}

/* Block comments nest in PostgreSQL. */
static void
skip_block_comment(struct lexer *l)
{
	int depth = 1;

	for (l->p += 2; l->p < l->end && depth > 0; l->p++) {
		if (l->end - l->p < 2)
			continue;
		if (l->p[0] == '/' && l->p[1] == '*') {
			depth++;
			l->p++;
		} else if (l->p[0] == '*' && l->p[1] == '/') {
			depth--;
			l->p++;
		}
	}
}

static void
skip_line_comment(struct lexer *l)
{
	while (l->p < l->end && *l->p != '\n' && *l->p != '\r')
		l->p++;
}

/*
 * At the opening quote; a doubled quote is one inside.  In some encodings of
 * clients (SJIS, BIG5, GBK) a backslash can be the second half of a character:
 * then where the string ends cannot be told from here.
 */
static void
skip_quoted(struct lexer *l, char quote, bool backslash)
{
	for (l->p++; l->p < l->end; l->p++) {
		if (backslash && *l->p == '\\' && l->end - l->p > 1) {
			if ((l->p[-1] & 0x80) &&
			    (l->p[1] == '\\' || l->p[1] == quote))
				l->odd = true;
			l->p++;
		} else if (backslash && *l->p == '_' &&
			   (uint8_t)l->p[-1] == 0x81) {
			l->odd = true; /* a backslash in SHIFT_JIS_2004 */
		} else if (*l->p == quote) {
			if (l->end - l->p > 1 && l->p[1] == quote)
				l->p++;
			else
				break;
		}
	}
	if (l->p < l->end)
		l->p++;
}

/*
 * Where a name seems to end behind a byte beyond ASCII: in those encodings what
 * follows can be the second half of a character, and the name go on.  That
 * matters where what follows could begin a quote.
 */
static void
doubt_end(struct lexer *l, const char *start, bool always)
{
	const char *p = l->p, *from;

	while (p > start && p < l->end && (p[-1] & 0x80) && *p >= '@' &&
	       *p <= '~' && !is_word_char(*p)) {
		from = ++p;
		while (p < l->end && is_word_char(*p))
			p++;
		l->odd |= always || memchr(from, '$', (size_t)(p - from)) ||
			  (p < l->end && p > from && (*p == '\'' || *p == '&'));
	}
}

/* At a `$`: a dollar quote is skipped as a whole, anything else is a sign. */
static void
skip_dollar(struct lexer *l)
{
	const char *tag = l->p++, *body;
	size_t n;

	while (l->p < l->end && *l->p != '$' && is_word_char(*l->p))
		l->p++;
	if (l->p == l->end || *l->p != '$' || is_kind(tag[1], DIGIT)) {
		doubt_end(l, tag, true);
		while (l->p < l->end && is_kind(*l->p, DIGIT))
			l->p++;
		return; /* $1, or nothing we know */
	}
	n = (size_t)(++l->p - tag);
	/* SJIS, BIG5 and EUC_JP have two spellings of one character. */
	for (size_t i = 0; i < n; i++)
		l->odd |= (tag[i] & 0x80) != 0;
	body = l->p;
	l->p = memmem(body, (size_t)(l->end - body), tag, n);
	l->p = l->p == NULL ? l->end : l->p + n;
}

static enum token
next_name(struct lexer *l)
{
	const char *start = l->p, *end = l->end, *p = start;

	while (p < end && is_word_char(*p))
		p++;
	l->p = p;
	l->word = start;
	l->word_n = (size_t)(p - start);
	l->quoted = false;
	if (p > start && (p[-1] & 0x80))
		doubt_end(l, start, false);
	if (l->word_n == 1 && l->p < l->end && *l->p == '\'') {
		/* E'..\'..', B'..', X'..', N'..' */
		l->escapes = (start[0] | 32) == 'e';
		skip_quoted(l, '\'', l->escapes);
		return OTHER;
	}
	if (l->word_n == 1 && (start[0] | 32) == 'u' && l->p < l->end &&
	    *l->p == '&')
		l->odd = true; /* U&"..." can spell any name */
	return WORD;
}

static enum token
next_quoted_name(struct lexer *l)
{
	const char *start = l->p + 1;

	skip_quoted(l, '"', false);
	l->word = start;
	l->word_n = (size_t)(l->p - start);
	l->word_n -= l->word_n > 0 && l->p[-1] == '"';
	l->quoted = true;
	return WORD;
}

static enum token
next_number(struct lexer *l)
{
	const char *start = l->p;

	while (l->p < l->end && (is_word_char(*l->p) || *l->p == '.'))
		l->p++;
	doubt_end(l, start, false);
	return OTHER;
}

/* What is neither space, comment nor name. */
static enum token
next_other(struct lexer *l, bool goes_on)
{
	char c = *l->p;

	switch (c) {
	case '\'':
		/* E'a' and 'b' on the next line are one E'ab'. */
		l->escapes = goes_on;
		skip_quoted(l, '\'', goes_on);
		return OTHER;
	case '"':
		return next_quoted_name(l);
	case '$':
		skip_dollar(l);
		return OTHER;
	default:
		if (is_kind(c, DIGIT))
			return next_number(l);
		l->punct = c;
		l->p++;
		return PUNCT;
	}
}

static inline bool
is_two(const struct lexer *l, char a, char b)
{
	return l->end - l->p > 1 && l->p[0] == a && l->p[1] == b;
}

static enum token
next_token(struct lexer *l)
{
	bool goes_on = l->escapes;

	l->escapes = false;
	for (;;) {
		const char *p = l->p, *end = l->end;

		while (p < end && is_kind(*p, SPACE))
			p++;
		l->p = p;
		if (p == end)
			return END;
		if (is_word_start(*p))
			return next_name(l);
		if (is_two(l, '-', '-'))
			skip_line_comment(l);
		else if (is_two(l, '/', '*'))
			skip_block_comment(l);
		else
			return next_other(l, goes_on);
	}
}

/* Most differ in their first letters: there is nothing to call. */
static inline bool
same_letters(const char *word, const char *lower, size_t n)
{
	size_t i = 0;

	while (i < n &&
	       (word[i] == lower[i] || (word[i] >= 'A' && word[i] <= 'Z' &&
					(word[i] | 32) == lower[i])))
		i++;
	return i == n;
}

static inline bool
is(const struct lexer *l, const char *word)
{
	size_t n = strlen(word);

	return l->word_n == n && same_letters(l->word, word, n);
}

static inline bool
begins(const struct lexer *l, const char *prefix)
{
	size_t n = strlen(prefix);

	return l->word_n >= n && same_letters(l->word, prefix, n);
}

/* An unquoted one: what can be a keyword. */
static inline bool
is_key(const struct lexer *l, const char *word)
{
	return !l->quoted && is(l, word);
}

static bool
next_is(struct lexer *l, const char *word)
{
	return next_token(l) == WORD && is_key(l, word);
}

/* ---- names and values ------------------------------------------------- */

/* The word just read, behind what is in `out`, as the server takes it. */
static bool
add_word(const struct lexer *l, char *out, size_t max)
{
	size_t at = strlen(out);

	if (l->word_n == 0 || l->word_n >= max - at ||
	    memchr(l->word, '"', l->word_n) != NULL)
		return false;
	for (size_t i = 0; i < l->word_n; i++) {
		char c = l->word[i];

		out[at + i] =
		    !l->quoted && c >= 'A' && c <= 'Z' ? (char)(c | 32) : c;
	}
	out[at + l->word_n] = '\0';
	return true;
}

/* A plain '...' of no more than fits, without a backslash. */
static bool
read_literal(struct lexer *l, char *out, size_t max)
{
	const char *p, *end;
	size_t n = 0;

	while (l->p < l->end && is_kind(*l->p, SPACE))
		l->p++;
	p = l->p;
	if (p == l->end || *p != '\'' || next_token(l) != OTHER || l->odd)
		return false;
	end = l->p - 1;
	if (end <= p || *end != '\'')
		return false;
	for (p++; p < end; p++) {
		if (*p == '\\' || *p == '\0' || n + 1 >= max)
			return false;
		p += *p == '\'';
		out[n++] = *p;
	}
	out[n] = '\0';
	return true;
}

/* name[.name]; what follows it is read already, as *t says. */
static bool
read_setting(struct lexer *l, char name[SQL_NAME_MAX], enum token *t)
{
	name[0] = '\0';
	for (;;) {
		if (!add_word(l, name, SQL_NAME_MAX))
			return false;
		*t = next_token(l);
		if (*t != PUNCT || l->punct != '.')
			return true;
		if (strlen(name) + 1 >= SQL_NAME_MAX || next_token(l) != WORD)
			return false;
		strcat(name, ".");
	}
}

/* ---- settings that go along ------------------------------------------- */

/*
 * Those that stay with their server: RESET ALL leaves them as they are, or
 * set_config() does not take them everywhere, or whoever comes next would wait
 * or be cut off because of them.
 */
static const char *const staying[] = { "role",
				       "session_authorization",
				       "is_superuser",
				       "seed",
				       "transaction_isolation",
				       "transaction_read_only",
				       "transaction_deferrable",
				       "default_transaction_deferrable",
				       "standard_conforming_strings",
				       "idle_session_timeout",
				       "tcp_user_timeout",
				       "temp_buffers",
				       "transform_null_equals",
				       "null",
				       NULL };

/* In lower case, of letters that need no quoting anywhere. */
static bool
goes_along(char *name)
{
	size_t n = strlen(name);

	for (char *p = name; *p != '\0'; p++) {
		if (*p >= 'A' && *p <= 'Z')
			*p |= 32;
		if (!is_kind(*p, START | DIGIT) && *p != '.')
			return false;
		if (*p & 0x80)
			return false;
	}
	for (size_t i = 0; staying[i] != NULL; i++)
		if (strcmp(name, staying[i]) == 0)
			return false;
	return n > 0;
}

/* False: it stays where it is, or there is no room. */
static bool
add_set(struct sql_sets *sets, const char *name)
{
	char *to = sets->name[sets->n];

	if (sets->n == SQL_SETS_MAX || strlen(name) >= SQL_NAME_MAX)
		return false;
	strcpy(to, name);
	if (!goes_along(to))
		return false;
	for (unsigned i = 0; i < sets->n; i++)
		if (strcmp(sets->name[i], to) == 0)
			return true;
	sets->n++;
	return true;
}

/* Behind SET SESSION CHARACTERISTICS. */
static bool
sets_characteristics(const struct lexer *at, struct sql_sets *sets)
{
	struct lexer l = *at;
	enum token t;

	while ((t = next_token(&l)) != END && (t != PUNCT || l.punct != ';'))
		if (t == WORD && is_key(&l, "deferrable"))
			return false;
	return add_set(sets, "default_transaction_isolation") &&
	       add_set(sets, "default_transaction_read_only");
}

/* Is `on` what it is set to?  At the value. */
static bool
is_on(const struct lexer *at)
{
	struct lexer l = *at;
	char value[8];

	if (read_literal(&l, value, sizeof(value)))
		return strcasecmp(value, "on") == 0;
	l = *at;
	return next_token(&l) == WORD && (is(&l, "on") || is(&l, "true"));
}

/* SET TIME ZONE and its like are other words for a setting. */
static const struct {
	const char *word, *second, *name;
} set_as[] = { { "time", "zone", "timezone" },
	       { "names", NULL, "client_encoding" },
	       { "schema", NULL, "search_path" },
	       { "xml", "option", "xmloption" } };

/* Behind SET, of which neither LOCAL nor TRANSACTION follows. */
static bool
sets_by_set(const struct lexer *at, struct sql_sets *sets)
{
	struct lexer l = *at, after;
	char name[SQL_NAME_MAX];
	enum token t;

	if (next_token(&l) != WORD)
		return false;
	after = l;
	if (is_key(&l, "session") && next_token(&after) == WORD &&
	    !is_key(&after, "to")) {
		l = after;
		if (is_key(&l, "characteristics"))
			return sets_characteristics(&l, sets);
		if (is_key(&l, "authorization"))
			return false;
	}
	for (size_t i = 0; i < sizeof(set_as) / sizeof(set_as[0]); i++) {
		after = l;
		if (!is_key(&l, set_as[i].word) ||
		    (set_as[i].second != NULL &&
		     !next_is(&after, set_as[i].second)))
			continue;
		t = next_token(&after);
		if (t != PUNCT && (t != WORD || !is_key(&after, "to")))
			return add_set(sets, set_as[i].name);
	}
	if (!read_setting(&l, name, &t) || l.odd)
		return false;
	if ((t != PUNCT || l.punct != '=') &&
	    (t != WORD || (!is_key(&l, "to") && !is_key(&l, "from"))))
		return false;
	/* So drivers begin, where it is on anyway; off, texts are misread. */
	if (strcasecmp(name, "standard_conforming_strings") == 0)
		return is_on(&l);
	return add_set(sets, name);
}

/* Behind set_config. */
static bool
sets_by_config(const struct lexer *at, struct sql_sets *sets)
{
	struct lexer l = *at;
	char name[SQL_NAME_MAX];

	return next_token(&l) == PUNCT && l.punct == '(' &&
	       read_literal(&l, name, sizeof(name)) &&
	       next_token(&l) == PUNCT && l.punct == ',' && add_set(sets, name);
}

/* What stays, but for what can be repeated. */
static unsigned
pins_or_tracks(bool tracks)
{
	return tracks ? SQL_TRACKS : SQL_PIN;
}

/* ---- statements ------------------------------------------------------- */

/* Is the setting named by a plain literal, all of it, and not one that says
 * who the session is? */
static bool
names_plainly(const struct lexer *at)
{
	struct lexer l = *at;
	struct slice name;

	if (next_token(&l) != PUNCT || l.punct != '(')
		return false;
	while (l.p < l.end && is_kind(*l.p, SPACE))
		l.p++;
	name.p = (const uint8_t *)l.p;
	if (l.p == l.end || *l.p != '\'' || next_token(&l) != OTHER)
		return false;
	name.n = (size_t)((const uint8_t *)l.p - name.p);
	return !slice_is_word(name, "'role'") &&
	       !slice_is_word(name, "'session_authorization'") &&
	       next_token(&l) == PUNCT && l.punct == ',';
}

/*
 * pg_dump sets so what not every minor version has.  The name comes from a
 * column, which a search_path may make any column; but nobody's organization
 * or role has that value, so that it may pass all the same.
 */
static bool
is_pg_dump_s(const struct lexer *at)
{
	static const char text[] =
	    "(name, 'view, foreign-table', false) FROM pg_settings"
	    " WHERE name = 'restrict_nonsystem_relation_kind'";
	size_t n = sizeof(text) - 1;

	return n <= (size_t)(at->end - at->p) && memcmp(at->p, text, n) == 0;
}

/* set_config(name, value, true) ends with its transaction; else it stays. */
static unsigned
scan_set_config(const struct lexer *at)
{
	bool plain = names_plainly(at) || is_pg_dump_s(at);
	unsigned flags = SQL_SETTING | (plain ? 0 : SQL_HIDES);
	struct lexer l = *at;
	int depth = 0, commas = 0;
	enum token t;

	while ((t = next_token(&l)) != END) {
		if (t == PUNCT && (l.punct == '(' || l.punct == '['))
			depth++;
		else if (t == PUNCT && (l.punct == ')' || l.punct == ']'))
			depth--;
		else if (t == PUNCT && l.punct == ',' && depth == 1)
			commas++;
		else if (depth == 1 && commas == 2 && t == WORD &&
			 is_key(&l, "true") && next_token(&l) == PUNCT &&
			 l.punct == ')')
			return flags;
		else if (depth == 1 && commas == 2)
			break;
		if (depth < 1)
			break;
	}
	return flags |
	       pins_or_tracks(sets_by_config(at, &(struct sql_sets){ 0 }));
}

/* SET [SESSION | LOCAL] ROLE and its like: who the session is. */
static unsigned
scan_identity(const struct lexer *at)
{
	struct lexer l = *at;

	if (next_token(&l) != WORD)
		return SQL_HIDES;
	while (is_key(&l, "session") || is_key(&l, "local"))
		if (next_token(&l) != WORD)
			return 0; /* SET session.x */
	return is(&l, "role") || is(&l, "authorization") ||
		       is(&l, "session_authorization")
		   ? SQL_HIDES
		   : 0;
}

/*
 * SET LOCAL and SET TRANSACTION end with their transaction.  But `SET local.x`
 * is a setting like any other: a name follows only the keyword.
 */
static unsigned
scan_set(const struct lexer *at)
{
	struct lexer l = *at;
	bool local, transaction;

	if (next_token(&l) == WORD) {
		local = is_key(&l, "local");
		transaction =
		    is_key(&l, "transaction") || is_key(&l, "constraints");
		if ((local || transaction) && next_token(&l) == WORD &&
		    !is_key(&l, "to"))
			return local ? SQL_SETTING : 0;
	}
	return SQL_SETTING |
	       pins_or_tracks(sets_by_set(at, &(struct sql_sets){ 0 }));
}

/* The proxy's own statements have names that can be guessed: some would set
 * anything for whoever executes them, all are missed when they are gone. */
static unsigned
scan_own(const struct lexer *l)
{
	return begins(l, "weir_") ? SQL_PIN | SQL_SETTING | SQL_HIDES : 0;
}

static unsigned
scan_execute(const struct lexer *at)
{
	struct lexer l = *at;

	return next_token(&l) == WORD ? scan_own(&l) : 0;
}

/* Dropped are the client's own; all of them, and a command tag will say so. */
static unsigned
scan_deallocate(const struct lexer *at)
{
	struct lexer l = *at;

	if (next_token(&l) != WORD)
		return 0;
	if (is_key(&l, "prepare") && next_token(&l) != WORD)
		return 0;
	return is_key(&l, "all") ? SQL_FORGETS : SQL_DROPS | scan_own(&l);
}

/* PREPARE TRANSACTION 'id' has no name behind it. */
static unsigned
scan_prepare(const struct lexer *at)
{
	struct lexer l = *at;

	return next_is(&l, "transaction") && next_token(&l) == OTHER ? 0
								     : SQL_PIN;
}

/* Is it one of these?  NULL ends them. */
static bool
is_any(struct slice word, const char *const *keys)
{
	while (*keys != NULL && !slice_is_word(word, *keys))
		keys++;
	return *keys != NULL;
}

/* The word before this place in a text, whatever stands between. */
static struct slice
word_before(const char *text, const char *p)
{
	const char *end;

	while (p > text && !is_word_char(p[-1]))
		p--;
	for (end = p; p > text && is_word_char(p[-1]); p--)
		;
	return slice_of(p, (size_t)(end - p));
}

/*
 * Does the rest of the text, strings and all, set who the session is?  What is
 * quoted here may be run as a statement there.
 */
static bool
speaks_of_who(const struct lexer *at)
{
	static const char *const before_role[] = { "set", "local", "session",
						   NULL };

	for (const char *p = at->p, *end; p < at->end; p = end + (end == p)) {
		struct slice word;

		for (end = p; end < at->end && is_word_char(*end); end++)
			;
		word = slice_of(p, (size_t)(end - p));
		if (slice_is_word(word, "session_authorization"))
			return true;
		if (slice_is_word(word, "authorization") &&
		    slice_is_word(word_before(at->p, p), "session"))
			return true;
		if (slice_is_word(word, "role") && p > at->p &&
		    (p[-1] == '\'' ||
		     is_any(word_before(at->p, p), before_role)))
			return true;
	}
	return false;
}

static const char peeked[] = "pg_prepared_statement"; /* a view, a function */

static bool
may_peek(const char *p, const char *end)
{
	return sql_mentions(slice_of(p, (size_t)(end - p)), peeked);
}

/* A function that runs its argument as a statement: one that can be read. */
static unsigned
scan_speaker(const struct lexer *at)
{
	struct lexer l = *at;
	const char *text;

	if (next_token(&l) != PUNCT || l.punct != '(')
		return 0;
	while (l.p < l.end && is_kind(*l.p, SPACE))
		l.p++;
	text = l.p;
	if (l.p < l.end && *l.p == '\'' && next_token(&l) == OTHER &&
	    !may_peek(text, l.p) &&
	    !sql_mentions(slice_of(text, (size_t)(l.p - text)), "set_config") &&
	    next_token(&l) == PUNCT && (l.punct == ',' || l.punct == ')'))
		return 0;
	return SQL_PIN | SQL_SETTING | SQL_HIDES | SQL_PEEKS;
}

/* A default of a role or database is for everybody who logs in as it. */
static bool
sets_default(const struct lexer *at)
{
	struct lexer l = *at;
	enum token t;

	while ((t = next_token(&l)) != END && (t != PUNCT || l.punct != ';'))
		if (t == WORD && (is_key(&l, "set") || is_key(&l, "reset")))
			return true;
	return false;
}

/* An UPDATE of a view of that view is one of it. */
static bool
defines_view(const struct lexer *at)
{
	struct lexer l = *at;

	while (next_token(&l) == WORD && !l.quoted)
		if (is(&l, "view") || is(&l, "rule"))
			return true;
	return false;
}

/* Defaults of roles and databases, and of functions while they run. */
static unsigned
scan_define(const struct lexer *at)
{
	static const char *const owners[] = { "role", "user", "database",
					      "system", NULL };
	static const char *const bodies[] = { "function", "procedure",
					      "routine", NULL };
	struct lexer l = *at;
	enum token t = next_token(&l);
	struct slice word;

	if (t == WORD && is_key(&l, "or") && next_is(&l, "replace"))
		t = next_token(&l);
	if (t != WORD || l.quoted)
		return 0;
	word = slice_of(l.word, l.word_n);
	if (is_any(word, owners))
		return SQL_SETTING | (sets_default(&l) ? SQL_HIDES : 0);
	if (is_any(word, bodies))
		return SQL_SETTING | (speaks_of_who(&l) ? SQL_HIDES : 0) |
		       (may_peek(l.p, l.end) ? SQL_PEEKS : 0);
	return defines_view(at) &&
		       sql_mentions(slice_of(l.p, (size_t)(l.end - l.p)),
				    "pg_settings")
		   ? SQL_SETTING | SQL_HIDES
		   : 0;
}

/* A rule of that view makes an UPDATE of it a set_config(). */
static unsigned
scan_update(const struct lexer *at)
{
	struct lexer l = *at;
	enum token t;

	while ((t = next_token(&l)) == WORD ||
	       (t == PUNCT && (l.punct == '.' || l.punct == '('))) {
		if (t == WORD && is(&l, "pg_settings"))
			return SQL_PIN | SQL_SETTING | SQL_HIDES;
		if (t == WORD && is_key(&l, "set"))
			break;
	}
	return 0;
}

/* The first word of a statement. */
static unsigned
scan_first(const struct lexer *at)
{
	struct lexer l = *at;

	switch (l.word[0] | 32) {
	case 'a':
		if (is_key(&l, "abort"))
			return SQL_XACT;
		return is_key(&l, "alter") ? scan_define(&l) : 0;
	case 'b':
		return is_key(&l, "begin") ? SQL_XACT : 0;
	case 'c':
		if (is_key(&l, "commit"))
			return SQL_XACT;
		return is_key(&l, "create") ? scan_define(&l) : 0;
	case 'e':
		return is_key(&l, "end") ? SQL_XACT : 0;
	case 's':
		if (is_key(&l, "start"))
			return SQL_XACT;
		if (is_key(&l, "savepoint"))
			return SQL_MARKS;
		return is_key(&l, "set") ? scan_set(&l) | scan_identity(&l) : 0;
	case 'r':
		if (is_key(&l, "rollback"))
			return SQL_XACT;
		if (is_key(&l, "release"))
			return SQL_MARKS;
		if (!is_key(&l, "reset"))
			return 0;
		return SQL_SETTING | SQL_UNSETS |
		       (next_is(&l, "all") ? SQL_RESETS : 0);
	case 'd':
		if (is_key(&l, "discard"))
			return next_is(&l, "all") ? SQL_SETTING | SQL_UNSETS |
							SQL_FORGETS | SQL_RESETS
						  : 0;
		if (is_key(&l, "deallocate"))
			return scan_deallocate(&l);
		/* The body of a DO block is a quoted string to us. */
		if (!is_key(&l, "do"))
			return 0;
		return SQL_PIN | SQL_SETTING |
		       (speaks_of_who(&l) ? SQL_HIDES : 0) |
		       (may_peek(l.p, l.end) ? SQL_PEEKS : 0);
	case 'p':
		return is_key(&l, "prepare") ? scan_prepare(&l) : 0;
	case 'l':
		if (is_key(&l, "listen"))
			return SQL_PIN;
		return is_key(&l, "load") ? SQL_PIN | SQL_TAINTS : 0;
	default:
		return 0;
	}
}

/* TEMP and HOLD are also what columns are called. */
static const char *const before_temp[] = { "create", "replace", "global",
					   "local",  "into",    "discard",
					   NULL };
static const char *const before_hold[] = { "with", NULL };

/* A word anywhere; the token before it, if that was a word too. */
static unsigned
scan_word(const struct lexer *l, struct slice before)
{
	switch (l->word[0] | 32) {
	case 's':
		if (is(l, "set_config"))
			return scan_set_config(l);
		if (begins(l, "schema_to_xml"))
			return SQL_PEEKS;
		return is(l, "setseed") ? SQL_PIN | SQL_TAINTS : 0;
	case 'c':
		return is(l, "currval") ? SQL_RECALLS : 0;
	case 'l':
		return is(l, "lastval") ? SQL_RECALLS : 0;
	case 't':
		if (is(l, "ts_stat") || is(l, "ts_rewrite"))
			return scan_speaker(l);
		if (begins(l, "table_to_xml"))
			return SQL_PEEKS;
		return (is_key(l, "temp") || is_key(l, "temporary")) &&
			       is_any(before, before_temp)
			   ? SQL_PIN
			   : 0;
	case 'e':
		return is_key(l, "execute") ? scan_execute(l) : 0;
	case 'h':
		return is_key(l, "hold") && is_any(before, before_hold)
			   ? SQL_PIN
			   : 0;
	case 'd':
		if (begins(l, "database_to_xml"))
			return SQL_PEEKS;
		return begins(l, "dblink_connect") ? SQL_PIN | SQL_TAINTS : 0;
	case 'p':
		if (begins(l, peeked))
			return SQL_PEEKS;
		if (begins(l, "pg_temp"))
			return SQL_PIN;
		if (begins(l, "pg_advisory_lock") ||
		    begins(l, "pg_try_advisory_lock"))
			return SQL_PIN;
		return 0;
	case 'q':
		return begins(l, "query_to_xml") ? scan_speaker(l) : 0;
	case 'u':
		return is_key(l, "update") ? scan_update(l) : 0;
	default:
		return 0;
	}
}

unsigned
sql_scan(struct slice text)
{
	struct lexer l = { .p = (const char *)text.p,
			   .end = (const char *)text.p + text.n };
	struct slice before = { 0 };
	bool first = true, more = false;
	unsigned flags = 0;
	enum token t;

	if (text.n == 0)
		return 0;
	while ((t = next_token(&l)) != END) {
		if (t == PUNCT && l.punct == ';') {
			more |= !first; /* empty ones are none */
			first = true;
			continue;
		}
		if (t == WORD && l.word_n > 0) {
			unsigned found = scan_word(&l, before);

			if (first)
				flags |= scan_first(&l);
			flags |= more ? found & ~(unsigned)SQL_RECALLS : found;
		}
		before = slice_of(l.word, t == WORD ? l.word_n : 0);
		first = false;
	}
	if (l.odd)
		flags |= SQL_PIN | SQL_SETTING | SQL_HIDES;
	return flags;
}

bool
sql_sets(struct slice text, struct sql_sets *sets)
{
	struct lexer l = { .p = (const char *)text.p,
			   .end = (const char *)text.p + text.n };
	bool first = true, good = true;
	enum token t;

	sets->n = 0;
	while (text.n > 0 && good && (t = next_token(&l)) != END) {
		if (t == WORD && is(&l, "set_config") &&
		    scan_set_config(&l) & SQL_TRACKS)
			good = sets_by_config(&l, sets);
		else if (t == WORD && first && is_key(&l, "set") &&
			 scan_set(&l) & SQL_TRACKS)
			good = sets_by_set(&l, sets);
		first = t == PUNCT && l.punct == ';';
	}
	return good;
}

/* ---- whole texts ------------------------------------------------------ */

/* Nothing follows but what ends a statement. */
static bool
is_over(struct lexer *l)
{
	enum token t;

	while ((t = next_token(l)) == PUNCT && l->punct == ';')
		;
	return t == END;
}

static bool
next_word(struct lexer *l)
{
	return next_token(l) == WORD && !l->quoted;
}

/* The level behind ISOLATION LEVEL, or 0. */
static unsigned
read_isolation(struct lexer *l)
{
	if (!next_is(l, "level") || !next_word(l))
		return 0;
	if (is(l, "serializable"))
		return SQL_SERIALIZABLE;
	if (is(l, "repeatable"))
		return next_is(l, "read") ? SQL_REPEATABLE_READ : 0;
	if (!is(l, "read") || !next_word(l))
		return 0;
	if (is(l, "committed"))
		return SQL_READ_COMMITTED;
	return is(l, "uncommitted") ? SQL_READ_UNCOMMITTED : 0;
}

/* The mode that begins with the word just read, or 0. */
static unsigned
read_mode(struct lexer *l)
{
	if (is(l, "isolation"))
		return read_isolation(l);
	if (is(l, "deferrable"))
		return SQL_DEFERRABLE;
	if (is(l, "not"))
		return next_is(l, "deferrable") ? SQL_NOT_DEFERRABLE : 0;
	if (!is(l, "read") || !next_word(l))
		return 0;
	if (is(l, "only"))
		return SQL_READ_ONLY;
	return is(l, "write") ? SQL_READ_WRITE : 0;
}

/* Modes that exclude one another: one of a kind may be there. */
static unsigned
rivals(unsigned mode)
{
	if (mode & SQL_ISOLATION)
		return SQL_ISOLATION;
	if (mode & (SQL_READ_ONLY | SQL_READ_WRITE))
		return SQL_READ_ONLY | SQL_READ_WRITE;
	return SQL_DEFERRABLE | SQL_NOT_DEFERRABLE;
}

/* At what follows BEGIN or START TRANSACTION. */
static bool
read_modes(struct lexer *l, unsigned *modes)
{
	enum token t;

	*modes = 0;
	while ((t = next_token(l)) == WORD && !l->quoted) {
		unsigned mode = read_mode(l);
		struct lexer after = *l;

		if (mode == 0 || *modes & rivals(mode))
			return false;
		*modes |= mode;
		/* A comma stands between two, or nothing. */
		if (next_token(&after) == PUNCT && after.punct == ',') {
			*l = after;
			if (next_token(&after) != WORD)
				return false;
		}
	}
	return t == END || (t == PUNCT && l->punct == ';' && is_over(l));
}

/* WORK or TRANSACTION may follow, but say nothing. */
static void
skip_work(struct lexer *l)
{
	struct lexer after = *l;

	if (next_word(&after) &&
	    (is(&after, "work") || is(&after, "transaction")))
		*l = after;
}

/* What two letters a text begins with, or 0 if it does not begin so. */
static unsigned
opening(struct slice text)
{
	const char *p = (const char *)text.p, *end = p + text.n;

	while (p < end && is_kind(*p, SPACE))
		p++;
	if (end - p < 2 || !is_word_start(p[0]) || !is_word_start(p[1]))
		return 0;
	return (unsigned)((uint8_t)p[0] | 32) << 8 | (uint8_t)(p[1] | 32);
}

/* May it speak of a transaction?  Most do not, and need no more reading. */
static bool
may_transact(struct slice text)
{
	switch (opening(text)) {
	case 0: /* behind a comment, say */
	case 'b' << 8 | 'e':
	case 's' << 8 | 't':
	case 'c' << 8 | 'o':
	case 'e' << 8 | 'n':
	case 'r' << 8 | 'o':
	case 'a' << 8 | 'b':
		return true;
	default:
		return false;
	}
}

enum sql_xact
sql_transaction(struct slice text, unsigned *modes)
{
	struct lexer l = { .p = (const char *)text.p,
			   .end = (const char *)text.p + text.n };
	enum sql_xact xact = SQL_NO_XACT;
	bool good;

	*modes = 0;
	if (text.n == 0 || !may_transact(text) || !next_word(&l))
		return SQL_NO_XACT;
	if (is(&l, "begin"))
		xact = SQL_BEGIN;
	else if (is(&l, "start"))
		xact = SQL_START;
	else if (is(&l, "commit") || is(&l, "end"))
		xact = SQL_COMMIT;
	else if (is(&l, "rollback") || is(&l, "abort"))
		xact = SQL_ROLLBACK;
	else
		return SQL_NO_XACT;
	if (xact == SQL_START && !next_is(&l, "transaction"))
		return SQL_NO_XACT;
	if (xact != SQL_START)
		skip_work(&l);
	good = xact == SQL_BEGIN || xact == SQL_START ? read_modes(&l, modes)
						      : is_over(&l);
	return good && !l.odd ? xact : SQL_NO_XACT;
}

size_t
sql_begin(char out[SQL_BEGIN_MAX], unsigned modes)
{
	static const char *const levels[] = { "", "READ UNCOMMITTED",
					      "READ COMMITTED",
					      "REPEATABLE READ",
					      "SERIALIZABLE" };
	static const struct {
		unsigned mode;
		const char *text;
	} others[] = { { SQL_READ_ONLY, " READ ONLY" },
		       { SQL_READ_WRITE, " READ WRITE" },
		       { SQL_DEFERRABLE, " DEFERRABLE" },
		       { SQL_NOT_DEFERRABLE, " NOT DEFERRABLE" } };
	char *p = stpcpy(out, "BEGIN");

	assert((modes & SQL_ISOLATION) <= SQL_SERIALIZABLE);
	if (modes & SQL_ISOLATION)
		p = stpcpy(stpcpy(p, " ISOLATION LEVEL "),
			   levels[modes & SQL_ISOLATION]);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (modes & others[i].mode)
			p = stpcpy(p, others[i].text);
	return (size_t)(p - out);
}

size_t
sql_deallocated(struct slice text, char *name, size_t max)
{
	struct lexer l = { .p = (const char *)text.p,
			   .end = (const char *)text.p + text.n };
	size_t n;

	if (text.n == 0 || !next_is(&l, "deallocate") || next_token(&l) != WORD)
		return 0;
	if (is_key(&l, "prepare") && next_token(&l) != WORD)
		return 0;
	n = l.word_n;
	/* A quote inside would have to be undoubled: nobody has such names. */
	if (n == 0 || n > max || is_key(&l, "all") ||
	    memchr(l.word, '"', n) != NULL)
		return 0;
	for (size_t i = 0; i < n; i++) {
		char c = l.word[i];

		name[i] =
		    !l.quoted && c >= 'A' && c <= 'Z' ? (char)(c | 32) : c;
	}
	return is_over(&l) && !l.odd ? n : 0;
}

/* Behind SET. */
static bool
switch_by_set(struct lexer *l, struct sql_switch *sw)
{
	struct lexer at;
	enum token t;

	if (next_token(l) != WORD)
		return false;
	at = *l;
	if ((is_key(l, "local") || is_key(l, "session")) &&
	    next_token(&at) == WORD && !is_key(&at, "to")) {
		sw->local = is_key(l, "local");
		*l = at;
	}
	if (!read_setting(l, sw->name, &t) ||
	    !((t == PUNCT && l->punct == '=') ||
	      (t == WORD && is_key(l, "to"))))
		return false;
	at = *l;
	if (read_literal(&at, sw->value, sizeof(sw->value))) {
		*l = at;
		return is_over(l);
	}
	at = *l;
	sw->value[0] = '\0';
	t = next_token(l);
	if (t == WORD && is_key(l, "default"))
		sw->reset = true;
	else if (t == OTHER) {
		while (at.p < l->p && is_kind(*at.p, SPACE))
			at.p++;
		for (const char *p = at.p; p < l->p; p++)
			if (!is_kind(*p, DIGIT))
				return false;
		at.word = at.p;
		at.word_n = (size_t)(l->p - at.p);
		if (!add_word(&at, sw->value, sizeof(sw->value)))
			return false;
	} else if (t != WORD || !add_word(l, sw->value, sizeof(sw->value)))
		return false;
	return is_over(l);
}

static bool
next_punct(struct lexer *l, char c)
{
	return next_token(l) == PUNCT && l->punct == c;
}

/* The second argument: a literal or $1, and perhaps ::text. */
static bool
read_value(struct lexer *l, struct sql_switch *sw)
{
	struct lexer at = *l;
	enum token t;

	if (!read_literal(&at, sw->value, sizeof(sw->value))) {
		at = *l;
		while (at.p < at.end && is_kind(*at.p, SPACE))
			at.p++;
		if (at.end - at.p < 2 || at.p[0] != '$' || at.p[1] < '1' ||
		    at.p[1] > '9')
			return false;
		sw->param = (unsigned)(at.p[1] - '0');
		at.p += 2;
	}
	*l = at;
	t = next_token(&at);
	if (t == PUNCT && at.punct == ':' && next_punct(&at, ':') &&
	    next_token(&at) == WORD &&
	    (is_key(&at, "text") || is_key(&at, "varchar")))
		*l = at;
	return next_punct(l, ',');
}

/* Behind SELECT. */
static bool
switch_by_select(struct lexer *l, struct sql_switch *sw)
{
	struct lexer at;

	sw->select = true;
	sw->tag = "SELECT 1";
	if (next_token(l) != WORD)
		return false;
	if (is(l, "pg_catalog") &&
	    (!next_punct(l, '.') || next_token(l) != WORD))
		return false;
	if (!is(l, "set_config") || !next_punct(l, '(') ||
	    !read_literal(l, sw->name, sizeof(sw->name)) ||
	    !next_punct(l, ',') || !read_value(l, sw) || next_token(l) != WORD)
		return false;
	for (char *p = sw->name; *p != '\0'; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p |= 32;
	sw->local = is_key(l, "true");
	if ((!sw->local && !is_key(l, "false")) || !next_punct(l, ')'))
		return false;
	strcpy(sw->column, "set_config");
	at = *l;
	if (next_token(&at) == WORD && is_key(&at, "as")) {
		sw->column[0] = '\0';
		if (next_token(&at) != WORD ||
		    !add_word(&at, sw->column, sizeof(sw->column)))
			return false;
		*l = at;
	}
	return is_over(l);
}

bool
sql_switch(struct slice text, struct sql_switch *sw)
{
	struct lexer l = { .p = (const char *)text.p,
			   .end = (const char *)text.p + text.n };
	bool good = false;
	enum token t;

	*sw = (struct sql_switch){ .tag = "SET" };
	if (text.n == 0 || next_token(&l) != WORD)
		return false;
	if (is_key(&l, "set")) {
		good = switch_by_set(&l, sw);
	} else if (is_key(&l, "select")) {
		good = switch_by_select(&l, sw);
	} else if (is_key(&l, "reset") && next_token(&l) == WORD) {
		sw->reset = true;
		sw->tag = "RESET";
		good =
		    read_setting(&l, sw->name, &t) &&
		    (t == END || (t == PUNCT && l.punct == ';' && is_over(&l)));
	}
	return good && !l.odd;
}

/* [SAVEPOINT] name, all that is left. */
static bool
read_mark(struct lexer *l, bool word_may_stand, char *name)
{
	struct lexer at;

	if (next_token(l) != WORD)
		return false;
	at = *l;
	if (word_may_stand && is_key(l, "savepoint") && next_token(&at) == WORD)
		*l = at;
	name[0] = '\0';
	(void)!add_word(l, name, SQL_NAME_MAX);
	return is_over(l) && !l->odd;
}

enum sql_mark
sql_mark(struct slice text, char name[SQL_NAME_MAX])
{
	struct lexer l = { .p = (const char *)text.p,
			   .end = (const char *)text.p + text.n };
	enum sql_mark mark = SQL_NO_MARK;

	if (text.n == 0 || next_token(&l) != WORD)
		return SQL_NO_MARK;
	if (is_key(&l, "savepoint")) {
		mark = SQL_SAVEPOINT;
	} else if (is_key(&l, "release")) {
		mark = SQL_RELEASE;
	} else if (is_key(&l, "rollback")) {
		skip_work(&l);
		if (next_is(&l, "to"))
			mark = SQL_ROLLBACK_TO;
	}
	return mark != SQL_NO_MARK && read_mark(&l, mark != SQL_SAVEPOINT, name)
		   ? mark
		   : SQL_NO_MARK;
}

bool
sql_mentions(struct slice text, const char *setting)
{
	const char *dot = strrchr(setting, '.');
	const char *part = dot ? dot + 1 : setting;
	size_t n = strlen(part);

	for (size_t i = 0; n > 0 && i + n <= text.n; i++)
		if (strncasecmp((const char *)text.p + i, part, n) == 0)
			return true;
	return false;
}

bool
sql_begins(struct slice text, const char *word)
{
	struct lexer l = { .p = (const char *)text.p,
			   .end = (const char *)text.p + text.n };
	enum token t = END;

	if (text.n > 0)
		do
			t = next_token(&l);
		while (t == PUNCT && l.punct == ';');
	return t == WORD && is_key(&l, word);
}

size_t
sql_tokens(struct slice text, size_t max)
{
	struct lexer l = { .p = (const char *)text.p,
			   .end = (const char *)text.p + text.n };
	size_t n = 0;

	while (text.n > 0 && n <= max && next_token(&l) != END)
		n++;
	return n;
}

bool
sql_is_discard_all(struct slice text)
{
	struct lexer l = { .p = (const char *)text.p,
			   .end = (const char *)text.p + text.n };

	return text.n > 0 && next_is(&l, "discard") && next_is(&l, "all") &&
	       is_over(&l) && !l.odd;
}
