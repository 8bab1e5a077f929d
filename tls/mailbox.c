#include "tls/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int
mailbox_init(struct mailbox *m, void *owner)
{
	*m = (struct mailbox){ .fd = -1, .owner = owner };
	m->tail = &m->head;
	if ((errno = pthread_mutex_init(&m->lock, NULL)) != 0)
		return -1;
	m->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (m->fd == -1) {
		pthread_mutex_destroy(&m->lock);
		return -1;
	}
	return 0;
}

void
mailbox_fini(struct mailbox *m)
{
	assert(m->fd != -1);
	close(m->fd);
	m->fd = -1;
	pthread_mutex_destroy(&m->lock);
}

/*
 * Woken under the lock: once it is given up the receiver may run the message
 * and be gone, and `m` with it.
 */
void
mailbox_post(struct mailbox *m, struct message *message)
{
	static const uint64_t one = 1;
	ssize_t r = sizeof(one);

	assert(message->run != NULL);
	message->next = NULL;
	pthread_mutex_lock(&m->lock);
	if (m->head == NULL)
		do
			r = write(m->fd, &one, sizeof(one));
		while (r == -1 && errno == EINTR);
	*m->tail = message;
	m->tail = &message->next;
	pthread_mutex_unlock(&m->lock);
	assert(r == sizeof(one)); /* the count never comes near its limit */
}

/*
 * The wake-up is taken back together with the messages, so it is there exactly
 * as long as the queue is not empty.
 */
void
mailbox_drain(struct mailbox *m)
{
	struct message *message, *next;
	uint64_t count;
	ssize_t r = sizeof(count);

	pthread_mutex_lock(&m->lock);
	message = m->head;
	m->head = NULL;
	m->tail = &m->head;
	if (message != NULL)
		do
			r = read(m->fd, &count, sizeof(count));
		while (r == -1 && errno == EINTR);
	pthread_mutex_unlock(&m->lock);
	assert(r == sizeof(count));

	m->running = true;
	for (; message != NULL; message = next) {
		next = message->next; /* `run` may free it */
		message->run(message, m->owner);
	}
	m->running = false;
}

bool
mailbox_waits(struct mailbox *m)
{
	bool waits;

	pthread_mutex_lock(&m->lock);
	waits = m->running || m->head != NULL;
	pthread_mutex_unlock(&m->lock);
	return waits;
}
