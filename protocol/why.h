/*
 * why: every reason we refuse or close a connection, in one table.
 *
 * One row is the log word, the metric label, the SQLSTATE and the Redis error
 * code at once, so the operator, the dashboard and both kinds of client always
 * hear the same story.  Adding a reason means adding a row; nothing else.
 */
#ifndef PROTOCOL_WHY_H
#define PROTOCOL_WHY_H

/*  name            ours? sqlstate  redis       what a human reads */
#define WHY_TABLE(X)                                                                       \
	X(EOF,              0, "",      "",         "peer closed")                             \
	X(QUIT,             0, "",      "",         "client said goodbye")                     \
	X(CANCEL,           0, "",      "",         "cancel request delivered")                \
	X(PROBE,            0, "",      "",         "connected and left without a word")       \
	X(IO,               0, "08006", "ERR",      "connection failed")                       \
	X(TLS,              0, "08P01", "ERR",      "TLS handshake failed")                    \
	X(LOGIN_TIMEOUT,    0, "08P01", "ERR",      "client_login_timeout")                    \
	X(IDLE,             0, "57P05", "ERR",      "client_idle_timeout")                     \
	X(IDLE_TRANSACTION, 0, "25P03", "ERR",      "idle_transaction_timeout")                \
	X(STALLED,          0, "08P01", "ERR",      "half a message, and then nothing")        \
	X(QUERY_TIMEOUT,    0, "57014", "ERR",      "query_timeout")                           \
	X(COMMAND_TIMEOUT,  0, "57014", "ERR",      "command_timeout")                         \
	X(XACT_TIMEOUT,     0, "25P04", "ERR",      "transaction_timeout")                     \
	X(BAD_FRAME,        0, "08P01", "ERR",      "protocol violation")                      \
	X(TOO_BIG,          0, "54000", "ERR",      "message exceeds limit")                   \
	X(SLOW_READER,      0, "08006", "ERR",      "replies were not read")                   \
	X(NO_TLS,           0, "28000", "ERR",      "SSL required")                            \
	X(NO_CERT,          0, "28000", "NOAUTH",   "connection requires a valid client certificate") \
	X(BAD_CERT,         0, "28000", "NOAUTH",   "certificate authentication failed")       \
	X(NO_TENANT,        0, "28000", "WRONGPASS", "no such organization")                    \
	X(NO_DATABASE,      0, "3D000", "ERR",      "no such database")                        \
	X(NO_UPSTREAM,      1, "08004", "ERR",      "no upstream is configured for this")      \
	X(GUARDED,          0, "42501", "NOPERM",   "this setting belongs to the proxy")       \
	X(NOT_ALLOWED,      0, "42501", "NOPERM",   "no such organization, or not one of this user") \
	X(BAD_AUTH,         0, "28P01", "WRONGPASS", "password authentication failed")         \
	X(AUTH_DOWN,        1, "08006", "ERR",      "the user's password cannot be looked up now") \
	X(DIRECTORY_DOWN,   1, "08006", "ERR",      "the organization cannot be looked up now") \
	X(RLS_LEAKS,        1, "08004", "ERR",      "row level security does not hold on this upstream (rls_check = require)") \
	X(RLS_UNKNOWN,      1, "08006", "ERR",      "whether row level security holds cannot be checked now (rls_check = require)") \
	X(RLS_OUTDATED,     0, "57P03", "ERR",      "the configuration has changed since this connection was made: connect again") \
	X(TENANT_GONE,      0, "57P01", "ERR",      "the organization is no more")             \
	X(UNSUPPORTED,      0, "0A000", "ERR",      "not supported")                           \
	X(CLIENTS_FULL,     0, "53300", "ERR",      "no more connections allowed (max_client_conn)") \
	X(TENANT_FULL,      0, "53300", "ERR",      "client connections exceeded (max_client_conn of the organization)") \
	X(USER_FULL,        0, "53300", "ERR",      "client connections exceeded (max_client_conn of the user)") \
	X(RATE_CONNECTIONS, 0, "53300", "ERR",      "the organization connects too often (rate_connections)") \
	X(RATE_QUERIES,     0, "53400", "ERR",      "the organization asks too often (rate_queries)") \
	X(RATE_OPERATIONS,  0, "53400", "ERR",      "the organization writes too often (rate_operations)") \
	X(LOGINS_FULL,      0, "53300", "ERR",      "too many log-ins of the user or its organization at once") \
	X(QUEUE_FULL,       0, "53300", "ERR",      "too many clients wait for a server (max_waiting_clients)") \
	X(POOL_TIMEOUT,     1, "53300", "ERR",      "query_wait_timeout")                      \
	X(UPSTREAM_DOWN,    1, "08006", "ERR",      "upstream is unreachable")                 \
	X(WRONG_ROLE,       0, "08006", "ERR",      "host is not of the target_role")          \
	X(UPSTREAM_LOST,    1, "08006", "ERR",      "upstream connection lost")                \
	X(SLOT_MOVED,       0, "",      "",         "its slot moved to another node")           \
	X(UPSTREAM_SENSE,   1, "08P01", "ERR",      "upstream broke the protocol")             \
	X(DOUBT,            1, "08006", "ERR",      "state of the server connection in doubt") \
	X(OUTCOME_UNKNOWN,  1, "08007", "ERR",      "upstream connection lost while it committed: nobody knows whether it has") \
	X(BATCH_FULL,       0, "53300", "ERR",      "too many operations wait for a commit")   \
	X(BIND_FAILED,      1, "08006", "ERR",      "server refused the session's settings")   \
	X(BEGIN_FAILED,     1, "08006", "ERR",      "server refused to begin a transaction")   \
	X(ABANDONED,        0, "",      "",         "its client left in the middle")           \
	X(SERVER_LIFETIME,  0, "",      "",         "server_lifetime")                         \
	X(SERVER_IDLE,      0, "",      "",         "server_idle_timeout")                     \
	X(CONNECT_TIMEOUT,  1, "08006", "ERR",      "server_connect_timeout")                  \
	X(RECONFIGURED,     0, "",      "",         "configuration changed")                   \
	X(ROOM,             0, "",      "",         "made room for another pool")              \
	X(KILLED,           0, "",      "",         "killed by CLIENT KILL")                   \
	X(SHUTDOWN,         1, "57P01", "ERR",      "server shutting down")

enum why {
#define X(name, ours, sqlstate, redis, text) WHY_##name,
	WHY_TABLE(X)
#undef X
	WHY_MAX
};

struct why_row {
	const char *name;
	int	    ours;	/* 1: page us; 0: the peer's doing */
	const char *sqlstate;
	const char *redis;
	const char *text;
};

extern const struct why_row why_table[WHY_MAX];

#endif
