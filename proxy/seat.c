#include "proxy/seat.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "proxy/session.h"
#include "proxy/worker.h"

/* NULL: it is full. */
static struct budget *
seat_take(struct session *s, const char *kind, const char *name, unsigned max)
{
	struct budgets *all = &s->worker->weir->budgets;
	char key[160]; /* a user's name has 63 bytes at most, a slug 100 */
	struct budget *b;

	snprintf(key, sizeof(key), "%s %s", kind, name);
	if ((b = budget_find(all, key, 0)) == NULL)
		return NULL;
	if (budget_take_to(b, max ? (int)max : INT_MAX))
		return b;
	budget_unref(all, &b);
	return NULL;
}

static void
seat_give(struct session *s, struct budget **b)
{
	if (*b == NULL)
		return;
	budget_give(&s->worker->weir->budgets, *b);
	budget_unref(&s->worker->weir->budgets, b);
}

static bool
refused(struct session *s, enum why *w, enum why which, enum stat_id count)
{
	stats_add(&s->worker->stats, count, 1);
	*w = which;
	return false;
}

static uint64_t
now_of(const struct session *s)
{
	return s->worker->streams.now_ns;
}

/* Takes tokens of that rate; or says when there are so many. */
static bool
rate_has(struct session *s, struct rates_entry *e, enum rate_kind kind,
	 unsigned n)
{
	uint64_t wait_ns;

	if (rate_take(&e->rate[kind], n, now_of(s), &wait_ns))
		return true;
	s->retry_ms = wait_ns == RATE_NEVER ? SESSION_NEVER
					    : (wait_ns + 999999u) / 1000000u;
	return false;
}

/* A newer one of the directory may stand for the same organization. */
static bool
same_tenant(const struct tenant *a, const struct tenant *b)
{
	return a == b ||
	       (a != NULL && b != NULL && strcmp(a->slug, b->slug) == 0);
}

/* pool_size speaks of Postgres; Redis servers are counted beside them. */
static void
share_key(char *key, size_t n, const struct proto *proto,
	  const struct tenant *t)
{
	snprintf(key, n, "servers %s %s", proto->name, t->slug);
}

static int
share_limit(const struct proto *proto, const struct tenant *t)
{
	return t->pool_size && proto == &pg_proto ? (int)t->pool_size : INT_MAX;
}

struct budget *
seat_share(const struct session *s, const struct tenant *t)
{
	char key[160];
	struct budget *b;

	share_key(key, sizeof(key), s->proto, t);
	b = budget_find(&s->worker->weir->budgets, key,
			share_limit(s->proto, t));
	if (b != NULL)
		budget_limit(b, share_limit(s->proto, t));
	return b;
}

/* The server it holds, if any, is of this share from now on. */
static struct budget *
share_change(struct session *s, struct budget *share)
{
	struct budgets *all = &s->worker->weir->budgets;
	struct budget *was = s->lessee.share;

	if (s->lessee.has_share)
		budget_give(all, s->lessee.share);
	s->lessee.has_share = s->lessee.server != NULL && share != NULL &&
			      budget_take_to(share, INT_MAX);
	s->lessee.share = share;
	return was;
}

static void
share_move(struct session *s, struct budget *share)
{
	struct budget *was = share_change(s, share);

	if (was != NULL)
		budget_unref(&s->worker->weir->budgets, &was);
}

/* Whose rates it is bound by from now on; what was paid ahead goes back. */
static struct rates_entry *
rates_change_to(struct session *s, struct rates_entry *rates)
{
	struct rates_entry *was = s->rates;

	if (s->paid > 0)
		rate_give(&was->rate[RATE_QUERIES], s->paid);
	s->paid = 0;
	s->rates = rates;
	return was;
}

static void
rates_move(struct session *s, struct rates_entry *rates)
{
	struct rates_entry *was = rates_change_to(s, rates);

	rates_unref(&s->worker->weir->rates, &was);
}

static void
seats_leave(struct session *s)
{
	seat_give(s, &s->seat_user);
	seat_give(s, &s->seat_tenant);
}

