/*
 * fuzz_conf: any bytes as a configuration file.
 *
 * It loads or it is refused with reasons, in order; what loads keeps the
 * promises of conf.h, and everything is freed either way.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "conf/conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

enum { USERS_MAX = 4, INPUT_MAX = 1 << 16 };

/*
 * What would make it slow or wait is taken out: files that are named (one may
 * be a terminal), and more than a few users.
 */
static size_t
tame(char *text, size_t n)
{
	char *p;

	for (size_t i = 0; i + 1 < n; i++)
		if (text[i] == '@' && text[i + 1] == '/')
			text[i] = '_';
	for (const char *const *key =
		 (const char *const[]){ "userlist_file", "jwt_public", NULL };
	     *key != NULL; key++)
		while ((p = memmem(text, n, *key, strlen(*key))) != NULL)
			*p = '_';
	p = text;
	for (int users = 0; users <= USERS_MAX; users++) {
		p = memmem(p, (size_t)(text + n - p), "user", 4);
		if (p == NULL)
			return n;
		p += 4;
	}
	return (size_t)(p - text);
}

static void
check_conf(const struct conf *c)
{
	assert(c->workers >= 1 && c->workers <= CONF_WORKERS_MAX);
	assert(c->listen_n > 0);
	for (size_t i = 0; i < c->listen_n; i++)
		assert(c->listen[i].addr_len > 0 && c->listen[i].line > 0);
	for (size_t i = 0; i < c->postgres_n; i++)
		assert(c->postgres[i].index == i && c->postgres[i].host);
	for (size_t i = 0; i < c->redis_n; i++)
		assert(c->redis[i].index == i && c->redis[i].host);
	for (size_t i = 0; i < c->database_n; i++)
		assert(conf_database_find(c, c->database[i].name) ==
			   &c->database[i] &&
		       c->database[i].postgres != NULL);
	for (size_t i = 0; i < c->user_n; i++)
		assert(conf_user_find(c, c->user[i].name) == &c->user[i] &&
		       (c->user[i].password != NULL ||
			c->user[i].auth == AUTH_TRUST));
}

static void
check_tenants(const struct conf *c)
{
	for (size_t i = 0; i < c->tenant_n; i++) {
		const struct tenant *t = &c->tenant[i];

		assert(conf_tenant_find(c, t->slug) == t);
		assert(t->id != NULL && t->weight >= 1);
		for (size_t k = 0; k < t->var_n; k++) {
			char *value =
			    tenant_expand(t->var[k].value, t, "u", NULL);

			assert(value != NULL);
			free(value);
		}
	}
	for (size_t i = 0; i < c->variables_n; i++) {
		char *value =
		    tenant_expand(c->variables[i].value, NULL, "u", NULL);

		assert(value != NULL);
		free(value);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static char text[INPUT_MAX];
	struct conf_errors errors;
	char name[40];
	struct conf *c;
	int fd;

	if (n > sizeof(text))
		return 0;
	memcpy(text, data, n);
	n = tame(text, n);
	fd = memfd_create("conf", 0);
	assert(fd != -1 && write(fd, text, n) == (ssize_t)n);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	c = conf_load(name, &errors);
	assert((c == NULL) == (errors.n > 0));
	for (size_t i = 0; i < errors.n; i++) {
		assert(strncmp(errors.line[i], name, strlen(name)) == 0);
		assert(i == 0 || errors.line_at[i - 1] <= errors.line_at[i]);
	}
	if (c != NULL) {
		check_conf(c);
		check_tenants(c);
	}
	conf_free(&c);
	conf_errors_free(&errors);
	close(fd);
	return 0;
}
