#include "tls/offload.h"

#include <assert.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>

struct offload {
	pthread_mutex_t lock;
	pthread_cond_t work; /* a job came, or it is time to go */
	struct job *head, **tail;
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

/* Waits for one; NULL when there is none and none may come. */
static struct job *
job_take(struct offload *o)
{
	struct job *j;

	pthread_mutex_lock(&o->lock);
	while (o->head == NULL && !o->closing)
		pthread_cond_wait(&o->work, &o->lock);
	if ((j = o->head) != NULL && (o->head = j->next) == NULL)
		o->tail = &o->head;
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

void
offload_run(struct offload *o, struct job *j, struct mailbox *home,
	    void (*work)(struct job *), void (*done)(struct job *, void *owner))
{
	*j = (struct job){
		.message.run = job_done,
		.work = work,
		.done = done,
		.home = home,
	};
	pthread_mutex_lock(&o->lock);
	assert(!o->closing);
	*o->tail = j;
	o->tail = &j->next;
	pthread_cond_signal(&o->work);
	pthread_mutex_unlock(&o->lock);
}
