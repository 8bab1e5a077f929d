#include "conf/value.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>
#include <unistd.h>

#include "conf/mem.h"

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit time_units[] = {
	{ "", 1000 },     { "ms", 1 },      { "s", 1000 },
	{ "min", 60000 }, { "h", 3600000 }, { "d", 86400000 },
};

static const struct unit size_units[] = {
	{ "", 1 },
	{ "kB", 1 << 10 },
	{ "MB", 1 << 20 },
	{ "GB", 1 << 30 },
};

/* ASCII whatever the locale. */
static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Digits at *p as a number, *p moved behind them; -1: none, or too many. */
static int
take_digits(const char **p, uint64_t *n)
{
	uint64_t v = 0;

	if (!is_digit(**p))
		return -1;
	for (; is_digit(**p); (*p)++) {
		uint64_t digit = (uint64_t)(**p - '0');

		if (v > (UINT64_MAX - digit) / 10)
			return -1;
		v = v * 10 + digit;
	}
	*n = v;
	return 0;
}

int
value_bool(const char *text, bool *out)
{
	static const char *const words[] = { "off",   "on",   "no", "yes",
					     "false", "true", "0",  "1" };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcasecmp(text, words[i]) == 0) {
			*out = i % 2 == 1;
			return 0;
		}
	}
	return -1;
}

int
value_uint(const char *text, uint64_t *out)
{
	const char *p = text;
	uint64_t v;

	if (take_digits(&p, &v) == -1 || *p != '\0')
		return -1;
	*out = v;
	return 0;
}

/*
 * NUMBER[.FRACTION][ ]UNIT in the smallest unit, rounded up.  Six digits of
 * the fraction count, which is finer than any unit needs.
 */
static int
with_unit(const char *text, const struct unit *units, size_t n, uint64_t *out)
{
	uint64_t whole, part = 0, scale = 1;
	const char *p = text;

	if (take_digits(&p, &whole) == -1)
		return -1;
	if (*p == '.') {
		if (!is_digit(*++p))
			return -1;
		for (; is_digit(*p); p++) {
			if (scale == 1000000)
				continue;
			part = part * 10 + (uint64_t)(*p - '0');
			scale *= 10;
		}
	}
	if (*p == ' ' && p[1] != '\0')
		p++;
	for (size_t i = 0; i < n; i++) {
		uint64_t f = units[i].factor;

		if (strcmp(p, units[i].name) != 0)
			continue;
		if (whole > UINT64_MAX / f - 1)
			return -1;
		*out = whole * f + (part * f + scale - 1) / scale;
		return 0;
	}
	return -1;
}

int
value_time(const char *text, uint64_t *ms)
{
	return with_unit(text, time_units,
			 sizeof(time_units) / sizeof(time_units[0]), ms);
}

int
value_size(const char *text, uint64_t *bytes)
{
	return with_unit(text, size_units,
			 sizeof(size_units) / sizeof(size_units[0]), bytes);
}

int
value_rate(const char *text, struct tenant_rate *out)
{
	struct tenant_rate r;
	const char *p = text;

	if (take_digits(&p, &r.count) == -1 || *p++ != '/')
		return -1;
	if (value_time(p, &r.period_ms) == -1)
		return -1;
	if (r.count == 0 || r.period_ms == 0)
		return -1;
	*out = r;
	return 0;
}

bool
value_is_variable(const char *name)
{
	bool begins = true;

	for (; *name != '\0'; name++) {
		char c = *name;

		if (begins && !is_letter(c) && c != '_')
			return false;
		if (!is_letter(c) && !is_digit(c) && c != '_' && c != '$' &&
		    c != '.')
			return false;
		begins = c == '.';
	}
	return !begins;
}

bool
value_is_host(const char *host)
{
	struct in6_addr v6;
	size_t n = strlen(host);

	if (strchr(host, ':') != NULL)
		return inet_pton(AF_INET6, host, &v6) == 1;
	if (n == 0 || n > 253)
		return false;
	for (size_t i = 0; i < n; i++) {
		char c = host[i];

		if (!is_letter(c) && !is_digit(c) && c != '.' && c != '-' &&
		    c != '_')
			return false;
	}
	return host[0] != '.' && host[0] != '-';
}

