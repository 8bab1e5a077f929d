#include "pool/redis_sentinel.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "pool/redis_ask.h"
#include "protocol/redis_where.h"

/* What one of them says. */
static int
ask_one(struct redis_sentinel *q, const struct conf_host *h, char *error)
{
	const struct conf_redis *up = q->redis;
	struct sockaddr_storage peer;
	socklen_t peer_n = 0;
	const struct redis_ask ask = {
		.host = h->name,
		.port = h->port,
		.ctx = up->tls ? q->snapshot->redis[up->index] : NULL,
		.verify_name = up->sslmode == SSLMODE_VERIFY_FULL,
		.user = up->sentinel_user,
		.password = up->sentinel_password,
		.peer = &peer,
		.peer_n = &peer_n,
	};
	const struct slice arg[] = { slice_str("SENTINEL"),
				     slice_str("GET-MASTER-ADDR-BY-NAME"),
				     slice_str(up->sentinel) };
	struct redis_place at;
	const uint8_t *p;
	struct buf b;
	size_t n;
	int rc;

	if (redis_ask(&ask, arg, 3, &b, error) != 0)
		return -1;
	p = buf_peek(&b, &n);
	rc = redis_where_master(p, n, &at);
	if (rc > 0) {
		assert(at.name.n < sizeof(q->name));
		memcpy(q->name, at.name.p, at.name.n);
		q->name[at.name.n] = '\0';
		q->port = at.port;
		q->peer = peer;
		q->peer_n = peer_n;
	} else {
		snprintf(error, REDIS_ASK_ERROR_MAX, "%s",
			 rc == 0 ? "does not know this master"
				 : "not a Sentinel");
	}
	buf_free(&b);
	return rc > 0 ? 0 : -1;
}

int
redis_sentinel_ask(struct redis_sentinel *q, char *error, size_t n)
{
	const struct conf_redis *up = q->redis;
	char why[REDIS_ASK_ERROR_MAX];
	size_t at = 0;

	error[0] = '\0';
	for (unsigned i = 0; i < up->hosts_n; i++) {
		unsigned k = (q->first + i) % (unsigned)up->hosts_n;
		const struct conf_host *h = &up->hosts[k];

		if (ask_one(q, h, why) == 0) {
			q->first = k;
			return 0;
		}
		if (at < n)
			at += (size_t)snprintf(
			    error + at, n - at, "%sSentinel %s:%u: %s",
			    i ? "; " : "", h->name, h->port, why);
	}
	return -1;
}
