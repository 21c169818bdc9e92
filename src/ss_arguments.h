/*
 * ss_arguments.h
 *	  The arguments of a command, gathered one by one; text of SQL becomes UTF-8.
 */
#ifndef SS_ARGUMENTS_H
#define SS_ARGUMENTS_H

#include "utils/jsonb.h"

/* Longer strings are refused by Redis, which then closes the connection (its proto-max-bulk-len by default). */
#define SS_ARGUMENT_MAX ((size_t) 512 * 1024 * 1024)

typedef struct SsArguments
{
	const char **argv;
	size_t		*lens;
	int			 n;
	int			 size;
} SsArguments;

/* In CurrentMemoryContext, as is what is added. */
extern void ss_arguments_init(SsArguments *args);

/* Add bytes as they are; they are not copied.  ERROR 54000 if they are more than Redis takes. */
extern void ss_arguments_add(SsArguments *args, const char *str, size_t len);

/* Add text of the server's encoding as UTF-8.  ERROR if it cannot be converted. */
extern void ss_arguments_add_text(SsArguments *args, const char *str, size_t len);

/*
 * Add the members of an object as fields and values: strings as they are, other
 * values as JSON text.  Null members are left out: a field that is missing
 * reads as NULL.  ERROR 22023 unless it is an object and a member is left.
 */
extern void ss_arguments_add_fields(SsArguments *args, Jsonb *fields);

#endif /* SS_ARGUMENTS_H */