static int
take_port(const char *p, unsigned *port)
{
	uint64_t v;

	if (value_uint(p, &v) == -1 || v < 1 || v > 65535)
		return -1;
	*port = (unsigned)v;
	return 0;
}

/* Where the port of host:port begins, its colon; the end if there is none: a
 * bare IPv6 address has colons of its own, a directory may have some. */
static size_t
host_length(const char *text)
{
	const char *colon = strrchr(text, ':');

	if (colon == NULL ||
	    (text[0] != '/' && text[0] != '[' && strchr(text, ':') != colon))
		return strlen(text);
	if (text[0] == '[' && colon[-1] != ']')
		return strlen(text);
	return (size_t)(colon - text);
}

int
value_host(const char *text, struct conf_host *host)
{
	/* PostgreSQL's socket lies in its directory as .s.PGSQL.port. */
	const size_t most = sizeof(((struct sockaddr_un *)0)->sun_path) -
			    sizeof("/.s.PGSQL.65535");
	size_t n = host_length(text);
	unsigned port = 0;
	char *name;
	bool ok;

	if (text[n] == ':' && take_port(text + n + 1, &port) == -1)
		return -1;
	if (text[0] == '[' && n >= 2 && text[n - 1] == ']') {
		name = mem_text(text + 1, n - 2);
		ok = strchr(name, ':') != NULL && value_is_host(name);
	} else {
		name = mem_text(text, n);
		ok = name[0] == '/' ? n <= most : value_is_host(name);
	}
	if (!ok) {
		free(name);
		return -1;
	}
	*host = (struct conf_host){ name, port };
	return 0;
}

static int
listen_unix(const char *path, struct conf_listen *l)
{
	struct sockaddr_un *sun = (struct sockaddr_un *)&l->addr;
	size_t n = strlen(path);

	if (path[0] != '/' || n >= sizeof(sun->sun_path))
		return -1;
	sun->sun_family = AF_UNIX;
	memcpy(sun->sun_path, path, n + 1);
	l->addr_len = (socklen_t)sizeof(*sun);
	return 0;
}

static int
listen_inet(const char *text, struct conf_listen *l)
{
	struct sockaddr_in *sin = (struct sockaddr_in *)&l->addr;
	struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)&l->addr;
	const char *colon = strrchr(text, ':');
	char host[INET6_ADDRSTRLEN + 2];
	unsigned port;
	size_t n;

	if (colon == NULL || take_port(colon + 1, &port) == -1)
		return -1;
	n = (size_t)(colon - text);
	if (n == 0 || n >= sizeof(host))
		return -1;
	memcpy(host, text, n);
	host[n] = '\0';
	if (host[0] == '[' && host[n - 1] == ']') {
		host[n - 1] = '\0';
		sin6->sin6_family = AF_INET6;
		sin6->sin6_port = htons((uint16_t)port);
		l->addr_len = (socklen_t)sizeof(*sin6);
		return inet_pton(AF_INET6, host + 1, &sin6->sin6_addr) == 1
			   ? 0
			   : -1;
	}
	if (strcmp(host, "*") == 0)
		strcpy(host, "0.0.0.0");
	else if (strcmp(host, "localhost") == 0)
		strcpy(host, "127.0.0.1");
	sin->sin_family = AF_INET;
	sin->sin_port = htons((uint16_t)port);
	l->addr_len = (socklen_t)sizeof(*sin);
	return inet_pton(AF_INET, host, &sin->sin_addr) == 1 ? 0 : -1;
}

int
value_listen(const char *text, enum conf_listen_kind kind,
	     struct conf_listen *out)
{
	struct conf_listen l = { .kind = kind };
	int rc;

	if (strncmp(text, "unix:", 5) == 0)
		rc = listen_unix(text + 5, &l);
	else
		rc = listen_inet(text, &l);
	if (rc == -1)
		return -1;
	l.text = mem_text(text, strlen(text));
	*out = l;
	return 0;
}

