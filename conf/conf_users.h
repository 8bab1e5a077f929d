/*
 * conf_users: what a userlist adds to a configuration: a secret to a [user]
 * without one, and users that have no section.
 */
#ifndef CONF_CONF_USERS_H
#define CONF_CONF_USERS_H

struct conf;
struct conf_errors;

/* Reads userlist_file, if there is one; before users are checked. */
void conf_users_add(struct conf *, struct conf_errors *);
void conf_users_free(struct conf *);

#endif
