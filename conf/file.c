#include "conf/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf/mem.h"

static char *
slurp(int fd, size_t max, size_t *n, const char **why)
{
	size_t room = 1 << 12;
	char *bytes = mem_zero(room, 1, "a file");

	*n = 0;
	for (;;) {
		ssize_t got = read(fd, bytes + *n, room - *n - 1);

		if (got == -1 && errno == EINTR)
			continue;
		if (got == -1)
			*why = strerror(errno);
		else
			*n += (size_t)got;
		if (*n > max)
			*why = "too big";
		if (*why != NULL) {
			file_free(bytes, *n);
			return NULL;
		}
		if (got == 0) {
			bytes[*n] = '\0';
			return bytes;
		}
		if (*n + 1 == room) {
			room *= 2;
			bytes =
			    mem_or_abort(realloc(bytes, room), room, "a file");
		}
	}
}

char *
file_read(const char *path, size_t max, size_t *n, mode_t *mode,
	  const char **why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *bytes = NULL;
	struct stat st;

	*why = NULL;
	if (fd == -1 || fstat(fd, &st) == -1)
		*why = strerror(errno);
	else
		bytes = slurp(fd, max, n, why);
	if (bytes != NULL && mode != NULL)
		*mode = st.st_mode;
	if (fd != -1)
		close(fd);
	return bytes;
}

void
file_free(char *bytes, size_t n)
{
	if (bytes != NULL)
		explicit_bzero(bytes, n);
	free(bytes);
}