static int
hex(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* p[0..n) with %XX replaced, in memory the caller frees; NULL: malformed. */
static char *
percent_decode(const char *p, size_t n)
{
	char *out = mem_zero(n + 1, 1, "a url");
	size_t len = 0;

	for (size_t i = 0; i < n; i++) {
		int hi, lo;

		if (p[i] != '%') {
			out[len++] = p[i];
			continue;
		}
		if (n - i < 3 || (hi = hex(p[i + 1])) == -1 ||
		    (lo = hex(p[i + 2])) == -1 || hi + lo == 0) {
			free(out);
			return NULL;
		}
		out[len++] = (char)(hi << 4 | lo);
		i += 2;
	}
	return out;
}

/* user[:password]; without a user the password is that of `default`. */
static int
url_login(const char *p, size_t n, struct conf_redis *r)
{
	const char *colon = memchr(p, ':', n);
	size_t user_n = colon ? (size_t)(colon - p) : n;

	if ((r->user = percent_decode(p, user_n)) == NULL)
		return -1;
	if (r->user[0] == '\0') {
		free(r->user);
		r->user = NULL;
	}
	if (colon != NULL) {
		r->password = percent_decode(colon + 1, n - user_n - 1);
		if (r->password == NULL)
			return -1;
	} else if (r->user != NULL) {
		r->password = mem_text("", 0); /* a user who needs none */
	}
	if (r->user == NULL && r->password != NULL && !r->password[0]) {
		free(r->password);
		r->password = NULL;
	}
	return 0;
}

/* host, host:port, [v6] or [v6]:port; the port is 0 if none is named. */
static int
url_host(const char *p, size_t n, struct conf_host *h)
{
	size_t host_n;
	char *port;
	int rc = 0;

	*h = (struct conf_host){ 0 };
	if (n > 0 && *p == '[') {
		const char *close = memchr(p, ']', n);

		if (close == NULL)
			return -1;
		host_n = (size_t)(close - p) - 1;
		h->name = mem_text(p + 1, host_n);
		host_n += 2;
		if (strchr(h->name, ':') == NULL)
			return -1;
	} else {
		const char *colon = memchr(p, ':', n);

		host_n = colon ? (size_t)(colon - p) : n;
		h->name = mem_text(p, host_n);
	}
	if (!value_is_host(h->name))
		return -1;
	if (host_n < n) {
		port = mem_text(p + host_n + 1, n - host_n - 1);
		rc = p[host_n] == ':' ? take_port(port, &h->port) : -1;
		free(port);
	}
	return rc;
}

/* One or more, with commas between. */
static int
url_hosts(const char *p, size_t n, struct conf_redis *r)
{
	for (;;) {
		const char *comma = memchr(p, ',', n);
		size_t host_n = comma ? (size_t)(comma - p) : n;
		struct conf_host h;
		int rc = url_host(p, host_n, &h);

		if (rc == -1 || r->hosts_n == CONF_HOSTS_MAX) {
			free(h.name);
			return -1;
		}
		r->hosts = mem_more(r->hosts, r->hosts_n, sizeof(*r->hosts));
		r->hosts[r->hosts_n++] = h;
		if (comma == NULL)
			break;
		n -= host_n + 1;
		p = comma + 1;
	}
	r->host = mem_copy(r->hosts[0].name);
	r->port = r->hosts[0].port ? r->hosts[0].port : 6379;
	return 0;
}

static int
url_parts(const char *p, struct conf_redis *r)
{
	size_t n = strcspn(p, "/?#");
	const char *path = p + n, *at;
	uint64_t db = 0;

	if ((at = memrchr(p, '@', n)) != NULL) {
		if (url_login(p, (size_t)(at - p), r) == -1)
			return -1;
		n -= (size_t)(at - p) + 1;
		p = at + 1;
	}
	if (url_hosts(p, n, r) == -1)
		return -1;
	if (*path == '/' && path[1] != '\0' &&
	    (value_uint(path + 1, &db) == -1 || db > 65535))
		return -1;
	if (*path != '\0' && *path != '/')
		return -1;
	r->db = (unsigned)db;
	return 0;
}

int
value_redis_url(const char *url, struct conf_redis *out)
{
	struct conf_redis r = { 0 };
	int rc = -1;

	if (strncmp(url, "redis://", 8) == 0) {
		rc = url_parts(url + 8, &r);
	} else if (strncmp(url, "rediss://", 9) == 0) {
		r.tls = true;
		rc = url_parts(url + 9, &r);
	}
	if (rc == -1) {
		for (size_t i = 0; i < r.hosts_n; i++)
			free(r.hosts[i].name);
		free(r.hosts);
		free(r.host);
		free(r.user);
		free(r.password);
		return -1;
	}
	out->tls = r.tls;
	out->host = r.host;
	out->port = r.port;
	out->hosts = r.hosts;
	out->hosts_n = r.hosts_n;
	out->user = r.user;
	out->password = r.password;
	out->db = r.db;
	return 0;
}

char *
value_next(const char **list)
{
	const char *p = *list;
	size_t n;

	if (p == NULL)
		return NULL;
	n = strcspn(p, ",");
	*list = p[n] == ',' ? p + n + 1 : NULL;
	while (n > 0 && (*p == ' ' || *p == '\t')) {
		p++;
		n--;
	}
	while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\t'))
		n--;
	return mem_text(p, n);
}

/* The length of NAME} at p, the brace not counted; 0: it is not one. */
static size_t
variable_name(const char *p)
{
	size_t n = 0;

	while (is_letter(p[n]) || p[n] == '_' || (n > 0 && is_digit(p[n])))
		n++;
	return p[n] == '}' ? n : 0;
}

static char *
from_environment(const char *text, char why[VALUE_WHY_MAX])
{
	char *out = NULL;
	size_t out_n;
	FILE *f = mem_or_abort(open_memstream(&out, &out_n), 1, "a value");

	while (*text != '\0') {
		const char *dollar = strstr(text, "${"), *value;
		size_t n = dollar ? (size_t)(dollar - text) : strlen(text);
		char *name;

		fwrite(text, 1, n, f);
		text += n;
		if (dollar == NULL)
			break;
		if ((n = variable_name(text + 2)) == 0) {
			snprintf(why, VALUE_WHY_MAX,
				 "a ${ that is not ${NAME},"
				 " expected the name of an"
				 " environment variable");
			goto refuse;
		}
		name = mem_text(text + 2, n);
		value = getenv(name);
		if (value == NULL)
			snprintf(why, VALUE_WHY_MAX,
				 "${%.100s} is not set in the environment, "
				 "expected it to be",
				 name);
		free(name);
		if (value == NULL)
			goto refuse;
		fputs(value, f);
		text += n + 3;
	}
	fclose(f);
	return mem_or_abort(out, out_n, "a value");
refuse:
	fclose(f);
	free(out);
	return NULL;
}

/* Reads until the end of the line, of the file, or of what a value may be. */
static ssize_t
read_line(int fd, char *line, size_t room)
{
	size_t n = 0;

	while (n < room && memchr(line, '\n', n) == NULL) {
		ssize_t got = read(fd, line + n, room - n);

		if (got == -1 && errno == EINTR)
			continue;
		if (got == -1)
			return -1;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	return (ssize_t)n;
}

static char *
from_file(const char *path, char why[VALUE_WHY_MAX])
{
	char line[CONF_LINE_MAX + 2], *text = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = -1;
	size_t n;

	if (fd == -1 || (got = read_line(fd, line, sizeof(line))) == -1) {
		snprintf(why, VALUE_WHY_MAX,
			 "@%.300s cannot be read: %s, expected a file", path,
			 strerror(errno));
	} else {
		const char *eol = memchr(line, '\n', (size_t)got);

		n = eol ? (size_t)(eol - line) : (size_t)got;
		if (n > 0 && line[n - 1] == '\r')
			n--;
		if (n > CONF_LINE_MAX || memchr(line, '\0', n) != NULL)
			snprintf(why, VALUE_WHY_MAX,
				 "@%.300s: expected a first line of at most %d"
				 " bytes of text",
				 path, CONF_LINE_MAX);
		else
			text = mem_text(line, n);
		explicit_bzero(line, (size_t)got);
	}
	if (fd != -1)
		close(fd);
	return text;
}

char *
value_expand(const char *text, char why[VALUE_WHY_MAX])
{
	bool is_file = strncmp(text, "@/", 2) == 0;
	char *path, *value;

	path = from_environment(text, why);
	if (path == NULL || !is_file)
		return path;
	value = from_file(path + 1, why);
	free(path);
	return value;
}
