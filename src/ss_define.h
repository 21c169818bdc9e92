/*
 * ss_define.h
 *	  The arguments of a pipeline's definition: their defaults and what each
 *	  may be.
 */
#ifndef SS_DEFINE_H
#define SS_DEFINE_H

#include "nodes/primnodes.h"
#include "ss_catalog.h"
#include "ss_mapping.h"

/* What an argument is for: which checks a change of it calls for. */
#define SS_ARGUMENT_REQUIRED 0x01 /* has no default */
#define SS_ARGUMENT_NULLABLE 0x02
#define SS_ARGUMENT_MAPPING	 0x04 /* decides how entries become rows */
#define SS_ARGUMENT_REDIS	 0x08 /* decides where entries come from */

/* A definition that is being made or changed: its columns, and who will own it. */
typedef struct SsDefinition
{
	Datum		 values[SS_PIPELINE_NCOLUMNS];
	bool		 nulls[SS_PIPELINE_NCOLUMNS];
	Oid			 owner;
	bool		 creating;		  /* create_target: a target that does not exist is no error */
	bool		 make_target;	  /* ... and it does not */
	bool		 from_now;		  /* start_from was '$': behind the last entry of every stream there is */
	const Jsonb *stored_settings; /* of the pipeline that is altered, else NULL */
} SsDefinition;

/* An empty definition: no argument is set, the other columns are such that ss_catalog_build can read them. */
extern void ss_define_init(SsDefinition *def, Oid owner);

extern const char *ss_define_name(int column);
extern Oid		   ss_define_type(int column);
extern int		   ss_define_flags(int column);

/* The column of an argument by name; ERROR 22023 with the valid names. */
extern int ss_define_find(const char *name);

/* Set an argument to its default (NULL for one without). */
extern void ss_define_set_fallback(SsDefinition *def, int column);

/* Does the definition have the default there?  consumer_group: the pipeline's name. */
extern bool ss_define_is_fallback(const SsDefinition *def, int column);

/*
 * Check one argument that the user gave, and put it into the form in which it
 * is stored: names qualified, positions resolved, settings captured.
 * ERROR 22004 NULL, 22023 not a valid value, 0A000 not supported yet, and
 * what the lookup of the named object raises.
 */
extern void ss_define_check(SsDefinition *def, int column);

/* Check arguments that depend on each other. */
extern void ss_define_check_whole(const SsDefinition *def);

/* Can workers connect as this role?  ERROR 55000 with a hint. */
extern void ss_define_check_owner(Oid owner);

/* May the owner write into the target as the definition wants it?  ERROR 42501. */
extern void ss_define_check_target(const SsDefinition *def);

/* create_target and evolve: what excludes them.  ERROR 22023. */
extern void ss_define_check_makes(const SsDefinition *def);

/* The qualified name of a target that is to be made.  ERROR 22023 for a temporary one, 3F000. */
extern char *ss_define_new_target(const RangeVar *range);

/* Can this owner add columns to the target?  ERROR 42809, 42501. */
extern void ss_define_check_evolves(Oid relid, Oid role);

/* The first wait between tries must not be longer than the longest one: ERROR 22023. */
extern void ss_define_check_backoff(const SsDefinition *def);

/*
 * A position: "ms" or "ms-seq" as it stands, else a time: then the id before
 * the first one of that moment, because reading begins behind a position.
 * False for "$".  ERROR 22007, 22008.
 */
extern bool ss_define_position(const char *text, SsEntryId *position);

/*
 * Milliseconds of an interval argument of a control call.  ERROR 22004 with
 * isnull, 22023 if it is negative or has months.
 */
extern int64 ss_define_milliseconds(const char *argument, const Interval *interval, bool isnull);

#endif /* SS_DEFINE_H */
