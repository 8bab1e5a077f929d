#include "protocol/row_text.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "protocol/pg.h"
#include "protocol/utf8.h"

enum form {
	FORM_PLAIN,  /* as it is */
	FORM_STRING, /* a JSON string */
	FORM_INSIDE, /* a part of one */
	FORM_JSON    /* as it is, if it is JSON */
};

/* Some text, and behind it a column. */
struct place {
	char *text;
	size_t n;
	char *column; /* NULL: none, it is the end */
	enum form form;
};

struct row_text {
	bool whole_row;
	bool channel;
	size_t n;
	struct place place[ROW_TEXT_PLACES + 1];
};

/* ---- templates -------------------------------------------------------- */

static char *
copy(const char *s, size_t n)
{
	char *c = strndup(s, n);

	if (c == NULL)
		abort();
	return c;
}

static bool
is_name(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c >= '0' && c <= '9') || c == '_' || c == '$' || c >= 0x80;
}

/* {name} or {name:json}: its length; 0: it is none. */
static size_t
place_at(const char *s, size_t *name, bool *json)
{
	size_t n = 0;

	if (s[0] != '{')
		return 0;
	while (is_name((uint8_t)s[1 + n]))
		n++;
	*name = n;
	if (n == 0)
		return 0;
	*json = strncmp(s + 1 + n, ":json}", 6) == 0;
	return *json ? n + 7 : s[1 + n] == '}' ? n + 2 : 0;
}

/* Is a quote open behind these bytes of a JSON text, if it was before? */
static bool
is_quoted(const char *s, size_t n, bool quoted)
{
	for (size_t i = 0; i < n; i++)
		if (s[i] == '\\' && quoted)
			i++;
		else if (s[i] == '"')
			quoted = !quoted;
	return quoted;
}

static enum form
form_of(const struct row_text *t, bool quoted, bool json)
{
	if (t->channel)
		return FORM_PLAIN;
	return quoted ? FORM_INSIDE : json ? FORM_JSON : FORM_STRING;
}

/* False: too many places, or one that does not fit where it stands. */
static bool
read_places(struct row_text *t, const char *s)
{
	bool quoted = false, json;
	size_t text = 0, n, used;

	for (;;) {
		struct place *p = &t->place[t->n];

		while (s[text] != '\0' && place_at(s + text, &n, &json) == 0)
			text++;
		p->text = copy(s, text);
		p->n = text;
		t->n++;
		if (s[text] == '\0')
			return true;
		used = place_at(s + text, &n, &json);
		quoted = is_quoted(s, text, quoted);
		p->column = copy(s + text + 1, n);
		p->form = form_of(t, quoted, json);
		if (t->n > ROW_TEXT_PLACES || (json && (t->channel || quoted)))
			return false;
		s += text + used;
		text = 0;
	}
}

static struct row_text *
make(const char *text, bool channel)
{
	struct row_text *t = calloc(1, sizeof(*t));

	if (t == NULL)
		abort();
	t->channel = channel;
	if (strlen(text) > ROW_TEXT_MAX || !read_places(t, text))
		row_text_free(&t);
	return t;
}

/* As it comes out for a row of nulls. */
static bool
is_json(const struct row_text *t)
{
	struct buf b;
	const uint8_t *p;
	size_t n;
	int bad = 0;
	json_t *value;

	buf_init(&b, ROW_TEXT_MAX + 4 * ROW_TEXT_PLACES);
	for (size_t i = 0; i < t->n; i++) {
		bad |= buf_put(&b, t->place[i].text, t->place[i].n);
		if (t->place[i].column && t->place[i].form != FORM_INSIDE)
			bad |= buf_put(&b, "null", 4);
	}
	p = buf_peek(&b, &n);
	value =
	    bad ? NULL : json_loadb((const char *)p, n, JSON_DECODE_ANY, NULL);
	json_decref(value);
	buf_free(&b);
	return value != NULL;
}

struct row_text *
row_text_channel(const char *text, const char **expected)
{
	struct row_text *t = make(text, true);

	*expected = "text with columns as {column}";
	for (size_t i = 0; t != NULL && i < t->n; i++)
		if (t->place[i].text[strcspn(t->place[i].text, "{}")] != '\0') {
			row_text_free(&t);
			return NULL;
		}
	return t;
}

struct row_text *
row_text_message(const char *text, const char **expected)
{
	struct row_text *t = make(text ? text : "", false);

	*expected = "one {column} alone, or JSON with {column} or "
		    "{column:json} where values stand";
	if (t == NULL)
		return NULL;
	t->whole_row = text == NULL;
	if (t->n == 2 && t->place[0].n == 0 && t->place[1].n == 0 &&
	    t->place[0].form == FORM_STRING) {
		t->place[0].form = FORM_PLAIN; /* a value and nothing else */
	} else if (!t->whole_row && !is_json(t)) {
		row_text_free(&t);
	}
	return t;
}

