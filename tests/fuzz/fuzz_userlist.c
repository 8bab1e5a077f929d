#include <assert.h>
#include <string.h>

#include "conf/conf.h"
#include "conf/userlist.h"

/* Any bytes as a list of users: sorted, each only once, all that is wrong told
 * with its line. */
int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct conf_errors errors = { 0 };
	struct userlist u;

	userlist_read(&u, "list", (const char *)p, n, &errors);
	for (size_t i = 0; i < u.n; i++) {
		const struct userlist_entry *e = &u.entry[i];

		assert(e->line > 0 && e->name[0] != '\0');
		assert(strlen(e->name) <= USERLIST_NAME_MAX);
		assert(userlist_find(&u, e->name) == e);
		assert(i == 0 || strcmp(e[-1].name, e->name) < 0);
	}
	for (size_t i = 0; i < errors.n; i++)
		assert(strncmp(errors.line[i], "list:", 5) == 0);
	userlist_free(&u);
	conf_errors_free(&errors);
	return 0;
}
