/*
 * conf: the settings, as one immutable object.
 *
 * An ini file (inih syntax) becomes a struct conf or a list of errors, all of
 * them at once, each as `file:line: what, and what was expected`.  `${NAME}`
 * in a value is the environment variable NAME, a value `@/path` is the first
 * line of that file.  Which keys exist, their kinds, bounds and defaults stand
 * in one table in conf_keys.c, and example.ini documents each.  What is named there
 * but not built yet is refused when asked for, never ignored.
 *
 * Owner:    whoever loaded it; conf_free() frees everything it points to.
 *           Nothing in it changes after conf_load(): share it between threads.
 * Bounds:   a line of at most CONF_LINE_MAX bytes, a file of at most
 *           CONF_FILE_MAX, longer is an error.
 * Units:    times in milliseconds (`_ms`; 0 means never, where PgBouncer says
 *           so), sizes in bytes.
 */
#ifndef CONF_CONF_H
#define CONF_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "conf/log.h"
#include "conf/tenant.h"
#include "protocol/jwt.h"
#include "protocol/scram.h"

enum {
	CONF_LINE_MAX = 16384,
	CONF_FILE_MAX = 16 << 20,
	CONF_WORKERS_MAX = 64,
	CONF_HOSTS_MAX = 16,		/* of one upstream */
	CONF_ERRORS_MAX = 1000		/* more are counted, not kept */
};

enum conf_sslmode {		/* libpq's, for upstreams; client_mode uses ... */
	SSLMODE_DISABLE,	/* ... the same words: verify-* want a client certificate */
	SSLMODE_ALLOW,
	SSLMODE_PREFER,
	SSLMODE_REQUIRE,
	SSLMODE_VERIFY_CA,
	SSLMODE_VERIFY_FULL
};

enum conf_sslnegotiation {	/* libpq's: how TLS begins */
	SSLNEGOTIATION_POSTGRES,	/* behind an SSLRequest */
	SSLNEGOTIATION_DIRECT		/* at once, with ALPN */
};

/* What sslrootcert says for the certificates of the system, as in libpq. */
#define CONF_ROOTCERT_SYSTEM "system"

enum conf_auth { AUTH_SCRAM, AUTH_MD5, AUTH_PLAIN, AUTH_CERT, AUTH_JWT, AUTH_TRUST };
enum conf_pool_mode { POOL_MODE_TRANSACTION, POOL_MODE_SESSION, POOL_MODE_STATEMENT };
enum conf_health { HEALTH_ACTIVE, HEALTH_PASSIVE };
enum conf_balance { BALANCE_DISABLE, BALANCE_ROUND_ROBIN };
enum conf_rls { RLS_CHECK_OFF, RLS_CHECK_WARN, RLS_CHECK_REQUIRE };
enum conf_role { ROLE_ANY, ROLE_PRIMARY, ROLE_STANDBY };
enum conf_profile { PROFILE_SHARED, PROFILE_DEDICATED };
enum conf_listen_kind { LISTEN_POSTGRES, LISTEN_REDIS, LISTEN_REDIS_TLS, LISTEN_ADMIN };

/* One address to listen on, numeric and ready for bind(). */
struct conf_listen {
	enum conf_listen_kind	kind;
	char		       *text;	/* as written, for messages */
	struct sockaddr_storage addr;	/* AF_INET, AF_INET6 or AF_UNIX */
	socklen_t		addr_len;
	unsigned		line;	/* of the file, for messages */
};

struct conf_host {
	char	*name;		/* name, address without brackets, or /dir of a unix socket */
	unsigned port;		/* never 0 after load */
};

struct conf_postgres {		/* [postgres NAME]: an upstream */
	char		   *name;
	unsigned	    index;	/* its place in conf.postgres[] */
	char		   *host;	/* as written, for messages */
	struct conf_host   *hosts;	/* the same, taken apart; none twice */
	size_t		    hosts_n;	/* 1 to CONF_HOSTS_MAX */
	unsigned	    port;	/* of the hosts that name none */
	enum conf_balance   load_balance_hosts;
	enum conf_role	    target_role;	/* hosts of another are passed over */
	char		   *dbname;	/* NULL: the client's database name */
	char		   *user;	/* NULL: the client's user */
	char		   *password;	/* NULL: the client user's configured one */
	enum conf_sslmode   sslmode;
	enum conf_sslnegotiation sslnegotiation;
	char		   *sslrootcert;	/* NULL, or CONF_ROOTCERT_SYSTEM: the system's */
	char		   *sslcert, *sslkey;	/* what we show; NULL: nothing.  Both or neither */
	enum conf_pool_mode pool_mode;
	unsigned	    pool_size;		/* servers per (database, user) */
	unsigned	    min_pool_size;
	unsigned	    reserve_pool_size;
	unsigned	    max_replication_connections;	/* in all; 0: refused */
	uint64_t	    reserve_pool_timeout_ms;
	unsigned	    max_connections;	/* servers of all its pools; 0: no cap */
	unsigned	    max_waiting_clients;	/* of a pool; 0: no bound of its own */
	bool		    multiplex;
	unsigned	    multiplex_depth;
	enum conf_health    health_check;
	uint64_t	    health_interval_ms;
	enum conf_rls	    rls_check;	/* off where weir has no user of its own */
	char		   *rls_column;	/* that of tables with rows of organizations */
};

