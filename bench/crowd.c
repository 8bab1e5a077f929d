/*
 * crowd: many PostgreSQL clients of as many users as are wanted, in one thread.
 *
 *   crowd PORT DATABASE USER CLIENTS NAMES SECONDS TEXT...
 *
 * Client number i says that it is number i % NAMES: every `@` of USER and of
 * the TEXTs becomes that number, in five digits.  All log in (trust); then it
 * says `ready`, waits for a line, and for SECONDS each client sends the TEXTs one
 * by one as simple queries, again and again.  One round of TEXTs is one
 * transaction.  The last line has what was done: transactions, seconds, and
 * microseconds that half of them and 99 % of them took at most.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LOGGING_IN_MAX = 100, EVENTS = 256, SAMPLES = 1 << 20, NAME_DIGITS = 5 };

struct client {
	int fd;
	unsigned name;
	unsigned text;   /* the one under way */
	uint8_t head[5]; /* of a message, as far as it is here */
	unsigned head_n;
	uint32_t remain; /* of its body */
	uint64_t since_ns;
};

struct crowd {
	uint16_t port;
	const char *database, *user;
	unsigned clients, names, texts;
	char **text;
	struct client *client;
	int epoll;
	unsigned idle; /* logged in */
	int running;
	unsigned long done;
	uint32_t *took_us;
};

static void
fail(const char *what)
{
	fprintf(stderr, "crowd: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The text with the client's number in it; its length. */
static size_t
fill(char *to, size_t size, const char *text, unsigned name)
{
	size_t n = 0;

	for (; *text != '\0'; text++) {
		if (n + NAME_DIGITS + 1 >= size) {
			fprintf(stderr, "crowd: a text is too long\n");
			exit(1);
		}
		if (*text == '@')
			n += (size_t)snprintf(to + n, size - n, "%05u",
					      name % 100000);
		else
			to[n++] = *text;
	}
	to[n] = '\0';
	return n;
}

static void
say(struct client *c, const char *message, size_t n)
{
	/* A closed loop: what was sent before has been answered. */
	if (send(c->fd, message, n, MSG_NOSIGNAL) != (ssize_t)n)
		fail("send");
}

static void
ask(struct crowd *w, struct client *c)
{
	char m[4096];
	size_t n =
	    5 + fill(m + 5, sizeof(m) - 5, w->text[c->text], c->name) + 1;
	uint32_t size = htonl((uint32_t)n - 1);

	m[0] = 'Q';
	memcpy(m + 1, &size, 4);
	if (c->text == 0)
		c->since_ns = now_ns();
	say(c, m, n);
}

static void
come(struct crowd *w, unsigned i)
{
	struct client *c = &w->client[i];
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(w->port) };
	struct epoll_event e = { .events = EPOLLIN, .data.u32 = i };
	char m[1024], *at = m + 8;
	uint32_t word = htonl(196608);
	struct linger gone = { .l_onoff = 1 }; /* no TIME_WAIT of thousands */
	int on = 1;

	c->name = i % w->names;
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if ((c->fd = socket(AF_INET, SOCK_STREAM, 0)) < 0 ||
	    connect(c->fd, (struct sockaddr *)&to, sizeof(to)) != 0)
		fail("connect");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &gone, sizeof(gone));
	memcpy(m + 4, &word, 4);
	at += sprintf(at, "user") + 1;
	at += fill(at, 256, w->user, c->name) + 1;
	at += sprintf(at, "database") + 1;
	at += snprintf(at, 256, "%s", w->database) + 1;
	*at++ = '\0';
	word = htonl((uint32_t)(at - m));
	memcpy(m, &word, 4);
	say(c, m, (size_t)(at - m));
	if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, c->fd, &e) != 0)
		fail("epoll");
}

static void
answered(struct crowd *w, struct client *c)
{
	if (!w->running) {
		w->idle++;
		return;
	}
	if (++c->text == w->texts) {
		w->took_us[w->done++ % SAMPLES] =
		    (uint32_t)((now_ns() - c->since_ns) / 1000);
		c->text = 0;
	}
	ask(w, c);
}

static void
hear(struct crowd *w, struct client *c)
{
	uint8_t buf[16384];
	ssize_t got = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);
	const uint8_t *p = buf, *end = buf + got;

	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0)
		fail("a connection has ended");
	while (p < end) {
		size_t n = (size_t)(end - p);

		if (c->head_n < 5) {
			c->head[c->head_n++] = *p++;
			if (c->head_n < 5)
				continue;
			memcpy(&c->remain, c->head + 1, 4);
			c->remain = ntohl(c->remain) - 4;
			if (c->head[0] == 'E') {
				fprintf(stderr, "crowd: an error: ");
				fwrite(p, 1, (size_t)(end - p), stderr);
				exit(1);
			}
		} else {
			n = n < c->remain ? n : c->remain;
			p += n;
			c->remain -= (uint32_t)n;
		}
		if (c->head_n == 5 && c->remain == 0) {
			c->head_n = 0;
			if (c->head[0] == 'Z')
				answered(w, c);
		}
	}
}

static void
wait_and_hear(struct crowd *w, int ms)
{
	struct epoll_event e[EVENTS];
	int n = epoll_wait(w->epoll, e, EVENTS, ms);

	for (int i = 0; i < n; i++)
		hear(w, &w->client[e[i].data.u32]);
}

static int
by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void
run(struct crowd *w, double seconds)
{
	uint64_t begun = now_ns(), end = begun + (uint64_t)(seconds * 1e9);
	size_t n;

	w->running = 1;
	for (unsigned i = 0; i < w->clients; i++)
		ask(w, &w->client[i]);
	while (now_ns() < end)
		wait_and_hear(w, 100);
	seconds = (double)(now_ns() - begun) / 1e9;
	n = w->done < SAMPLES ? w->done : SAMPLES;
	qsort(w->took_us, n, sizeof(*w->took_us), by_size);
	printf("%lu %.3f %u %u\n", w->done, seconds, n ? w->took_us[n / 2] : 0,
	       n ? w->took_us[n * 99 / 100] : 0);
}

int
main(int argc, char **argv)
{
	struct crowd w = { 0 };
	char line[16];

	if (argc < 8) {
		fprintf(stderr, "usage: crowd PORT DATABASE USER CLIENTS NAMES "
				"SECONDS TEXT...\n");
		return 2;
	}
	w.port = (uint16_t)atoi(argv[1]);
	w.database = argv[2];
	w.user = argv[3];
	w.clients = (unsigned)atoi(argv[4]);
	w.names = (unsigned)atoi(argv[5]);
	w.text = argv + 7;
	w.texts = (unsigned)argc - 7;
	w.client = calloc(w.clients, sizeof(*w.client));
	w.took_us = calloc(SAMPLES, sizeof(*w.took_us));
	if (w.client == NULL || w.took_us == NULL || w.names == 0 ||
	    (w.epoll = epoll_create1(0)) < 0)
		fail("memory");
	for (unsigned i = 0; i < w.clients; i++) {
		while (i - w.idle >= LOGGING_IN_MAX)
			wait_and_hear(&w, 1000);
		come(&w, i);
	}
	while (w.idle < w.clients)
		wait_and_hear(&w, 1000);
	printf("ready\n");
	fflush(stdout);
	if (fgets(line, sizeof(line), stdin) != NULL)
		run(&w, atof(argv[6]));
	return 0;
}
