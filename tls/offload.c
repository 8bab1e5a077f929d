#include "tls/offload.h"

#include <assert.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>

enum { BUCKETS = 256 };

/* The jobs of a key that wait; there is none without. */
struct line {
	struct line *next; /* whose turn is next */
	struct line *peer; /* of its bucket */
	uint64_t key;
	struct job *head, **tail;
	unsigned n;
};

struct offload {
	pthread_mutex_t lock;
	pthread_cond_t work;       /* a job came, or it is time to go */
	struct line *head, **tail; /* in the order of their turns */
	struct line *bucket[BUCKETS];
	unsigned keyed;   /* jobs that wait, of keys but 0 */
	uint64_t started; /* jobs ever */
	bool closing;
	unsigned threads;
	pthread_t thread[];
};

/* The job's way home: `done` on the poster's thread. */
static void
job_done(struct message *m, void *owner)
{
	struct job *j = (struct job *)m;

	j->done(j, owner);
}

static_assert(offsetof(struct job, message) == 0, "a job is its message");

static struct line **
bucket_of(struct offload *o, uint64_t key)
{
	return &o->bucket[(key ^ key >> 32) % BUCKETS];
}

static struct line *
line_find(struct offload *o, uint64_t key)
{
	struct line *l = *bucket_of(o, key);

	while (l != NULL && l->key != key)
		l = l->peer;
	return l;
}

/* Behind all others. */
static void
line_queue(struct offload *o, struct line *l)
{
	l->next = NULL;
	*o->tail = l;
	o->tail = &l->next;
}

static struct line *
line_new(struct offload *o, uint64_t key)
{
	struct line *l = calloc(1, sizeof(*l)), **bucket = bucket_of(o, key);

	if (l == NULL)
		abort(); /* no more than there are jobs */
	l->key = key;
	l->tail = &l->head;
	l->peer = *bucket;
	*bucket = l;
	line_queue(o, l);
	return l;
}

static void
line_free(struct offload *o, struct line *l)
{
	struct line **at = bucket_of(o, l->key);

	while (*at != l)
		at = &(*at)->peer;
	*at = l->peer;
	free(l);
}

/* The first job of the line whose turn it is. */
static struct job *
line_serve(struct offload *o)
{
	struct line *l = o->head;
	struct job *j = l->head;

	if ((o->head = l->next) == NULL)
		o->tail = &o->head;
	if ((l->head = j->next) == NULL)
		l->tail = &l->head;
	l->n--;
	o->keyed -= l->key != 0;
	if (l->n > 0)
		line_queue(o, l);
	else
		line_free(o, l);
	j->passed = o->started++ - j->passed;
	return j;
}

/* Waits for one; NULL when there is none and none may come. */
static struct job *
job_take(struct offload *o)
{
	struct job *j;

	pthread_mutex_lock(&o->lock);
	while (o->head == NULL && !o->closing)
		pthread_cond_wait(&o->work, &o->lock);
	j = o->head != NULL ? line_serve(o) : NULL;
	pthread_mutex_unlock(&o->lock);
	return j;
}

static void *
thread_main(void *arg)
{
	struct offload *o = arg;
	struct job *j;

	while ((j = job_take(o)) != NULL) {
		j->work(j);
		mailbox_post(j->home, &j->message);
	}
	return NULL;
}

/* Signals are for the main thread: ours start with all of them blocked. */
static int
threads_start(struct offload *o, unsigned threads)
{
	sigset_t all, before;
	int failed = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (o->threads < threads && !failed) {
		failed = pthread_create(&o->thread[o->threads], NULL,
					thread_main, o);
		if (!failed)
			o->threads++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed ? -1 : 0;
}

struct offload *
offload_open(unsigned threads)
{
	struct offload *o;

	assert(threads > 0);
	o = calloc(1, sizeof(*o) + threads * sizeof(o->thread[0]));
	if (o == NULL)
		return NULL;
	o->tail = &o->head;
	pthread_mutex_init(&o->lock, NULL);
	pthread_cond_init(&o->work, NULL);
	if (threads_start(o, threads) == -1)
		offload_close(&o);
	return o;
}

void
offload_close(struct offload **op)
{
	struct offload *o = *op;

	if (o == NULL)
		return;
	*op = NULL;
	pthread_mutex_lock(&o->lock);
	o->closing = true;
	pthread_cond_broadcast(&o->work);
	pthread_mutex_unlock(&o->lock);
	for (unsigned i = 0; i < o->threads; i++)
		pthread_join(o->thread[i], NULL);
	assert(o->head == NULL);
	pthread_cond_destroy(&o->work);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

/* -1: there is no room for one more. */
static int
job_put(struct offload *o, struct job *j, const struct offload_turn *turn)
{
	struct line *l = line_find(o, turn->key);

	assert(!o->closing);
	if (turn->key != 0 &&
	    (o->keyed >= turn->all || (l != NULL && l->n >= turn->each)))
		return -1;
	if (l == NULL)
		l = line_new(o, turn->key);
	j->passed = o->started;
	*l->tail = j;
	l->tail = &j->next;
	l->n++;
	o->keyed += turn->key != 0;
	pthread_cond_signal(&o->work);
	return 0;
}

static int
offload_put(struct offload *o, struct job *j, const struct offload_turn *turn,
	    struct mailbox *home, void (*work)(struct job *),
	    void (*done)(struct job *, void *owner))
{
	int r;

	*j = (struct job){
		.message.run = job_done,
		.work = work,
		.done = done,
		.home = home,
	};
	pthread_mutex_lock(&o->lock);
	r = job_put(o, j, turn);
	pthread_mutex_unlock(&o->lock);
	return r;
}

void
offload_run(struct offload *o, struct job *j, struct mailbox *home,
	    void (*work)(struct job *), void (*done)(struct job *, void *owner))
{
	static const struct offload_turn nobodys = { 0 };

	if (offload_put(o, j, &nobodys, home, work, done) != 0)
		abort(); /* key 0 is not bounded */
}

int
offload_try(struct offload *o, struct job *j, const struct offload_turn *turn,
	    struct mailbox *home, void (*work)(struct job *),
	    void (*done)(struct job *, void *owner))
{
	assert(turn->key != 0);
	return offload_put(o, j, turn, home, work, done);
}
