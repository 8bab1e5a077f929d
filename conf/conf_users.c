#include "conf/conf_users.h"

#include <string.h>
#include <sys/stat.h>

#include "conf/conf.h"
#include "conf/conf_check.h"
#include "conf/conf_keys.h"
#include "conf/mem.h"
#include "conf/userlist.h"
#include "protocol/secret.h"

/* How a client proves that it has a secret of this kind. */
static enum conf_auth
auth_of(const char *secret)
{
	return pg_md5_is_stored(secret) ? AUTH_MD5 : AUTH_SCRAM;
}

static struct conf_user *
section_of(const struct conf *c, const char *name)
{
	return conf_keys_object_find(c, KIND_USER, name);
}

/* What the section says itself counts. */
static void
complete(const struct conf *c, struct conf_user *u, const char *secret)
{
	bool given = conf_line(c, &u->password) != 0;

	if (given || u->auth == AUTH_TRUST || secret[0] == '\0')
		return;
	u->password = mem_text(secret, strlen(secret));
	if (conf_line(c, &u->auth) == 0)
		u->auth = auth_of(secret);
}

static void
add_user(struct conf *c, struct conf_errors *e, const struct userlist_entry *of)
{
	struct conf_user *u = &c->listed[c->listed_n];

	if (of->secret[0] == '\0') {
		conf_errors_warn(e, c->userlist_file, of->line,
				 "\"%s\" has an empty secret and cannot log "
				 "in, expected one, or a [user %s] section",
				 of->name, of->name);
		return;
	}
	u->name = mem_text(of->name, strlen(of->name));
	u->password = mem_text(of->secret, strlen(of->secret));
	u->auth = auth_of(of->secret);
	c->listed_n++;
	if (!conf_check_is_verifier(u->password))
		return;
	u->verifier = mem_zero(1, sizeof(*u->verifier), "a verifier");
	if (scram_verifier_parse(u->verifier, u->password) == -1)
		conf_errors_add(e, c->userlist_file, of->line,
				"\"%s\": the secret is not a verifier that can "
				"be used, expected "
				"SCRAM-SHA-256$iterations:salt$stored:server",
				of->name);
}

/* One warning for all of them: lists are long. */
static void
warn_of_short(const struct conf *c, struct conf_errors *e)
{
	size_t n = 0;

	for (size_t i = 0; i < c->listed_n; i++)
		n += strlen(c->listed[i].password) < CONF_CHECK_SECRET_MIN;
	if (n > 0)
		conf_errors_warn(e, c->userlist_file, 0,
				 "%zu passwords are short, expected at least "
				 "%d characters",
				 n, CONF_CHECK_SECRET_MIN);
}

void
conf_users_add(struct conf *c, struct conf_errors *e)
{
	struct userlist list;
	const char *why;

	if (c->userlist_file == NULL)
		return;
	if (userlist_load(&list, c->userlist_file, e, &why) == -1)
		conf_errors_add(e, c->file, conf_line(c, &c->userlist_file),
				"userlist_file = %s: cannot be read: %s, "
				"expected a list of users of at most %d bytes",
				c->userlist_file, why, CONF_FILE_MAX);
	else if ((list.mode & S_IRWXO) != 0)
		conf_errors_warn(e, c->userlist_file, 0,
				 "open to every user of this machine, expected "
				 "mode 0600");
	c->listed = mem_zero(list.n, sizeof(*c->listed), "a list of users");
	for (size_t i = 0; i < list.n; i++) {
		struct conf_user *u = section_of(c, list.entry[i].name);

		if (u != NULL)
			complete(c, u, list.entry[i].secret);
		else
			add_user(c, e, &list.entry[i]);
	}
	warn_of_short(c, e);
	userlist_free(&list);
}

void
conf_users_free(struct conf *c)
{
	for (size_t i = 0; i < c->listed_n; i++) {
		struct conf_user *u = &c->listed[i];

		explicit_bzero(u->password, strlen(u->password));
		free(u->password);
		free(u->name);
		free(u->verifier);
	}
	free(c->listed);
}