struct conf_redis {		/* [redis NAME]: an upstream */
	char		 *name;
	unsigned	  index;	/* its place in conf.redis[] */
	char		 *url;
	bool		  tls;		/* rediss:// */
	char		 *host;		/* the first of the url's */
	unsigned	  port;
	struct conf_host *hosts;	/* all of them: Sentinels, or one; never port 0 after load */
	size_t		  hosts_n;	/* 1 to CONF_HOSTS_MAX */
	bool		  cluster;	/* they are nodes of a cluster */
	char		 *sentinel;	/* what they call the master; NULL: they are no Sentinels */
	char		 *sentinel_user, *sentinel_password;	/* of the log-in there; NULL: none */
	char		 *user;		/* NULL: none */
	char		 *password;	/* NULL: none; percent-decoded */
	unsigned	  db;		/* the path of the url */
	enum conf_sslmode sslmode;	/* REQUIRE with rediss unless set: verify-full */
	char		 *sslrootcert;
	char		 *sslcert, *sslkey;	/* as above */
	unsigned	  connections;	/* shared ones, whole process */
	unsigned	  dedicated_connections;
	unsigned	  min_dedicated_connections;	/* of each pool that has clients */
	uint64_t	  command_timeout_ms;	/* 0: never */
	enum conf_profile profile;
	enum conf_health  health_check;
	uint64_t	  health_interval_ms;
};

struct conf_database {		/* [database NAME]; NAME `*` is the fallback */
	char			   *name;
	const struct conf_postgres *postgres;
	char			   *dbname;	/* NULL: upstream's, else the client's name */
	bool			    has_pool_mode;
	enum conf_pool_mode	    pool_mode;
};

struct conf_user {		/* [user NAME] */
	char		    *name;
	enum conf_auth	     auth;
	char		    *password;	/* NULL only with trust, cert and jwt; may be a verifier's text */
	struct scram_verifier *verifier; /* of which password is the text; NULL */
	const struct tenant *organization;	/* fixed, or NULL */
	char		   **organizations;	/* slugs a service user may take, or `*` */
	size_t		     organizations_n;
	bool		     has_pool_mode;
	enum conf_pool_mode  pool_mode;
	unsigned	     max_client_conn;	/* 0: no limit of its own */
};

struct row_text;

struct conf_batch {		/* [batch TABLE]: its inserts are committed in groups */
	char	*name;		/* the table, with its schema and a dot if the section says so */
	char	*order_by;	/* a column; NULL: no order is kept */
	unsigned max_ops;	/* operations of one commit */
	size_t	 max_bytes;	/* bytes of one commit's requests; one more may follow */
	unsigned max_delay_ms;	/* how long one waits for company; 0: never */
	unsigned in_flight;	/* commits of one organization under way at once */
	bool	 merge;
	char   **functions;	/* that may be called, beside those of protocol/insert.h */
	size_t	 functions_n;
	bool	 transactions;	/* those of such inserts are held, and committed as one */
	char	*publish;	/* a channel's template; NULL: nothing is published */
	char	*publish_payload;	/* a message's; NULL: the row as JSON */
	struct row_text *channel, *message;	/* what these two say; NULL: nothing is published */
};

struct conf_tls {		/* [tls] */
	char		**cert_file;	/* NULL: no TLS for clients */
	size_t		  cert_file_n;
	char		**key_file;	/* in the order of the certificates, as many */
	size_t		  key_file_n;
	char		 *ca_file;
	int		  min_version;	/* TLS1_2_VERSION (0x0303) or TLS1_3_VERSION (0x0304) */
	enum conf_sslmode client_mode;
	char		 *sni_domain;
};

struct conf_jwt {		/* [auth], jwt_*; all NULL: no tokens */
	char	       *secret;
	char	       *previous_secret;
	char	       *public_key_file;
	struct jwt_key *public_key;	/* what is in that file */
	char	       *audience;
	char	       *user_claim;
	char	       *organization_claim;	/* NULL: tokens name none */
};

struct conf_context {		/* [context]: see protocol/context.h */
	char	*key;		/* NULL: nothing is signed */
	char	*previous_key;	/* what the database may still believe; signs nothing */
	uint64_t id;		/* of key, for comparing; 0: there is none */
	uint64_t ttl_ms;
	char	*variable;	/* the setting's name, in lower case */
};

struct conf_auth_source {	/* [auth] */
	const struct conf_postgres *postgres;	/* who is asked for secrets; NULL: nobody */
	char	*dbname;	/* NULL: the upstream's */
	char	*query;		/* NULL: of pg_authid */
	uint64_t ttl_ms, negative_ttl_ms;	/* how long its answers are good */
};

