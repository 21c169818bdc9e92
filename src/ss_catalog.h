/*
 * ss_catalog.h
 *	  Pipeline definitions and their streams: the only file that knows the
 *	  tables streamsink.pipeline and streamsink.stream.
 *
 * NOTES
 *	  The extension's own tables are read and written through table and index
 *	  access, not SPI: no plan that a search_path could bend, no operator of a
 *	  user's, no privilege of the caller's.  All verbs need a transaction.
 */
#ifndef SS_CATALOG_H
#define SS_CATALOG_H

#include "access/attnum.h"
#include "access/htup.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"
#include "utils/uuid.h"
#include "ss_entryid.h"

/* The columns of streamsink.pipeline; those up to settings have the order of create_pipeline's arguments. */
typedef enum SsPipelineColumn
{
	SS_PIPELINE_name = 1,
	SS_PIPELINE_server,
	SS_PIPELINE_stream,
	SS_PIPELINE_target,
	SS_PIPELINE_row_type,
	SS_PIPELINE_transform,
	SS_PIPELINE_columns,
	SS_PIPELINE_payload,
	SS_PIPELINE_rest,
	SS_PIPELINE_on_conflict,
	SS_PIPELINE_key,
	SS_PIPELINE_consumer_group,
	SS_PIPELINE_start_from,
	SS_PIPELINE_workers,
	SS_PIPELINE_batch_size,
	SS_PIPELINE_batch_bytes,
	SS_PIPELINE_linger,
	SS_PIPELINE_on_error,
	SS_PIPELINE_max_retries,
	SS_PIPELINE_retry_backoff,
	SS_PIPELINE_retry_backoff_max,
	SS_PIPELINE_retry_growth,
	SS_PIPELINE_max_dead_letter_rate,
	SS_PIPELINE_dead_letter_stream,
	SS_PIPELINE_dead_letter_retention,
	SS_PIPELINE_max_dead_letters,
	SS_PIPELINE_trim_after,
	SS_PIPELINE_claim_idle,
	SS_PIPELINE_on_replaced_stream,
	SS_PIPELINE_on_lost_group,
	SS_PIPELINE_max_entry_bytes,
	SS_PIPELINE_ledger_retention,
	SS_PIPELINE_allow_inexact,
	SS_PIPELINE_create_target,
	SS_PIPELINE_evolve,
	SS_PIPELINE_settings, /* last one that is an argument */
	SS_PIPELINE_id,
	SS_PIPELINE_owner,
	SS_PIPELINE_identity,
	SS_PIPELINE_incarnation,
	SS_PIPELINE_generation,
	SS_PIPELINE_enabled,
	SS_PIPELINE_enabled_system,
	SS_PIPELINE_enabled_database,
	SS_PIPELINE_failure,
	SS_PIPELINE_created_at,
	SS_PIPELINE_altered_at
} SsPipelineColumn;

#define SS_PIPELINE_NARGS	 SS_PIPELINE_settings
#define SS_PIPELINE_NCOLUMNS SS_PIPELINE_altered_at

/* Longest name of a stream, in bytes: it must fit into an index entry. */
#define SS_STREAM_NAME_MAX 2000

/* Words of arguments that choose, in the order of the enums below, ended by NULL. */
extern const char *const ss_catalog_on_conflict_words[];
extern const char *const ss_catalog_on_error_words[];
extern const char *const ss_catalog_growth_words[];
extern const char *const ss_catalog_replaced_words[];
extern const char *const ss_catalog_lost_words[];

typedef enum SsOnConflict
{
	SS_CONFLICT_ERROR,
	SS_CONFLICT_NOTHING,
	SS_CONFLICT_UPDATE
} SsOnConflict;

typedef enum SsOnError
{
	SS_ON_ERROR_DEAD_LETTER,
	SS_ON_ERROR_STOP,
	SS_ON_ERROR_DISCARD
} SsOnError;

typedef enum SsGrowth
{
	SS_GROWTH_EXPONENTIAL,
	SS_GROWTH_LINEAR,
	SS_GROWTH_CONSTANT
} SsGrowth;

/* What to do when a stream was deleted and made anew. */
typedef enum SsOnReplaced
{
	SS_REPLACED_STOP,
	SS_REPLACED_FOLLOW
} SsOnReplaced;

/* What to do when a consumer group is gone. */
typedef enum SsOnLost
{
	SS_LOST_UNSET = -1, /* reread, unless others read in the group too: then stop */
	SS_LOST_STOP,
	SS_LOST_RESUME,
	SS_LOST_REREAD
} SsOnLost;

