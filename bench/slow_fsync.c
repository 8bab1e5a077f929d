/*
 * slow_fsync: a disk whose commits take as long as one likes.
 *
 * Preloaded into PostgreSQL (LD_PRELOAD), which makes its log durable by
 * fdatasync().  The file that SLOW_FSYNC names has in its first four bytes how
 * many microseconds each call takes: it sleeps instead.  0, or no file: the
 * real one.  The file is mapped, so whoever writes to it changes the disk under
 * a running server.
 *
 * fsync(), for the files of tables and new files of the log, does nothing: what
 * happens between measurements should not take long.  Never for data that
 * anybody needs.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int (*real)(int);
static const volatile uint32_t *sleep_us;

static void
find(void)
{
	const char *path = getenv("SLOW_FSYNC");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *p;

	real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
	if (fd < 0)
		return;
	p = mmap(NULL, sizeof(*sleep_us), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (p != MAP_FAILED)
		sleep_us = p;
}

int
fdatasync(int fd)
{
	struct timespec left = { 0, 0 };
	uint32_t us;

	pthread_once(&once, find);
	us = sleep_us ? *sleep_us : 0;
	if (us == 0)
		return real(fd);
	left.tv_sec = us / 1000000;
	left.tv_nsec = (long)(us % 1000000) * 1000;
	while (nanosleep(&left, &left) != 0)
		;
	return 0;
}

int
fsync(int fd)
{
	(void)fd;
	return 0;
}
