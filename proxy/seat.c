#include "proxy/seat.h"

#include <limits.h>
#include <stdio.h>

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

bool
seats_take(struct session *s, const struct conf_user *user,
	   const struct tenant *t, enum why *w)
{
	struct budget *by_user, *by_tenant = NULL;

	/* Who logs in again as who it is sits there already. */
	if (s->seat_user != NULL && s->user == user && s->lessee.tenant == t)
		return true;
	by_user = seat_take(s, "user", user->name, user->max_client_conn);
	if (by_user == NULL)
		return refused(s, w, WHY_USER_FULL, STAT_USER_FULL);
	if (t != NULL) {
		by_tenant =
		    seat_take(s, "organization", t->slug, t->max_client_conn);
		if (by_tenant == NULL) {
			seat_give(s, &by_user);
			return refused(s, w, WHY_TENANT_FULL, STAT_TENANT_FULL);
		}
	}
	seats_give(s);
	s->seat_user = by_user;
	s->seat_tenant = by_tenant;
	return true;
}

void
seats_give(struct session *s)
{
	seat_give(s, &s->seat_user);
	seat_give(s, &s->seat_tenant);
}
