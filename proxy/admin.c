#include "proxy/admin.h"

#include <event2/buffer.h>
#include <event2/http.h>
#include <stdlib.h>

#include "conf/stats.h"
#include "protocol/buf.h"
#include "proxy/rls.h"
#include "proxy/worker.h"

enum { REQUEST_MAX = 8192, SECONDS_MAX = 5, METRICS_MAX = 4 << 20 };

struct admin {
	struct weir *weir;
	struct evhttp *http;
};

static void
answer(struct evhttp_request *req, int code, const char *type, const void *p,
       size_t n)
{
	struct evbuffer *body = evbuffer_new();

	if (body == NULL)
		abort();
	evhttp_add_header(evhttp_request_get_output_headers(req),
			  "Content-Type", type);
	evhttp_add_header(evhttp_request_get_output_headers(req),
			  "Cache-Control", "no-store");
	evbuffer_add(body, p, n);
	evhttp_send_reply(req, code, NULL, body);
	evbuffer_free(body);
}

/* Alive: this thread answers. */
static void
on_healthz(struct evhttp_request *req, void *arg)
{
	(void)arg;
	answer(req, HTTP_OK, "text/plain", "ok\n", 3);
}

/* Ready: not draining, and no upstream that was asked for is out of reach. */
static void
on_readyz(struct evhttp_request *req, void *arg)
{
	struct admin *a = arg;
	char text[1200], key[1024];
	bool down = budgets_down(&a->weir->budgets, key, sizeof(key));
	int n;

	if (atomic_load(&a->weir->draining))
		n = snprintf(text, sizeof(text), "draining\n");
	else if (down)
		n = snprintf(text, sizeof(text), "unreachable: %s\n", key);
	else
		n = snprintf(text, sizeof(text), "ready\n");
	answer(req, text[0] == 'r' ? HTTP_OK : HTTP_SERVUNAVAIL, "text/plain",
	       text, (size_t)n);
}

static void
on_metrics(struct evhttp_request *req, void *arg)
{
	struct admin *a = arg;
	struct buf b;
	size_t n;

	buf_init(&b, METRICS_MAX);
	if (stats_print(&b, a->weir->stats, a->weir->workers) != 0 ||
	    rls_print(a->weir->rls, &b) != 0)
		evhttp_send_error(req, HTTP_INTERNAL, NULL);
	else
		answer(req, HTTP_OK, "text/plain; version=0.0.4",
		       buf_peek(&b, &n), buf_len(&b));
	buf_free(&b);
}

struct admin *
admin_open(struct weir *weir, struct event_base *base)
{
	struct admin *a = calloc(1, sizeof(*a));

	if (a == NULL || (a->http = evhttp_new(base)) == NULL)
		abort();
	a->weir = weir;
	evhttp_set_allowed_methods(a->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
	evhttp_set_max_headers_size(a->http, REQUEST_MAX);
	evhttp_set_max_body_size(a->http, REQUEST_MAX);
	evhttp_set_timeout(a->http, SECONDS_MAX);
	evhttp_set_cb(a->http, "/healthz", on_healthz, a);
	evhttp_set_cb(a->http, "/readyz", on_readyz, a);
	evhttp_set_cb(a->http, "/metrics", on_metrics, a);
	return a;
}

int
admin_listen(struct admin *a, int fd)
{
	return evhttp_accept_socket(a->http, fd);
}

void
admin_close(struct admin **at)
{
	evhttp_free((*at)->http);
	free(*at);
	*at = NULL;
}