struct conf_directory {		/* [directory] */
	const struct conf_postgres *postgres;	/* who is asked for organizations; NULL: nobody */
	char	*dbname;	/* NULL: the upstream's */
	char	*query;		/* of a slug; NULL only without postgres */
	char	*query_by_id;	/* NULL: by slug only */
	uint64_t ttl_ms, negative_ttl_ms;
	char	*notify_channel;	/* NULL: nobody tells of changes */
};

struct conf {
	char		     *file;
	unsigned	      workers;		/* never 0 after load */
	struct conf_listen   *listen;
	size_t		      listen_n;
	bool		      proxy_protocol;
	unsigned	      max_client_conn;
	enum log_level	      log_level;
	enum log_format	      log_format;
	bool		      audit;
	uint64_t	      drain_timeout_ms;
	uint64_t	      query_wait_timeout_ms;
	uint64_t	      query_wait_notify_ms;
	uint64_t	      client_login_timeout_ms;
	uint64_t	      client_idle_timeout_ms;
	uint64_t	      idle_transaction_timeout_ms;
	uint64_t	      query_timeout_ms;
	uint64_t	      transaction_timeout_ms;
	uint64_t	      server_lifetime_ms;
	uint64_t	      server_idle_timeout_ms;
	uint64_t	      pool_idle_timeout_ms;
	uint64_t	      server_connect_timeout_ms;
	uint64_t	      server_login_retry_ms;
	unsigned	      max_prepared_statements;	/* per server */
	bool		      track_settings;		/* replayed, instead of pinning */
	size_t		      max_message_size;		/* a message weir must hold whole */
	char		    **admin_users;
	size_t		      admin_users_n;
	char		    **stats_users;
	size_t		      stats_users_n;

	struct conf_tls	      tls;
	struct conf_jwt	      jwt;
	char		     *userlist_file;
	struct conf_auth_source auth;
	struct conf_context   context;
	struct conf_directory directory;
	struct conf_postgres *postgres;
	size_t		      postgres_n;
	struct conf_redis    *redis;
	size_t		      redis_n;
	struct conf_database *database;		/* sorted by name */
	size_t		      database_n;
	struct conf_user     *user;		/* sorted by name */
	size_t		      user_n;
	struct conf_user     *listed;		/* of userlist_file, without a section; sorted */
	size_t		      listed_n;
	enum conf_auth	      unknown_auth;	/* how somebody unknown is asked: as most are */
	struct conf_batch    *batch;
	size_t		      batch_n;
	struct tenant	     *tenant;		/* sorted by slug */
	size_t		      tenant_n;
	const struct tenant **tenant_by_id;	/* the same, sorted by id */
	struct tenant_var    *variables;	/* [variables]: the templates of all */
	size_t		      variables_n;

	struct conf_origin   *origin;		/* conf_line()'s */
	size_t		      origin_n;
};

/* A list of errors (and of warnings), in the order of the file. */
struct conf_errors {
	char  **line;		/* `file:line: what, and what was expected` */
	size_t	n;
	char  **warning;	/* the same form; does not stop the load */
	size_t	warning_n;
	unsigned *line_at;	/* their lines, which keep the order */
	unsigned *warning_at;
	size_t	more;		/* errors past CONF_ERRORS_MAX */
};

/*
 * The file as a struct conf, or NULL with at least one error.  `errors` is
 * initialised here and must be freed by the caller in both cases.
 */
struct conf *conf_load(const char *file, struct conf_errors *)
    __attribute__((warn_unused_result));
void	     conf_free(struct conf **);
void	     conf_errors_free(struct conf_errors *);

/* One more, in its place by line; 0 is the whole file, and comes last. */
void conf_errors_add(struct conf_errors *, const char *file, unsigned line,
    const char *fmt, ...) __attribute__((format(printf, 4, 5)));
void conf_errors_warn(struct conf_errors *, const char *file, unsigned line,
    const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* The line that set a field, by the field's address in the conf; 0: none did. */
unsigned conf_line(const struct conf *, const void *field);

/* The keys there are, by number, for the manual and SHOW CONFIG. */
struct conf_key {
	const char *section;	/* the word in the brackets */
	const char *name;
	const char *def;	/* the default; NULL: unset, or computed */
};
bool conf_key_find(size_t i, struct conf_key *);	/* false: past the last */

/* Look-ups: NULL when there is none.  Names are compared byte by byte. */
const struct conf_user	   *conf_user_find(const struct conf *, const char *name);
const struct conf_database *conf_database_find(const struct conf *, const char *name);	/* falls back to `*` */
const struct tenant	   *conf_tenant_find(const struct conf *, const char *slug);
const struct tenant	   *conf_tenant_find_id(const struct conf *, const char *id);
const struct conf_postgres *conf_postgres_find(const struct conf *, const char *name);
const struct conf_redis	   *conf_redis_find(const struct conf *, const char *name);

#endif
