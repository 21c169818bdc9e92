/*
 * ss_transform.h
 *	  The text of a transform: what statements it has, and which may stand there.
 */
#ifndef SS_TRANSFORM_H
#define SS_TRANSFORM_H

#include "nodes/nodes.h"
#include "nodes/pg_list.h"

/* Name of the in-memory relation that holds the batch. */
#define SS_BATCH_RELATION "batch"

typedef struct SsTransformStatement
{
	Node	   *raw;		/* parse tree */
	char	   *sql;		/* the statement by itself; of SELECT INTO, without INTO */
	const char *command;	/* "SELECT", "CALL" */
	int			offset;		/* characters of the transform before sql */
	char	   *into;		/* the relation that SELECT INTO makes, or NULL */
	bool		is_utility; /* CALL, NOTIFY, LOCK: not planned */
} SsTransformStatement;

/*
 * The statements of a transform, as a List of SsTransformStatement * in
 * CurrentMemoryContext.  ERROR 42601 for what is no SQL, 0A000 for a
 * statement that a batch cannot run, 42P07 for a relation that is made twice;
 * with the position in the transform.
 */
extern List *ss_transform_parse(const char *transform);

/* If an error tells a position in the statement, let it tell the one in the transform. */
extern void ss_transform_locate(const char *transform, const SsTransformStatement *statement, ErrorData *error);

#endif /* SS_TRANSFORM_H */
