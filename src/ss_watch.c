/*
 * ss_watch.c
 *	  Which mappings went stale, because something behind them changed.
 *
 * NOTES
 *	  Invalidation callbacks cannot be taken back, so they are registered once
 *	  per process and walk the list of living mappings.  They may run at any
 *	  catalog access: they only set flags.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "ss_rows.h"

static dlist_head mappings = DLIST_STATIC_INIT(mappings);
static bool		  registered = false;

static void
relation_changed(Datum arg, Oid relid)
{
	dlist_iter iter;

	dlist_foreach(iter, &mappings)
	{
		SsMapping *mapping = dlist_container(SsMapping, link, iter.cur);

		if (!OidIsValid(relid) || list_member_oid(mapping->relations, relid))
			mapping->valid = false;
	}
}

static void
type_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	dlist_iter iter;

	dlist_foreach(iter, &mappings)
	{
		SsMapping *mapping = dlist_container(SsMapping, link, iter.cur);

		if (hashvalue == 0 || list_member_int(mapping->types, (int) hashvalue))
			mapping->valid = false;
	}
}

/* Names are resolved through schemas: a renamed one may mean another relation. */
static void
schema_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	relation_changed(0, InvalidOid);
}

/* A replaced function may be inlined in a planned default. */
static void
function_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	dlist_iter iter;

	dlist_foreach(iter, &mappings)
	{
		SsMapping *mapping = dlist_container(SsMapping, link, iter.cur);

		if (mapping->has_functions)
			mapping->valid = false;
	}
}

static void
leave_list(void *arg)
{
	dlist_delete(&((SsMapping *) arg)->link);
}

void
ss_watch_begin(SsMapping *mapping)
{
	MemoryContextCallback *callback = MemoryContextAlloc(mapping->cxt, sizeof(MemoryContextCallback));

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(TYPEOID, type_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, schema_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
		registered = true;
	}

	mapping->valid = true;
	callback->func = leave_list;
	callback->arg = mapping;
	dlist_push_head(&mappings, &mapping->link);
	MemoryContextRegisterResetCallback(mapping->cxt, callback);
}

void
ss_watch_relation(SsMapping *mapping, Oid relid)
{
	MemoryContext old = MemoryContextSwitchTo(mapping->cxt);

	mapping->relations = lappend_oid(mapping->relations, relid);
	MemoryContextSwitchTo(old);
}

void
ss_watch_type(SsMapping *mapping, Oid type)
{
	MemoryContext old = MemoryContextSwitchTo(mapping->cxt);
	uint32		  hash = GetSysCacheHashValue1(TYPEOID, ObjectIdGetDatum(type));

	mapping->types = list_append_unique_int(mapping->types, (int) hash);
	MemoryContextSwitchTo(old);
}
