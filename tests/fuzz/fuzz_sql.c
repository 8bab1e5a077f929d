#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/sql.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* An empty statement or a comment in front changes nothing. */
int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const char *const before[] = { ";", " \n", "/*/**/*/", "--;\n" };
	unsigned flags = sql_scan(slice_of(p, n));

	for (int i = 0; i < 4; i++) {
		size_t k = strlen(before[i]);
		char *text = malloc(k + n);

		if (text == NULL)
			abort();
		memcpy(text, before[i], k);
		if (n > 0)
			memcpy(text + k, p, n);
		assert(sql_scan(slice_of(text, k + n)) == flags);
		free(text);
	}
	return 0;
}
