/*
 * weir: argv, configuration, signals, threads; nothing else.
 */
#include <errno.h>
#include <event2/event.h>
#include <malloc.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "conf/conf.h"
#include "proxy/admin.h"
#include "proxy/control.h"
#include "proxy/directory.h"
#include "proxy/listener.h"
#include "proxy/redis_census.h"
#include "proxy/rls.h"
#include "proxy/seat.h"
#include "proxy/secrets.h"
#include "proxy/verifiers.h"
#include "proxy/worker.h"

enum { EXIT_CONFIG = 2, CPU_THREADS = 2, DNS_THREADS = 2 };

#define RLS_PATIENCE_NS (15ull * 1000000000)

struct options {
	const char *file;
	bool check;
};

/* The main thread's own: what signals act upon. */
struct process {
	struct weir weir;
	struct event_base *base;
	struct event *sigterm, *sigint, *sighup, *watch;
	struct admin *admin;
	int stops;
};

static void
usage(FILE *out)
{
	fprintf(out,
		"usage: weir [-c FILE] [-t] [-V] [-h]\n"
		"  -c FILE  the configuration (default: weir.ini)\n"
		"  -t       check it, say what is wrong, and exit 0 or 2\n"
		"  -V       print the version and exit\n"
		"  -h       this text\n"
		"Signals: TERM and INT drain and stop, a second one stops at "
		"once; HUP re-reads FILE.\n");
}

static void
read_options(int argc, char **argv, struct options *o)
{
	int c;

	*o = (struct options){ .file = "weir.ini" };
	while ((c = getopt(argc, argv, "c:tVh")) != -1) {
		switch (c) {
		case 'c':
			o->file = optarg;
			break;
		case 't':
			o->check = true;
			break;
		case 'V':
			printf("weir " WEIR_VERSION "\n");
			exit(0);
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(EXIT_CONFIG);
		}
	}
	if (optind != argc) {
		usage(stderr);
		exit(EXIT_CONFIG);
	}
}

/* Errors, and with -t warnings, as they are; a running weir logs warnings. */
static struct snapshot *
load_or_exit(const struct options *o, struct conf_errors *errors)
{
	struct snapshot *snapshot = snapshot_load(o->file, errors);

	for (size_t i = 0; o->check && i < errors->warning_n; i++)
		fprintf(stderr, "warning: %s\n", errors->warning[i]);
	for (size_t i = 0; i < errors->n; i++)
		fprintf(stderr, "%s\n", errors->line[i]);
	if (snapshot == NULL) {
		conf_errors_free(errors);
		exit(EXIT_CONFIG);
	}
	if (o->check) {
		conf_errors_free(errors);
		printf("%s: ok\n", o->file);
		snapshot_unref(&snapshot);
		exit(0);
	}
	return snapshot;
}

static void
log_warnings(struct log *log, const struct conf_errors *errors)
{
	for (size_t i = 0; i < errors->warning_n; i++)
		LOG(log, LOG_WARN, LOG_EV_CONFIG,
		    log_str("warning", errors->warning[i]));
}