void
row_text_free(struct row_text **at)
{
	struct row_text *t = *at;

	*at = NULL;
	if (t == NULL)
		return;
	for (size_t i = 0; i < t->n; i++) {
		free(t->place[i].text);
		free(t->place[i].column);
	}
	free(t);
}

/* ---- values ----------------------------------------------------------- */

/* Types by their numbers in pg_type.dat. */
enum {
	OID_BOOL = 16,
	OID_BYTEA = 17,
	OID_NAME = 19,
	OID_INT8 = 20,
	OID_INT2 = 21,
	OID_INT4 = 23,
	OID_TEXT = 25,
	OID_JSON = 114,
	OID_UNKNOWN = 705,
	OID_BPCHAR = 1042,
	OID_VARCHAR = 1043,
	OID_UUID = 2950,
	OID_JSONB = 3802
};

struct value {
	bool null;
	struct slice text;
	struct buf made; /* what text is a view of, if it had to be made */
};

static bool
value_put(struct value *v, const void *p, size_t n)
{
	if (buf_put(&v->made, p, n) != 0)
		return false;
	v->text.p = buf_peek(&v->made, &v->text.n);
	return true;
}

static bool
value_uuid(struct value *v, const uint8_t id[INSERT_UUID])
{
	char text[37];

	snprintf(text, sizeof(text),
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
		 "%02x%02x%02x%02x%02x%02x",
		 id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7], id[8],
		 id[9], id[10], id[11], id[12], id[13], id[14], id[15]);
	return value_put(v, text, 36);
}

static bool
value_integer(struct value *v, const uint8_t *p, size_t n)
{
	uint64_t u = p[0] & 0x80 ? UINT64_MAX : 0;
	char text[24];

	for (size_t i = 0; i < n; i++)
		u = u << 8 | p[i];
	snprintf(text, sizeof(text), "%lld", (long long)(int64_t)u);
	return value_put(v, text, strlen(text));
}

/* As bytea_output = hex has it. */
static bool
value_bytes(struct value *v, const uint8_t *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	bool good = value_put(v, "\\x", 2);

	for (size_t i = 0; good && i < n; i++) {
		char two[2] = { digits[p[i] >> 4], digits[p[i] & 15] };

		good = value_put(v, two, 2);
	}
	return good;
}

static bool
value_of_binary(struct value *v, unsigned type, struct slice s)
{
	switch (type) {
	case OID_BOOL:
		v->text = slice_str(s.n == 1 && s.p[0] ? "true" : "false");
		return s.n == 1;
	case OID_BYTEA:
		return value_bytes(v, s.p, s.n);
	case OID_INT2:
		return s.n == 2 && value_integer(v, s.p, s.n);
	case OID_INT4:
		return s.n == 4 && value_integer(v, s.p, s.n);
	case OID_INT8:
		return s.n == 8 && value_integer(v, s.p, s.n);
	case OID_NAME:
	case OID_TEXT:
	case OID_JSON:
	case OID_BPCHAR:
	case OID_VARCHAR:
		v->text = s;
		return true;
	case OID_JSONB: /* its version, and the text */
		if (s.n < 1 || s.p[0] != 1)
			return false;
		v->text = slice_of(s.p + 1, s.n - 1);
		return true;
	case OID_UUID:
		return s.n == INSERT_UUID && value_uuid(v, s.p);
	default:
		return false;
	}
}

/* In a channel a uuid looks the same for all who send one. */
static bool
value_of_text(struct value *v, unsigned type, struct slice s, bool channel)
{
	uint8_t id[INSERT_UUID];
	bool may_be =
	    type == OID_UUID || (channel && (type == 0 || type == OID_UNKNOWN));

	v->text = s;
	if (may_be && insert_read_uuid(s.p, s.n, id))
		return value_uuid(v, id);
	return true;
}

static unsigned
type_of(const struct row_values *r, unsigned param)
{
	unsigned type = pg_type_at(r->types[0], param);

	return type ? type : pg_type_at(r->types[1], param);
}

static bool
value_of_param(struct value *v, const struct row_values *r,
	       const struct insert_column *c, bool channel)
{
	unsigned type = type_of(r, c->param);
	struct slice s;
	ssize_t n;
	int format;

	if (!pg_bind_value(r->args, c->param, &format, &s, &n))
		return false;
	v->null = n < 0;
	if (v->null)
		return true;
	return format == 0   ? value_of_text(v, type, s, channel)
	       : format == 1 ? value_of_binary(v, type, s)
			     : false;
}

