#include "protocol/sql.h"

#include <ctype.h>

enum token { END, WORD, PUNCT, OTHER };

struct lexer {
	const char *p, *end;
	const char *word; /* the last WORD, not NUL-terminated */
	size_t word_n;
	char punct;
	bool odd; /* met what we do not read: be careful */
};

static bool
is_word_start(char c)
{
	return isalpha((unsigned char)c) || c == '_' || (c & 0x80);
}

static bool
is_word_char(char c)
{
	return is_word_start(c) || isdigit((unsigned char)c) || c == '$';
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

/* At the opening quote; a doubled quote is one inside. */
static void
skip_quoted(struct lexer *l, char quote, bool backslash)
{
	for (l->p++; l->p < l->end; l->p++) {
		if (backslash && *l->p == '\\' && l->end - l->p > 1) {
			l->p++;
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

/* At a `$`: a dollar quote is skipped as a whole, anything else is a sign. */
static void
skip_dollar(struct lexer *l)
{
	const char *tag = l->p++, *body;
	size_t n;

	while (l->p < l->end && *l->p != '$' && is_word_char(*l->p))
		l->p++;
	if (l->p == l->end || *l->p != '$' || isdigit((unsigned char)tag[1])) {
		while (l->p < l->end && isdigit((unsigned char)*l->p))
			l->p++;
		return; /* $1, or nothing we know */
	}
	n = (size_t)(++l->p - tag);
	body = l->p;
	l->p = memmem(body, (size_t)(l->end - body), tag, n);
	l->p = l->p == NULL ? l->end : l->p + n;
}

static enum token
next_name(struct lexer *l)
{
	const char *start = l->p;

	while (l->p < l->end && is_word_char(*l->p))
		l->p++;
	l->word = start;
	l->word_n = (size_t)(l->p - start);
	if (l->word_n == 1 && l->p < l->end && *l->p == '\'') {
		/* E'..\'..', B'..', X'..', N'..' */
		skip_quoted(l, '\'', (start[0] | 32) == 'e');
		return OTHER;
	}
	if (l->word_n == 1 && (start[0] | 32) == 'u' && l->p < l->end &&
	    *l->p == '&')
		l->odd = true; /* U&"..." can spell any name */
	return WORD;
}

static enum token
next_token(struct lexer *l)
{
	const char *start;

	while (l->p < l->end) {
		char c = *l->p;

		if (isspace((unsigned char)c)) {
			l->p++;
		} else if (c == '-' && l->end - l->p > 1 && l->p[1] == '-') {
			skip_line_comment(l);
		} else if (c == '/' && l->end - l->p > 1 && l->p[1] == '*') {
			skip_block_comment(l);
		} else if (c == '\'') {
			skip_quoted(l, '\'', false);
			return OTHER;
		} else if (c == '"') {
			start = l->p + 1;
			skip_quoted(l, '"', false);
			l->word = start;
			l->word_n = (size_t)(l->p - start);
			l->word_n -= l->word_n > 0 && l->p[-1] == '"';
			return WORD;
		} else if (c == '$') {
			skip_dollar(l);
			return OTHER;
		} else if (is_word_start(c)) {
			return next_name(l);
		} else if (isdigit((unsigned char)c)) {
			while (l->p < l->end &&
			       (is_word_char(*l->p) || *l->p == '.'))
				l->p++;
			return OTHER;
		} else {
			l->punct = c;
			l->p++;
			return PUNCT;
		}
	}
	return END;
}

static bool
is(const struct lexer *l, const char *word)
{
	return slice_is_word(slice_of(l->word, l->word_n), word);
}

static bool
begins(const struct lexer *l, const char *prefix)
{
	size_t n = strlen(prefix);

	return l->word_n >= n && strncasecmp(l->word, prefix, n) == 0;
}

/* set_config(name, value, true) ends with its transaction; else it stays. */
static unsigned
scan_set_config(const struct lexer *at)
{
	struct lexer l = *at;
	int depth = 0, commas = 0;
	enum token t;

	while ((t = next_token(&l)) != END) {
		if (t == PUNCT && l.punct == '(')
			depth++;
		else if (t == PUNCT && l.punct == ')' && --depth == 0)
			break;
		else if (t == PUNCT && l.punct == ',' && depth == 1)
			commas++;
		else if (depth == 1 && commas == 2)
			return t == WORD && is(&l, "true")
				   ? SQL_SETTING
				   : SQL_SETTING | SQL_PIN;
		else if (depth == 0)
			break;
	}
	return SQL_SETTING | SQL_PIN;
}

static unsigned
scan_set(const struct lexer *at)
{
	struct lexer l = *at;

	if (next_token(&l) == WORD) {
		if (is(&l, "local"))
			return SQL_SETTING;
		if (is(&l, "transaction") || is(&l, "constraints"))
			return 0;
	}
	return SQL_SETTING | SQL_PIN;
}

static bool
next_is(const struct lexer *at, const char *word)
{
	struct lexer l = *at;

	return next_token(&l) == WORD && is(&l, word);
}

/* The first word of a statement. */
static unsigned
scan_first(const struct lexer *l)
{
	switch (l->word[0] | 32) {
	case 's':
		return is(l, "set") ? scan_set(l) : 0;
	case 'r':
		return is(l, "reset") ? SQL_SETTING | SQL_UNSETS : 0;
	case 'd':
		if (is(l, "discard"))
			return next_is(l, "all")
				   ? SQL_SETTING | SQL_UNSETS | SQL_FORGETS
				   : 0;
		if (is(l, "deallocate"))
			return SQL_FORGETS;
		/* The body of a DO block is a quoted string to us. */
		return is(l, "do") ? SQL_PIN | SQL_SETTING : 0;
	case 'p':
		return is(l, "prepare") && !next_is(l, "transaction") ? SQL_PIN
								      : 0;
	case 'l':
		if (is(l, "listen"))
			return SQL_PIN;
		return is(l, "load") ? SQL_PIN | SQL_TAINTS : 0;
	default:
		return 0;
	}
}

/* A word anywhere. */
static unsigned
scan_word(const struct lexer *l)
{
	switch (l->word[0] | 32) {
	case 's':
		if (is(l, "set_config"))
			return scan_set_config(l);
		return is(l, "setseed") ? SQL_PIN | SQL_TAINTS : 0;
	case 't':
		return is(l, "temp") || is(l, "temporary") ? SQL_PIN : 0;
	case 'h':
		return is(l, "hold") ? SQL_PIN : 0;
	case 'd':
		return begins(l, "dblink_connect") ? SQL_PIN | SQL_TAINTS : 0;
	case 'p':
		if (begins(l, "pg_temp"))
			return SQL_PIN;
		if (begins(l, "pg_advisory_lock") ||
		    begins(l, "pg_try_advisory_lock"))
			return SQL_PIN;
		return 0;
	default:
		return 0;
	}
}

unsigned
sql_scan(struct slice text)
{
	struct lexer l = { .p = (const char *)text.p,
			   .end = (const char *)text.p + text.n };
	bool first = true;
	unsigned flags = 0;
	enum token t;

	if (text.n == 0)
		return 0;
	while ((t = next_token(&l)) != END) {
		if (t == PUNCT && l.punct == ';') {
			first = true;
			continue;
		}
		if (t == WORD && l.word_n > 0) {
			if (first)
				flags |= scan_first(&l);
			flags |= scan_word(&l);
		}
		first = false;
	}
	if (l.odd)
		flags |= SQL_PIN | SQL_SETTING;
	return flags;
}