/* A definition as C reads it.  Strings NULL where the column is. */
typedef struct SsPipeline
{
	int32		 id;
	char		*name;
	char		*owner;		/* role name */
	Oid			 owner_oid; /* InvalidOid if no such role */
	char		*server;
	char		*stream; /* key, glob or template as the user wrote it */
	char		*target; /* schema-qualified, quoted where needed; NULL only with transform */
	char		*row_type;
	char		*transform;
	Jsonb		*columns;
	char		*payload;
	char		*rest;
	SsOnConflict on_conflict;
	char		*key; /* identifier list, or NULL: the primary key */
	char		*consumer_group;
	char		*start_from; /* an entry id, or '$' (only before it was resolved) */
	int32		 workers;
	int32		 batch_size; /* entries */
	int64		 batch_bytes;
	int64		 linger_ms;
	SsOnError	 on_error;
	int32		 max_retries; /* -1: for ever */
	int64		 retry_backoff_ms;
	int64		 retry_backoff_max_ms;
	SsGrowth	 retry_growth;
	float4		 max_dead_letter_rate; /* 0: none */
	SsOnReplaced on_replaced_stream;
	SsOnLost	 on_lost_group;
	int64		 claim_idle_ms;			   /* -1: never */
	int64		 trim_after_ms;			   /* -1: never */
	char		*dead_letter_stream;	   /* where dead letters are copied to, or NULL */
	int64		 dead_letter_retention_ms; /* -1: for ever */
	int64		 max_dead_letters;		   /* -1: no limit */
	int64		 max_entry_bytes;
	int64		 ledger_retention_ms;
	bool		 allow_inexact;
	bool		 evolve;   /* new fields become columns of the target */
	Jsonb		*settings; /* GUC name -> value, applied on every path */
	pg_uuid_t	 identity;
	char		 consumer[64]; /* "streamsink:<identity>": prefix of every consumer name of ours */
	int32		 incarnation;
	int64		 generation; /* bumped by every control call */
	bool		 enabled;	 /* here: the row's flag, and it was enabled in this system and this database */
	char		*failure;	 /* why a policy stopped it, or NULL */
	TimestampTz	 created_at;
} SsPipeline;

/* One stream of a pipeline. */
typedef struct SsStreamRow
{
	int32	  id;	/* streamsink.stream.id: what the ledger refers to */
	char	 *name; /* the Redis key */
	int32	  incarnation;
	SsEntryId start;   /* the group is made behind this id */
	bool	  foreign; /* consumers of others were seen in the group */
	int64	  missed;  /* entries known to have been trimmed before they were delivered */
} SsStreamRow;

/*
 * OID of a table or sequence of the extension by name, checked to belong to
 * the extension.  ERROR 42704 "extension ... is not installed" with missing_ok
 * false; InvalidOid otherwise.
 */
extern Oid ss_catalog_relation(const char *relname, bool missing_ok);

/*
 * Open a table of the extension.  With missing_ok NULL if it, or the whole
 * extension, is gone (also when it goes while we wait for the lock).
 */
extern Relation ss_catalog_open(const char *relname, LOCKMODE mode, bool missing_ok);

/* Next value of an extension's sequence, without a privilege check. */
extern int64 ss_catalog_nextval(const char *sequence);

/* Read a definition, in CurrentMemoryContext, under a fresh catalog snapshot.  By name: ERROR 42704 unless missing_ok (NULL). */
extern SsPipeline *ss_catalog_load(const char *name, bool missing_ok);
extern SsPipeline *ss_catalog_load_by_id(int32 id); /* NULL if gone, also when the extension is gone */

/* For calls that show, repair or remove a definition: a value that this version does not know reads as its default.  By name, or with NULL by id. */
extern SsPipeline *ss_catalog_load_lenient(const char *name, int32 id, bool missing_ok);

/*
 * A definition out of raw columns (SS_PIPELINE_NCOLUMNS of each), in
 * CurrentMemoryContext.  A column with a value that this version does not
 * know is reported with elevel (22023, naming the pipeline): NULL if that is
 * below ERROR.  elevel 0: such a column reads as its default.
 */
extern SsPipeline *ss_catalog_build(const Datum *values, const bool *nulls, int elevel);

/* An interval in milliseconds; false for one with months or beyond the range. */
extern bool ss_catalog_interval_ms(const Interval *interval, int64 *ms);

/* Every definition in this database ordered by id, as a List of SsPipeline *; one that cannot be read is left out with a WARNING. */
extern List *ss_catalog_list(void);

/*
 * The fence: lock on the pipeline as an object of this database, held until
 * the transaction ends.  Batches take AccessShareLock, control calls
 * AccessExclusiveLock; start, which waits for no batch, takes
 * ShareUpdateExclusiveLock.  ss_catalog_try_lock does not wait.
 */
extern void ss_catalog_lock(int32 pipeline_id, LOCKMODE mode);
extern bool ss_catalog_try_lock(int32 pipeline_id, LOCKMODE mode);

