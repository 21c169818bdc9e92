/*
 * ss_catalog_relation.c
 *	  The extension's relations by name, and the locks on pipelines.
 *
 * NOTES
 *	  OIDs of our relations are cached by name.  A relcache invalidation of one
 *	  drops it, so an extension that is dropped and made again in the same
 *	  session is found again.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "ss_catalog.h"

#define MAX_CACHED_RELATIONS 48

typedef struct CachedRelation
{
	char *name; /* in TopMemoryContext, kept for ever */
	Oid	  oid;	/* InvalidOid: look it up again */
} CachedRelation;

static CachedRelation cached_relations[MAX_CACHED_RELATIONS];
static int			  ncached_relations = 0;
static uint64		  cache_drops = 0; /* counts invalidations of anything: no stale answer is stored */

static void
forget_relation(Datum arg, Oid relid)
{
	cache_drops++;
	for (int i = 0; i < ncached_relations; i++)
	{
		if (relid == InvalidOid || cached_relations[i].oid == relid)
			cached_relations[i].oid = InvalidOid;
	}
}

/* OID of a relation in our schema that belongs to our extension (an index: whose table does), or InvalidOid. */
static Oid
look_up_relation(const char *relname)
{
	Oid extension = get_extension_oid("streamsink", true);
	Oid schema = get_namespace_oid("streamsink", true);
	Oid relid;
	Oid member;

	if (!OidIsValid(extension) || !OidIsValid(schema))
		return InvalidOid;
	relid = get_relname_relid(relname, schema);
	if (!OidIsValid(relid))
		return InvalidOid;
	member = relid;
	if (get_rel_relkind(relid) == RELKIND_INDEX)
		member = IndexGetRelation(relid, true);
	if (!OidIsValid(member) ||
		getExtensionOfObject(RelationRelationId, member) != extension)
		return InvalidOid;
	return relid;
}

Oid
ss_catalog_relation(const char *relname, bool missing_ok)
{
	static bool		registered = false;
	CachedRelation *cached = NULL;
	uint64			drops;
	Oid				relid;

	for (int i = 0; i < ncached_relations; i++)
	{
		if (strcmp(cached_relations[i].name, relname) == 0)
		{
			cached = &cached_relations[i];
			break;
		}
	}
	if (cached != NULL && OidIsValid(cached->oid))
		return cached->oid;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
		registered = true;
	}

	drops = cache_drops;
	relid = look_up_relation(relname);
	if (!OidIsValid(relid))
	{
		if (missing_ok)
			return InvalidOid;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" is not installed in this database", "streamsink"),
				 errdetail("Relation \"streamsink.%s\" of the extension does not exist.", relname),
				 errhint("Run CREATE EXTENSION streamsink.")));
	}

	if (cached == NULL && ncached_relations < MAX_CACHED_RELATIONS)
	{
		char *name = MemoryContextStrdup(TopMemoryContext, relname);

		cached = &cached_relations[ncached_relations++];
		cached->name = name;
		cached->oid = InvalidOid;
	}
	if (cached != NULL && drops == cache_drops)
		cached->oid = relid;
	return relid;
}

Relation
ss_catalog_open(const char *relname, LOCKMODE mode, bool missing_ok)
{
	Oid		 relid = ss_catalog_relation(relname, missing_ok);
	Relation rel = NULL;

	if (OidIsValid(relid))
		rel = try_table_open(relid, mode);
	if (rel == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" is not installed in this database", "streamsink"),
				 errhint("Run CREATE EXTENSION streamsink.")));
	return rel;
}

int64
ss_catalog_nextval(const char *sequence)
{
	return nextval_internal(ss_catalog_relation(sequence, false), false);
}

/* ---- locks ---- */

static void
fence_tag(LOCKTAG *tag, int32 pipeline_id)
{
	Oid classid = ss_catalog_relation("pipeline", false);

	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, classid, (Oid) pipeline_id, 0);
}

void
ss_catalog_lock(int32 pipeline_id, LOCKMODE mode)
{
	LOCKTAG tag;

	fence_tag(&tag, pipeline_id);
	(void) LockAcquire(&tag, mode, false, false);
	AcceptInvalidationMessages();
}

bool
ss_catalog_try_lock(int32 pipeline_id, LOCKMODE mode)
{
	LOCKTAG tag;

	fence_tag(&tag, pipeline_id);
	if (LockAcquire(&tag, mode, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return true;
}

bool
ss_catalog_lock_session(int32 pipeline_id)
{
	LOCKTAG tag;

	fence_tag(&tag, pipeline_id);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return true;
}

void
ss_catalog_unlock_session(int32 pipeline_id)
{
	LOCKTAG tag;

	fence_tag(&tag, pipeline_id);
	(void) LockRelease(&tag, ExclusiveLock, true);
}

void
ss_catalog_lock_names(void)
{
	/* no pipeline has the id 0 */
	ss_catalog_lock(0, AccessExclusiveLock);
}
