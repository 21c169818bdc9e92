/*
 * ss_server.h
 *	  Foreign servers and user mappings of the wrapper "streamsink": option
 *	  validation, and connection parameters out of them.
 */
#ifndef SS_SERVER_H
#define SS_SERVER_H

#include "ss_redis.h"

/*
 * Parameters for a role's connection to a server, in CurrentMemoryContext.
 * The user mapping is the role's own, else PUBLIC's, else none (no password).
 * Checks that role has USAGE on the server (ERROR 42501), that the server
 * exists (42704) and belongs to our wrapper (HV000/42809).  Needs a transaction.
 */
extern SsRedisParams *ss_server_params(const char *server_name, Oid role);

/* OID of the server; ERROR 42704 with a hint, 42809 if it is another wrapper's. */
extern Oid ss_server_oid(const char *server_name);

#endif /* SS_SERVER_H */