static bool
value_of(struct value *v, const struct row_values *r,
	 const struct insert_column *c, bool channel)
{
	if (c->kind == INSERT_PARAM)
		return value_of_param(v, r, c, channel);
	if (c->kind == INSERT_CONST && c->text == NULL) {
		v->null = true;
		return true;
	}
	if (c->kind != INSERT_CONST && c->number == NULL)
		return false;
	return value_of_text(
	    v, 0, slice_str(c->kind == INSERT_CONST ? c->text : c->number),
	    channel);
}

/* ---- writing ---------------------------------------------------------- */

/* What stands in a JSON string for it. */
static int
put_inside(struct buf *b, struct slice s)
{
	size_t len, from = 0;
	char escape[8];
	int bad = 0;

	for (size_t i = 0; i < s.n && bad == 0; i += len) {
		if ((len = utf8_length(s.p + i, s.n - i)) == 0)
			return -1;
		if (s.p[i] >= 0x20 && s.p[i] != '"' && s.p[i] != '\\')
			continue;
		bad |= buf_put(b, s.p + from, i - from);
		if (s.p[i] < 0x20)
			snprintf(escape, sizeof(escape), "\\u%04x", s.p[i]);
		else
			snprintf(escape, sizeof(escape), "\\%c", s.p[i]);
		bad |= buf_put(b, escape, strlen(escape));
		from = i + 1;
	}
	return bad | buf_put(b, s.p + from, s.n - from);
}

static int
put_string(struct buf *b, struct slice s)
{
	return buf_put(b, "\"", 1) | put_inside(b, s) | buf_put(b, "\"", 1);
}

/* One that its column's type lets through unlooked at must not break what is
 * around it. */
static int
put_json(struct buf *b, struct slice s)
{
	const size_t flags =
	    JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL;
	json_t *value = json_loadb((const char *)s.p, s.n, flags, NULL);

	if (value == NULL)
		return -1;
	json_decref(value);
	return buf_put(b, s.p, s.n);
}

static int
put_value(struct buf *b, const struct value *v, enum form form)
{
	switch (form) {
	case FORM_PLAIN:
		return v->null ? 0 : buf_put(b, v->text.p, v->text.n);
	case FORM_INSIDE:
		return v->null ? 0 : put_inside(b, v->text);
	case FORM_STRING:
		return v->null ? buf_put(b, "null", 4) : put_string(b, v->text);
	case FORM_JSON:
		return v->null ? buf_put(b, "null", 4) : put_json(b, v->text);
	}
	return -1;
}

static int
put_column(struct buf *b, const struct row_text *t, const struct place *p,
	   const struct row_values *r)
{
	const struct insert_column *c = insert_column(r->insert, p->column);
	struct value v = { 0 };
	int bad = -1;

	buf_init(&v.made, 2 * r->args.n + 64);
	if (c != NULL && value_of(&v, r, c, t->channel) &&
	    !(v.null && t->channel))
		bad = put_value(b, &v, p->form);
	buf_free(&v.made);
	return bad;
}

/* Without a comma behind it; what cannot be said is left out. */
static int
put_member(struct buf *b, const struct row_values *r,
	   const struct insert_column *c, bool first)
{
	size_t before = buf_len(b);
	struct value v = { 0 };
	int bad = first ? 0 : buf_put(b, ",", 1);

	if (c->name == NULL)
		return -1; /* then none of them has one */
	buf_init(&v.made, 2 * r->args.n + 64);
	bad |= put_string(b, slice_str(c->name));
	bad |= buf_put(b, ":", 1);
	if (bad == 0 &&
	    (!value_of(&v, r, c, false) || put_value(b, &v, FORM_STRING) != 0))
		buf_truncate(b, before);
	buf_free(&v.made);
	return bad;
}

static int
put_row(struct buf *b, const struct row_values *r)
{
	size_t from;
	int bad = buf_put(b, "{", 1);

	from = buf_len(b);
	for (size_t i = 0; bad == 0 && i < r->insert->column_n; i++)
		bad =
		    put_member(b, r, &r->insert->column[i], buf_len(b) == from);
	return bad | buf_put(b, "}", 1);
}

int
row_text_put(struct buf *b, const struct row_text *t,
	     const struct row_values *r)
{
	int bad = 0;

	if (t->whole_row)
		return put_row(b, r);
	for (size_t i = 0; i < t->n && bad == 0; i++) {
		bad = buf_put(b, t->place[i].text, t->place[i].n);
		if (bad == 0 && t->place[i].column != NULL)
			bad = put_column(b, t, &t->place[i], r);
	}
	return bad;
}