static bool
take(struct session *s, const struct conf_user *user, const struct tenant *t,
     bool logs_in, enum why *w)
{
	struct budget *by_user, *by_tenant = NULL;
	struct budget *share = NULL;
	struct rates_entry *rates = NULL;
	bool same = s->seat_user != NULL && s->user == user;

	/* Who logs in again as who it is sits there already. */
	if (same && same_tenant(s->lessee.tenant, t))
		return true;
	by_user = same
		      ? s->seat_user
		      : seat_take(s, "user", user->name, user->max_client_conn);
	if (by_user == NULL)
		return refused(s, w, WHY_USER_FULL, STAT_USER_FULL);
	if (t != NULL) {
		by_tenant =
		    seat_take(s, "organization", t->slug, t->max_client_conn);
		if (by_tenant == NULL) {
			if (!same)
				seat_give(s, &by_user);
			return refused(s, w, WHY_TENANT_FULL, STAT_TENANT_FULL);
		}
		if ((share = seat_share(s, t)) == NULL) {
			if (!same)
				seat_give(s, &by_user);
			seat_give(s, &by_tenant);
			return refused(s, w, WHY_TENANT_FULL, STAT_TENANT_FULL);
		}
		rates = rates_find(&s->worker->weir->rates, t, now_of(s));
		if (logs_in && !rate_has(s, rates, RATE_CONNECTIONS, 1)) {
			rates_unref(&s->worker->weir->rates, &rates);
			if (!same)
				seat_give(s, &by_user);
			seat_give(s, &by_tenant);
			budget_unref(&s->worker->weir->budgets, &share);
			return refused(s, w, WHY_RATE_CONNECTIONS,
				       STAT_RATE_CONNECTIONS);
		}
	}
	if (same)
		s->seat_user = NULL; /* that one is kept */
	seats_leave(s);
	share_move(s, share);
	s->seat_user = by_user;
	s->seat_tenant = by_tenant;
	rates_move(s, rates);
	return true;
}

bool
seats_take(struct session *s, const struct conf_user *user,
	   const struct tenant *t, enum why *w)
{
	return take(s, user, t, true, w);
}

bool
seats_move(struct session *s, const struct tenant *t, enum why *w)
{
	return take(s, s->user, t, false, w);
}

bool
seats_lend(struct session *s, struct seat_loan *own, const struct tenant *t)
{
	struct rates_entry *rates = NULL;
	struct budget *share = NULL;

	if (t != NULL && (share = seat_share(s, t)) == NULL)
		return false;
	if (t != NULL)
		rates = rates_find(&s->worker->weir->rates, t, now_of(s));
	if (own->lent) {
		share_move(s, share);
		rates_move(s, rates);
	} else {
		own->lent = true;
		own->share = share_change(s, share);
		own->rates = rates_change_to(s, rates);
	}
	return true;
}

void
seats_return(struct session *s, struct seat_loan *own)
{
	assert(own->lent);
	share_move(s, own->share);
	rates_move(s, own->rates);
	*own = (struct seat_loan){ 0 };
}

void
seats_forget(struct session *s, struct seat_loan *own)
{
	if (own->share != NULL)
		budget_unref(&s->worker->weir->budgets, &own->share);
	rates_unref(&s->worker->weir->rates, &own->rates);
	own->lent = false;
}

void
seats_give(struct session *s)
{
	seats_leave(s);
	rates_move(s, NULL);
	assert(!s->lessee.has_share); /* it has no server any more */
	share_move(s, NULL);
}

void
seats_reload(struct weir *weir, const struct conf *c)
{
	struct timespec ts;
	uint64_t now;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	for (size_t i = 0; i < c->tenant_n; i++) {
		const struct tenant *t = &c->tenant[i];
		char key[160];

		rates_change(&weir->rates, t, now);
		share_key(key, sizeof(key), &pg_proto, t);
		budgets_limit(&weir->budgets, key, share_limit(&pg_proto, t));
	}
}

bool
seat_pay_ahead(struct session *s, unsigned n)
{
	if (s->rates == NULL || s->paid >= n)
		return true;
	if (!rate_has(s, s->rates, RATE_QUERIES, n - s->paid)) {
		stats_add(&s->worker->stats, STAT_RATE_QUERIES, n);
		return false;
	}
	s->paid = n;
	return true;
}

bool
seat_pay(struct session *s)
{
	if (!seat_pay_ahead(s, 1))
		return false;
	s->paid -= s->paid > 0;
	return true;
}

bool
seat_pay_requests(struct session *s, unsigned n)
{
	unsigned more = n > s->paid ? n - s->paid : 0;

	if (s->rates == NULL)
		return true;
	if (more > 0 && !rate_has(s, s->rates, RATE_QUERIES, more))
		return false;
	s->paid = s->paid + more - n;
	return true;
}

enum seat_paid
seat_pay_operations(struct session *s, unsigned operations, unsigned requests)
{
	if (s->rates == NULL)
		return SEAT_PAID;
	if (!rate_has(s, s->rates, RATE_OPERATIONS, operations))
		return SEAT_NO_OPERATIONS;
	if (seat_pay_requests(s, requests))
		return SEAT_PAID;
	rate_give(&s->rates->rate[RATE_OPERATIONS], operations);
	return SEAT_NO_QUERIES;
}

void
seat_pay_back(struct session *s)
{
	s->paid += s->rates != NULL;
}