/* Every client and every server is a descriptor. */
static void
raise_descriptors(struct log *log, const struct conf *c)
{
	struct rlimit limit;
	rlim_t need = c->max_client_conn + 1024;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	if (limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
	if (limit.rlim_cur < need)
		LOG(log, LOG_WARN, LOG_EV_CONFIG,
		    log_str("error", "max_client_conn needs more open files "
				     "than the limit (ulimit -n) allows"),
		    log_num("limit", limit.rlim_cur), log_num("need", need));
}

/* ---- starting --------------------------------------------------------- */

/* Is the same port listened on for IPv4 by an entry of its own? */
static int
has_v4_twin(const struct conf *c, const struct conf_listen *a)
{
	const struct sockaddr_in6 *six =
	    (const struct sockaddr_in6 *)(const void *)&a->addr;

	for (size_t i = 0; i < c->listen_n; i++) {
		const struct sockaddr_in *four =
		    (const struct sockaddr_in *)(const void *)&c->listen[i]
			.addr;

		if (a->addr.ss_family == AF_INET6 &&
		    four->sin_family == AF_INET &&
		    four->sin_port == six->sin6_port)
			return 1;
	}
	return 0;
}

static int
listen_one(struct process *pr, const struct conf_listen *a, char *error,
	   size_t n)
{
	bool is_unix = a->addr.ss_family == AF_UNIX;
	int fd = -1, v6only = has_v4_twin(pr->weir.snapshot->conf, a);

	if (a->kind == LISTEN_ADMIN) {
		if ((fd = listener_bind(a, 1, v6only, error, n)) < 0)
			return -1;
		return admin_listen(pr->admin, fd);
	}
	for (unsigned i = 0; i < pr->weir.workers; i++) {
		if (is_unix && i > 0)
			fd = dup(fd); /* one socket, accepted from by all */
		else
			fd = listener_bind(a, i == 0, v6only, error, n);
		if (fd < 0)
			return -1;
		listener_add(pr->weir.worker[i], fd, a->kind, is_unix);
	}
	return 0;
}

static int
listen_all(struct process *pr)
{
	const struct conf *c = pr->weir.snapshot->conf;
	char error[512];
	int failed = 0;

	for (size_t i = 0; i < c->listen_n; i++) {
		if (listen_one(pr, &c->listen[i], error, sizeof(error)) != 0) {
			fprintf(stderr, "cannot listen on %s\n", error);
			failed = -1;
			continue;
		}
		LOG(pr->weir.log, LOG_INFO, LOG_EV_LISTEN,
		    log_str("address", c->listen[i].text),
		    log_str("for",
			    c->listen[i].kind == LISTEN_POSTGRES ? "postgres"
			    : c->listen[i].kind == LISTEN_ADMIN  ? "admin"
			    : c->listen[i].kind == LISTEN_REDIS  ? "redis"
								: "redis_tls"));
	}
	return failed;
}

static void
make_workers(struct weir *weir)
{
	unsigned n = weir->snapshot->conf->workers;

	weir->workers = n;
	rates_init(&weir->rates);
	redis_facts_init(&weir->facts);
	weir->worker = calloc(n, sizeof(struct worker *));
	weir->mailboxes = calloc(n, sizeof(struct mailbox *));
	weir->stats = calloc(n, sizeof(struct stats *));
	weir->cpu = offload_open(CPU_THREADS);
	weir->dns = offload_open(DNS_THREADS);
	weir->verifiers = verifiers_open();
	weir->census = redis_census_open();
	weir->control = weir->dns == NULL ? NULL
					  : control_open(weir->snapshot,
							 weir->log, weir->dns);
	if (weir->control == NULL || weir->worker == NULL ||
	    weir->mailboxes == NULL || weir->stats == NULL ||
	    weir->cpu == NULL || weir->dns == NULL || weir->verifiers == NULL ||
	    weir->census == NULL ||
	    budgets_init(&weir->budgets, n, weir->mailboxes, pools_nudged) != 0)
		goto failed;
	weir->secrets = lookup_open(&secrets_kind, weir->control, weir->log);
	weir->directory = directory_open(weir->control, weir->log);
	weir->rls = rls_open(weir->control, weir->log);
	for (unsigned i = 0; i < n; i++) {
		if ((weir->worker[i] = worker_open(weir, i)) == NULL)
			goto failed;
		weir->mailboxes[i] = &weir->worker[i]->mailbox;
		weir->stats[i] = &weir->worker[i]->stats;
	}
	return;
failed:
	fprintf(stderr, "cannot start the workers: %s\n", strerror(errno));
	exit(1);
}

/* ---- signals ---------------------------------------------------------- */

static void
on_stop(evutil_socket_t sig, short what, void *arg)
{
	struct process *pr = arg;

	(void)what;
	if (++pr->stops > 1) {
		LOG(pr->weir.log, LOG_WARN, LOG_EV_STOP,
		    log_str("why", "second signal"));
		log_close(&pr->weir.log);
		_exit(1);
	}
	LOG(pr->weir.log, LOG_INFO, LOG_EV_DRAIN,
	    log_str("signal", sig == SIGTERM ? "TERM" : "INT"),
	    log_num("clients", atomic_load(&pr->weir.clients)));
	atomic_store(&pr->weir.draining, true);
	for (unsigned i = 0; i < pr->weir.workers; i++)
		worker_drain(pr->weir.worker[i]);
}

static void
warn_unchangeable(struct process *pr, const struct conf *old,
		  const struct conf *new)
{
	bool same =
	    old->workers == new->workers && old->listen_n == new->listen_n;

	for (size_t i = 0; same && i < old->listen_n; i++)
		same = old->listen[i].kind ==
		       new->listen[i].kind &&strcmp(old->listen[i].text,
						    new->listen[i].text) == 0;
	if (!same)
		LOG(pr->weir.log, LOG_WARN, LOG_EV_CONFIG,
		    log_str("error", "workers and listening addresses "
				     "change at a restart only"));
}

static void
on_reload(evutil_socket_t sig, short what, void *arg)
{
	struct process *pr = arg;
	struct weir *weir = &pr->weir;
	struct conf_errors errors;
	struct snapshot *snapshot = snapshot_load(weir->file, &errors);

	(void)sig;
	(void)what;
	if (snapshot != NULL)
		seats_reload(weir, snapshot->conf);
	log_warnings(weir->log, &errors);
	for (size_t i = 0; i < errors.n; i++)
		LOG(weir->log, LOG_ERROR, LOG_EV_CONFIG,
		    log_str("error", errors.line[i]));
	conf_errors_free(&errors);
	if (snapshot == NULL) {
		LOG(weir->log, LOG_ERROR, LOG_EV_RELOAD,
		    log_str("file", weir->file),
		    log_str("result", "kept the old one"));
		return;
	}
	snapshot_inherit(snapshot, weir->snapshot);
	warn_unchangeable(pr, weir->snapshot->conf, snapshot->conf);
	log_set(weir->log, snapshot->conf->log_level,
		snapshot->conf->log_format);
	/* First, so that no worker asks it by what it does not know yet. */
	control_reload(weir->control, snapshot);
	lookup_reload(weir->secrets);
	directory_reload(weir->directory);
	rls_reload(weir->rls);
	atomic_store(&snapshot->awaited, weir->workers);
	for (unsigned i = 0; i < weir->workers; i++)
		worker_reload(weir->worker[i], snapshot);
	snapshot_unref(&weir->snapshot);
	weir->snapshot = snapshot;
}

/* The last worker to go ends the main loop. */
static void
on_watch(evutil_socket_t fd, short what, void *arg)
{
	struct process *pr = arg;

	(void)fd;
	(void)what;
	if (atomic_load(&pr->weir.running) == 0)
		event_base_loopexit(pr->base, NULL);
}

static void
watch_signals(struct process *pr)
{
	struct timeval often = { .tv_usec = 20000 };

	signal(SIGPIPE, SIG_IGN);
	pr->sigterm = evsignal_new(pr->base, SIGTERM, on_stop, pr);
	pr->sigint = evsignal_new(pr->base, SIGINT, on_stop, pr);
	pr->sighup = evsignal_new(pr->base, SIGHUP, on_reload, pr);
	pr->watch = event_new(pr->base, -1, EV_PERSIST, on_watch, pr);
	if (pr->sigterm == NULL || pr->sigint == NULL || pr->sighup == NULL ||
	    pr->watch == NULL || event_add(pr->sigterm, NULL) != 0 ||
	    event_add(pr->sigint, NULL) != 0 ||
	    event_add(pr->sighup, NULL) != 0 ||
	    event_add(pr->watch, &often) != 0)
		abort();
}

static void
start_control(struct process *pr)
{
	if (control_start(pr->weir.control) != 0) {
		fprintf(stderr, "cannot start a thread: %s\n", strerror(errno));
		exit(1);
	}
}

static uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/*
 * With rls_check = require nobody is to be let in, nor listened for, before it
 * is known what there is to find.  An upstream that is out of reach holds
 * nothing up for long: then clients are refused until it has been asked.
 */
static void
check_rls(struct process *pr)
{
	const struct conf *c = pr->weir.snapshot->conf;
	uint64_t until = now_ns() + RLS_PATIENCE_NS;
	bool required = false;

	for (size_t i = 0; i < c->postgres_n; i++)
		required |= c->postgres[i].rls_check == RLS_CHECK_REQUIRE;
	while (required && !rls_settled(pr->weir.rls) && pr->stops == 0 &&
	       now_ns() < until)
		event_base_loop(pr->base, EVLOOP_ONCE); /* 20 ms at most */
	if (!required || rls_leaking(pr->weir.rls) == 0)
		return;
	LOG(pr->weir.log, LOG_ERROR, LOG_EV_STOP, log_num("code", 1));
	log_close(&pr->weir.log);
	_exit(1); /* nobody was served yet */
}

/* Signals are the main thread's: workers are born with them blocked. */
static void
start_workers(struct process *pr)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (unsigned i = 0; i < pr->weir.workers; i++) {
		if (worker_start(pr->weir.worker[i]) != 0) {
			fprintf(stderr, "cannot start a thread: %s\n",
				strerror(errno));
			exit(1);
		}
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void
close_all(struct process *pr)
{
	struct weir *weir = &pr->weir;

	for (unsigned i = 0; i < weir->workers; i++)
		pthread_join(weir->worker[i]->thread, NULL);
	control_stop(weir->control);
	offload_close(&weir->cpu);
	offload_close(&weir->dns);
	/* What was asked goes home, where nobody waits for it any more. */
	control_close(&weir->control);
	directory_close(&weir->directory);
	rls_close(&weir->rls);
	lookup_close(&weir->secrets);
	for (unsigned i = 0; i < weir->workers; i++)
		worker_close(&weir->worker[i]);
	redis_census_close(&weir->census);
	verifiers_close(&weir->verifiers);
	budgets_fini(&weir->budgets);
	rates_fini(&weir->rates);
	redis_facts_fini(&weir->facts);
	admin_close(&pr->admin);
	event_free(pr->sigterm);
	event_free(pr->sigint);
	event_free(pr->sighup);
	event_free(pr->watch);
	event_base_free(pr->base);
	snapshot_unref(&weir->snapshot);
	LOG(weir->log, LOG_INFO, LOG_EV_STOP, log_num("code", 0));
	log_close(&weir->log);
	free(weir->worker);
	free(weir->mailboxes);
	free(weir->stats);
}

int
main(int argc, char **argv)
{
	struct process pr = { 0 };
	struct options options;
	struct conf_errors errors;

	/* Large bufs come from the system and go back to it, but for one of a
	 * size: without this, malloc keeps for later what one value needed. */
	mallopt(M_MMAP_THRESHOLD, 256 << 10);
	mallopt(M_TRIM_THRESHOLD, 1 << 20);
	read_options(argc, argv, &options);
	pr.weir.file = options.file;
	pr.weir.snapshot = load_or_exit(&options, &errors);
	pr.weir.log = log_open(pr.weir.snapshot->conf->log_level,
			       pr.weir.snapshot->conf->log_format);
	if (pr.weir.log == NULL || (pr.base = event_base_new()) == NULL) {
		fprintf(stderr, "cannot start: %s\n", strerror(errno));
		return 1;
	}
	log_warnings(pr.weir.log, &errors);
	conf_errors_free(&errors);
	raise_descriptors(pr.weir.log, pr.weir.snapshot->conf);
	make_workers(&pr.weir);
	pr.admin = admin_open(&pr.weir, pr.base);
	watch_signals(&pr);
	/* From now on: who watches ends the loop when none is left. */
	atomic_store(&pr.weir.running, pr.weir.workers);
	start_control(&pr);
	check_rls(&pr);
	if (listen_all(&pr) != 0) {
		log_close(&pr.weir.log);
		_exit(1); /* nobody was served yet, nothing to undo */
	}
	start_workers(&pr);
	LOG(pr.weir.log, LOG_INFO, LOG_EV_START,
	    log_str("version", WEIR_VERSION),
	    log_num("workers", pr.weir.workers));
	event_base_dispatch(pr.base);
	close_all(&pr);
	return 0;
}
