#include "conf/conf_set.h"

#include <string.h>
#include <strings.h>

#include "conf/conf.h"
#include "conf/mem.h"
#include "conf/value.h"

void *
conf_set_field(const struct conf_row *row, void *object)
{
	return (char *)object + row->off;
}

static void *
aux_of(const struct conf_row *row, void *object)
{
	return (char *)object + row->aux;
}

static int
set_uint(const struct conf_row *row, unsigned *field, const char *text)
{
	uint64_t v;

	if (value_uint(text, &v) == -1 || v < row->lo || v > row->hi)
		return -1;
	*field = (unsigned)v;
	return 0;
}

static int
set_time(const struct conf_row *row, uint64_t *field, const char *text)
{
	uint64_t v;

	if (value_time(text, &v) == -1 || v < row->lo || v > row->hi)
		return -1;
	*field = v;
	return 0;
}

static int
set_size(const struct conf_row *row, size_t *field, const char *text)
{
	uint64_t v;

	if (value_size(text, &v) == -1 || v < row->lo || v > row->hi)
		return -1;
	*field = (size_t)v;
	return 0;
}

static int
set_word(const struct conf_row *row, void *object, const char *text)
{
	const struct conf_word *w = row->words;

	while (w->text != NULL && strcasecmp(w->text, text) != 0)
		w++;
	if (w->text == NULL)
		return -1;
	memcpy(conf_set_field(row, object), &w->value, sizeof(w->value));
	if (row->aux != 0)
		*(bool *)aux_of(row, object) = true;
	return 0;
}

static int
set_text(const struct conf_row *row, char **field, const char *text)
{
	size_t n = strlen(text);

	if (n < row->lo || n > row->hi)
		return -1;
	free(*field); /* the default */
	*field = mem_text(text, n);
	return 0;
}

static int
set_hosts(struct conf_postgres *p, const char *text)
{
	struct conf_host host;
	char *item;
	int rc = 0;

	p->host = mem_text(text, strlen(text));
	while ((item = value_next(&text)) != NULL) {
		if (p->hosts_n == CONF_HOSTS_MAX ||
		    value_host(item, &host) == -1) {
			rc = -1;
		} else {
			p->hosts =
			    mem_more(p->hosts, p->hosts_n, sizeof(*p->hosts));
			p->hosts[p->hosts_n++] = host;
		}
		free(item);
	}
	return rc;
}

static int
set_url(struct conf_redis *r, const char *text)
{
	if (value_redis_url(text, r) == -1)
		return -1;
	r->url = mem_text(text, strlen(text));
	return 0;
}

static int
set_list(const struct conf_row *row, void *object, const char *text)
{
	char ***list = conf_set_field(row, object);
	size_t *n = aux_of(row, object);
	char *item;
	int rc = 0;

	if (*text == '\0')
		return row->lo > 0 ? -1 : 0;
	while ((item = value_next(&text)) != NULL) {
		*list = mem_more(*list, *n, sizeof(**list));
		(*list)[(*n)++] = item;
		if (*item == '\0')
			rc = -1;
	}
	return rc;
}

static int
add_listen(struct conf *c, enum conf_listen_kind kind, const char *text)
{
	struct conf_listen a;

	if (value_listen(text, kind, &a) == -1)
		return -1;
	c->listen = mem_more(c->listen, c->listen_n, sizeof(*c->listen));
	c->listen[c->listen_n++] = a;
	for (size_t i = 0; i + 1 < c->listen_n; i++)
		if (memcmp(&c->listen[i].addr, &a.addr, sizeof(a.addr)) == 0)
			return -1;
	return 0;
}

static int
set_listen(struct conf *c, enum conf_listen_kind kind, const char *text)
{
	char *item;
	int rc = 0;

	if (*text == '\0')
		return 0;
	while ((item = value_next(&text)) != NULL) {
		if (add_listen(c, kind, item) == -1)
			rc = -1;
		free(item);
	}
	return rc;
}

static int
set_reference(struct conf *c, enum conf_kind kind, void *field,
	      const char *text)
{
	void *target = conf_keys_object_find(c, kind, text);

	memcpy(field, &target, sizeof(target));
	return target == NULL ? -1 : 0;
}

int
conf_set(struct conf *c, const struct conf_row *row, void *object,
	 const char *text)
{
	void *field = conf_set_field(row, object);

	switch (row->type) {
	case T_BOOL:
		return value_bool(text, field);
	case T_UINT:
		return set_uint(row, field, text);
	case T_TIME:
		return set_time(row, field, text);
	case T_SIZE:
		return set_size(row, field, text);
	case T_WORD:
		return set_word(row, object, text);
	case T_TEXT:
		return set_text(row, field, text);
	case T_HOST:
		return set_hosts(object, text);
	case T_URL:
		return set_url(object, text);
	case T_LIST:
		return set_list(row, object, text);
	case T_LISTEN:
		return set_listen(c, (enum conf_listen_kind)row->lo, text);
	case T_RATE:
		return value_rate(text, field);
	case T_POSTGRES:
		return set_reference(c, KIND_POSTGRES, field, text);
	case T_REDIS:
		return set_reference(c, KIND_REDIS, field, text);
	case T_TENANT:
		return set_reference(c, KIND_ORGANIZATION, field, text);
	case T_NOWHERE:
	case T_MAX:
		break;
	}
	return 0;
}

bool
conf_set_is_zero(const struct conf_row *row, void *object)
{
	static const size_t sizes[T_MAX] = {
		[T_BOOL] = sizeof(bool),
		[T_UINT] = sizeof(unsigned),
		[T_TIME] = sizeof(uint64_t),
		[T_SIZE] = sizeof(size_t),
		[T_WORD] = sizeof(int),
		[T_TEXT] = sizeof(char *),
		[T_HOST] = sizeof(char *),
		[T_URL] = sizeof(char *),
		[T_LIST] = sizeof(char **),
		[T_RATE] = sizeof(struct tenant_rate),
		[T_POSTGRES] = sizeof(void *),
		[T_REDIS] = sizeof(void *),
		[T_TENANT] = sizeof(void *),
	};
	const char *field = conf_set_field(row, object);

	for (size_t i = 0; i < sizes[row->type]; i++)
		if (field[i] != 0)
			return false;
	return true;
}

/* Any text may be a secret, so all are wiped. */
static void
free_text(char *s)
{
	if (s != NULL)
		explicit_bzero(s, strlen(s));
	free(s);
}

static void
free_list(char **list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i]);
	free(list);
}

static void
free_hosts(struct conf_postgres *p)
{
	for (size_t i = 0; i < p->hosts_n; i++)
		free(p->hosts[i].name);
	free(p->hosts);
	free(p->host);
}

void
conf_set_free(const struct conf_row *row, void *object)
{
	char **field = conf_set_field(row, object);
	struct conf_redis *r = object;

	if (row->type == T_TEXT || row->type == T_URL)
		free_text(*field);
	if (row->type == T_HOST)
		free_hosts(object);
	if (row->type == T_LIST)
		free_list(*(char ***)(void *)field,
			  *(size_t *)aux_of(row, object));
	if (row->type == T_URL) {
		for (size_t i = 0; i < r->hosts_n; i++)
			free(r->hosts[i].name);
		free(r->hosts);
		free(r->host);
		free(r->user);
		free_text(r->password);
	}
}