/*
 * The fence for as long as a session drains a pipeline, over its transactions:
 * an ExclusiveLock, which lets its own batches pass and keeps others from
 * draining, starting or changing the pipeline.  Does not wait: false if
 * somebody has it.
 */
extern bool ss_catalog_lock_session(int32 pipeline_id);
extern void ss_catalog_unlock_session(int32 pipeline_id);

/*
 * The generation of a pipeline as it is committed now (fresh snapshot), or -1
 * if the pipeline or the extension is gone.  enabled may be NULL.
 */
extern int64 ss_catalog_generation(int32 pipeline_id, bool *enabled);

/*
 * Is this definition the one that is committed now (fresh snapshot)?  The
 * identity counts too: an extension made anew gives its pipelines the ids and
 * generations of those before it.
 */
extern bool ss_catalog_is_current(const SsPipeline *pipeline);

/*
 * Insert, update (by id; generation is bumped and altered_at set), delete one
 * definition.  values and nulls have SS_PIPELINE_NCOLUMNS members.  Insert
 * makes id, identity, incarnation, generation and times itself, disabled: the
 * arguments and the owner are given; it returns the id.  A name that is taken
 * is ERROR 42710, in both.  All lock the fence object with
 * ShareUpdateExclusiveLock, so that writers of one row wait for each other,
 * and notify shared memory at commit (ss_shmem_changed_at_commit).
 */
extern int32 ss_catalog_insert(Datum *values, bool *nulls);
extern void	 ss_catalog_update(int32 id, const Datum *values, const bool *nulls, const bool *replace);
extern void	 ss_catalog_delete(int32 id); /* with its streams, ledger and dead letters */

/* Keep names as they are until commit: nobody else adds or renames a pipeline meanwhile. */
extern void ss_catalog_lock_names(void);

/* Raw columns of one definition, for alter and pipeline_def, in CurrentMemoryContext; false if it is gone. */
extern bool ss_catalog_fetch(int32 id, Datum *values, bool *nulls);

/* The row of one definition in an open streamsink.pipeline, flat, under a fresh snapshot; NULL if gone.  For this file and its parts. */
extern HeapTuple ss_catalog_find(Relation rel, int32 id);
extern HeapTuple ss_catalog_find_name(Relation rel, const char *name);
extern void		 ss_catalog_deform(Relation rel, HeapTuple tuple, Datum *values, bool *nulls);

/*
 * Enable or disable (stop by a policy carries its reason in failure, else
 * NULL).  Records system identifier and database when enabling.  Bumps the
 * generation, and notifies shared memory at commit (ss_shmem_changed_at_commit).
 */
extern void ss_catalog_set_enabled(int32 id, bool enabled, const char *failure);

/* Bump the generation: the pipeline's workers begin anew at commit. */
extern void ss_catalog_touch(int32 id);

/*
 * Streams of a pipeline's current incarnation, as a List of SsStreamRow * in
 * CurrentMemoryContext, ordered by id.  Rows of earlier incarnations stay in
 * the table for the ledger's sake until the pipeline is dropped.
 */
extern List *ss_catalog_streams(int32 pipeline_id);

/*
 * Add streams (SsStreamRow *: name and start are given) to the pipeline's
 * current incarnation.  Fills id and incarnation of each; of one that is there
 * already also start, as stored.  Safe against a concurrent adder: it holds a
 * lock until commit.  ERROR 54000 for a name above SS_STREAM_NAME_MAX bytes,
 * 42704 if the pipeline is gone.
 */
extern void ss_catalog_add_streams(int32 pipeline_id, List *rows);

/*
 * Change one stream, under the lock that adders take: its start, or that
 * consumers of others were seen in its group.  Gone already is fine.
 */
extern void ss_catalog_lock_stream_table(void);						   /* the table as such, for who changes it later than others that were made after it */
extern bool ss_catalog_read_stream(int32 stream_id, SsStreamRow *row); /* start and foreign as they are now; false: gone */
extern void ss_catalog_set_stream_start(int32 pipeline_id, int32 stream_id, SsEntryId start);
extern void ss_catalog_set_stream_foreign(int32 pipeline_id, int32 stream_id);

/*
 * Add to what a stream's row counts: gaps of its ledger that were joined
 * unseen or foreign, entries that were missed.  Nothing happens if the row is gone.
 */
extern void ss_catalog_count_stream(int32 pipeline_id, int32 stream_id, int64 unseen, int64 foreign_gaps, int64 missed);

/* The same for entries that were trimmed. */
extern void ss_catalog_count_trimmed(int32 pipeline_id, int32 stream_id, int64 trimmed);

/* Delete the streams of all incarnations; used by ss_catalog_delete. */
extern void ss_catalog_delete_streams(int32 pipeline_id);

#endif /* SS_CATALOG_H */
