#include "proxy/worker.h"

#include <assert.h>
#include <stdlib.h>

#include "proxy/cancel.h"
#include "proxy/listener.h"
#include "proxy/pg_batch.h"
#include "proxy/pg_text.h"
#include "proxy/redis_hub.h"
#include "proxy/redis_publish.h"
#include "proxy/session.h"

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct worker *w = arg;

	(void)fd;
	(void)what;
	streams_tick(&w->streams);
	listeners_wake(w);
	if (w->drain_ns != 0)
		sessions_drain(w);
}

/* Nothing to do: the turn drains the mailbox. */
static void
on_mail(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	streams_tick(&((struct worker *)arg)->streams);
}

/* One turn.  The order is the design: read all, decide once, write once,
 * bury last. */
static void
worker_turn(struct worker *w)
{
	event_base_loop(w->base, EVLOOP_ONCE);
	mailbox_drain(&w->mailbox);
	wheel_run(&w->streams.wheel, w->streams.now_ns);
	sessions_run_awake(w);
	pg_batches_run(w);
	redis_publish_run(w);
	pools_poke(&w->pools);
	streams_flush(&w->streams);
	sessions_run_awake(w);
	pg_batches_run(w);
	redis_publish_run(w);
	streams_flush(&w->streams);
	sessions_reap(w);
	cancels_reap(w);
	pools_reap(&w->pools);
	stats_add(&w->stats, STAT_TURNS, 1);
}

/* Another worker's clients may have operations for us, as long as there are
 * any: who has none makes no more. */
static bool
worker_is_done(const struct worker *w)
{
	return w->drain_ns != 0 && w->sessions_n == 0 &&
	       atomic_load(&w->weir->deaf) == w->weir->workers &&
	       atomic_load(&w->weir->clients) == 0 &&
	       atomic_load(&w->weir->operations) == 0 && pg_batches_idle(w);
}

static void *
worker_main(void *arg)
{
	struct worker *w = arg;

	pools_open_known(&w->pools, w->snapshot);
	while (!worker_is_done(w))
		worker_turn(w);
	cancels_abort(w);
	hubs_stop(w->hubs);
	pools_close(&w->pools);
	/* Jobs of ours on other threads come home before we go. */
	while (w->jobs > 0 || w->pools.jobs > 0 || w->dead != NULL ||
	       w->pools.dead != NULL)
		worker_turn(w);
	atomic_fetch_sub(&w->weir->running, 1);
	return NULL;
}

static int
worker_events(struct worker *w)
{
	struct timeval tick = { .tv_usec = WHEEL_TICK_NS / 1000 };

	event_assign(&w->tick, w->base, -1, EV_PERSIST, on_tick, w);
	event_assign(&w->mail, w->base, w->mailbox.fd, EV_READ | EV_PERSIST,
		     on_mail, w);
	return event_add(&w->tick, &tick) | event_add(&w->mail, NULL);
}

struct worker *
worker_open(struct weir *weir, unsigned id)
{
	struct event_config *config = event_config_new();
	struct worker *w = aligned_alloc(64, (sizeof(*w) + 63) / 64 * 64);

	if (w == NULL || config == NULL)
		abort();
	*w = (struct worker){ .id = id, .weir = weir };
	/* One thread, one base: no locks in it. */
	event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
	w->base = event_base_new_with_config(config);
	event_config_free(config);
	w->cancels = cancels_open();
	w->batches = pg_batches_open(w);
	w->publishers = redis_publish_open(w);
	w->texts = calloc(PG_TEXTS, sizeof(*w->texts));
	w->hubs = hubs_open(w);
	if (w->base == NULL || w->cancels == NULL || w->texts == NULL ||
	    w->hubs == NULL || mailbox_init(&w->mailbox, w) != 0 ||
	    streams_init(&w->streams, w->base, &w->stats) != 0 ||
	    worker_events(w) != 0)
		return NULL; /* the process ends: nothing to undo */
	w->snapshot = snapshot_ref(weir->snapshot);
	w->pools = (struct pools){ .worker = id,
				   .streams = &w->streams,
				   .stats = &w->stats,
				   .log = weir->log,
				   .mailbox = &w->mailbox,
				   .mailboxes = weir->mailboxes,
				   .budgets = &weir->budgets,
				   .facts = &weir->facts,
				   .cpu = weir->cpu,
				   .dns = weir->dns };
	pools_init(&w->pools);
	return w;
}

int
worker_start(struct worker *w)
{
	return pthread_create(&w->thread, NULL, worker_main, w) == 0 ? 0 : -1;
}

void
worker_close(struct worker **at)
{
	struct worker *w = *at;

	*at = NULL;
	hubs_stop(w->hubs);
	/* Servers, and answers, on their way to us when we went. */
	mailbox_drain(&w->mailbox);
	hubs_close(&w->hubs);
	pools_close(&w->pools);
	cancels_reap(w);
	pools_reap(&w->pools);
	pg_batches_close(&w->batches);
	redis_publish_close(&w->publishers);
	pg_texts_fini(w);
	free(w->texts);
	pools_fini(&w->pools);
	cancels_close(&w->cancels);
	listeners_close(w);
	event_del(&w->tick);
	event_del(&w->mail);
	mailbox_fini(&w->mailbox);
	streams_fini(&w->streams);
	snapshot_unref(&w->snapshot);
	event_base_free(w->base);
	free(w);
}

/* ---- what main asks of a worker --------------------------------------- */

struct order {
	struct message message;
	struct snapshot *snapshot; /* NULL: drain */
};

static void
take_over(struct worker *w, struct snapshot *snapshot)
{
	snapshot_unref(&w->snapshot);
	w->snapshot = snapshot;
	pools_reload(&w->pools, snapshot);
	if (atomic_fetch_sub(&snapshot->awaited, 1) == 1)
		LOG(w->weir->log, LOG_INFO, LOG_EV_RELOAD,
		    log_str("file", w->weir->file), log_str("result", "ok"));
}

static void
obey(struct message *m, void *owner)
{
	struct order *o = (struct order *)(void *)m;
	struct worker *w = owner;

	if (o->snapshot != NULL) {
		take_over(w, o->snapshot);
	} else if (w->drain_ns == 0) {
		listeners_close(w);
		atomic_fetch_add(&w->weir->deaf, 1);
		w->drain_ns = w->streams.now_ns +
			      w->snapshot->conf->drain_timeout_ms * 1000000u +
			      1;
		sessions_drain(w);
	}
	free(o);
}

static void
worker_order(struct worker *w, struct snapshot *snapshot)
{
	struct order *o = calloc(1, sizeof(*o));

	if (o == NULL)
		abort();
	o->message.run = obey;
	o->snapshot = snapshot;
	mailbox_post(&w->mailbox, &o->message);
}

void
worker_reload(struct worker *w, struct snapshot *snapshot)
{
	worker_order(w, snapshot_ref(snapshot));
}

void
worker_drain(struct worker *w)
{
	worker_order(w, NULL);
}
