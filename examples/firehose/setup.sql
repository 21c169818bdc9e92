-- firehose: one stream of a social network's events, into many tables.
--
--   psql -v host=127.0.0.1 -v port=6379 -f setup.sql
\set ON_ERROR_STOP on
\if :{?host}
\else
\set host 127.0.0.1
\set port 6379
\endif
\if :{?workers}
\else
\set workers 5
\endif

CREATE EXTENSION IF NOT EXISTS streamsink;
SET search_path = public, streamsink;	-- captured with the pipeline: entry ids are compared

CREATE TABLE IF NOT EXISTS users (
	did             text PRIMARY KEY,
	handle          text,
	display_name    text,
	description     text,
	status          text NOT NULL DEFAULT 'active',
	created_at      timestamptz NOT NULL DEFAULT now(),
	handle_version  entry_id,
	status_version  entry_id
);
CREATE TABLE IF NOT EXISTS posts (
	uri         text PRIMARY KEY,
	did         text NOT NULL REFERENCES users,
	cid         text,
	text        text,
	reply_to    text,			-- no reference: an answer outlives what it answers
	created_at  timestamptz
);
CREATE TABLE IF NOT EXISTS likes (
	uri         text PRIMARY KEY,
	did         text NOT NULL REFERENCES users,
	post        text NOT NULL REFERENCES posts ON DELETE CASCADE,
	created_at  timestamptz
);
CREATE TABLE IF NOT EXISTS reposts (LIKE likes INCLUDING INDEXES,
	FOREIGN KEY (did) REFERENCES users, FOREIGN KEY (post) REFERENCES posts ON DELETE CASCADE);
CREATE TABLE IF NOT EXISTS follows (
	uri         text PRIMARY KEY,
	did         text NOT NULL REFERENCES users,
	subject     text NOT NULL REFERENCES users,
	created_at  timestamptz
);
CREATE TABLE IF NOT EXISTS blocks (LIKE follows INCLUDING INDEXES,
	FOREIGN KEY (did) REFERENCES users, FOREIGN KEY (subject) REFERENCES users);
CREATE INDEX IF NOT EXISTS likes_post ON likes (post);		-- for the cascades
CREATE INDEX IF NOT EXISTS reposts_post ON reposts (post);

-- The newest operation on each record.  Several workers apply a stream out of order, so each
-- compares entry ids (and the place within the entry) here: an older operation finds a newer
-- one and does nothing.  What is deleted stays, as a tombstone.
CREATE TABLE IF NOT EXISTS record_versions (
	uri      text PRIMARY KEY,
	version  entry_id NOT NULL,
	n        int NOT NULL,
	deleted  boolean NOT NULL
);
CREATE TABLE IF NOT EXISTS ignored_operations (
	at          timestamptz NOT NULL DEFAULT now(),
	collection  text,
	operations  bigint NOT NULL
);

DO $$ BEGIN
	CREATE TYPE firehose_event AS (type text, repo text, did text, ops jsonb, handle text, active boolean, status text);
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;

CREATE SERVER IF NOT EXISTS firehose_redis FOREIGN DATA WRAPPER streamsink OPTIONS (host :'host', port :'port');
CREATE USER MAPPING IF NOT EXISTS FOR CURRENT_USER SERVER firehose_redis;

-- Workers that are not ours may read in the group, and die with entries of theirs pending: claim_idle takes those.
SELECT create_pipeline('firehose', server => 'firehose_redis', stream => 'firehose:events', consumer_group => 'firehose-processors',
	payload => 'event', row_type => 'firehose_event', workers => :workers, on_lost_group => 'reread', claim_idle => '10 min', if_not_exists => true,
	transform => $$
		SELECT refuse(_seq, 'not an event of type commit, identity or account')
		FROM batch
		WHERE coalesce(type, '') NOT IN ('commit', 'identity', 'account') OR coalesce(repo, did) IS NULL
			OR type = 'commit' AND jsonb_typeof(ops) IS DISTINCT FROM 'array';

		-- The operations of the batch.
		SELECT b._seq, b._id AS version, o.n::int AS n, coalesce(b.repo, b.did) AS did, o.op ->> 'action' AS action,
			o.op ->> 'collection' AS collection, o.op ->> 'cid' AS cid, o.op -> 'record' AS record,
			format('at://%s/%s/%s', coalesce(b.repo, b.did), o.op ->> 'collection', o.op ->> 'rkey') AS uri,
			coalesce(o.op #>> '{record,subject,uri}', o.op #>> '{record,subject}') AS subject,
			coalesce(o.op ->> 'collection', '') IN ('app.bsky.feed.post', 'app.bsky.feed.like', 'app.bsky.feed.repost',
				'app.bsky.graph.follow', 'app.bsky.graph.block', 'app.bsky.actor.profile') AS known
		INTO op
		FROM batch b CROSS JOIN LATERAL jsonb_array_elements(b.ops) WITH ORDINALITY AS o(op, n)
		WHERE b.type = 'commit';

		-- What cannot be applied.
		SELECT refuse(_seq, 'an operation that is no create or delete of a record', errcode => '22023')
		FROM op
		WHERE known AND (coalesce(action, '') NOT IN ('create', 'delete')
			OR action = 'create' AND jsonb_typeof(record) IS DISTINCT FROM 'object');
		SELECT refuse(_seq, format('unknown post: %s', subject), errcode => '23503')
		FROM op o
		WHERE action = 'create' AND collection IN ('app.bsky.feed.like', 'app.bsky.feed.repost')
			AND NOT EXISTS (SELECT FROM record_versions v WHERE v.uri = o.subject)
			AND NOT EXISTS (SELECT FROM op p WHERE p.uri = o.subject);
		SELECT refuse(_seq, format('unknown user: %s', subject), errcode => '23503')
		FROM op o
		WHERE action = 'create' AND collection IN ('app.bsky.graph.follow', 'app.bsky.graph.block')
			AND NOT EXISTS (SELECT FROM users u WHERE u.did = o.subject)
			AND NOT EXISTS (SELECT FROM batch b WHERE coalesce(b.repo, b.did) = o.subject);

		INSERT INTO ignored_operations (collection, operations)
		SELECT collection, count(*) FROM op WHERE NOT known GROUP BY collection;
		SELECT ignore(_seq, 'unknown collection') FROM op GROUP BY _seq HAVING NOT bool_or(known);

		-- The rest is applied.  Keys are taken in order, so that workers wait for each other and do not deadlock.
		INSERT INTO users (did)
		SELECT DISTINCT coalesce(repo, did) FROM batch ORDER BY 1
		ON CONFLICT DO NOTHING;
		INSERT INTO record_versions AS v (uri, version, n, deleted)
		SELECT DISTINCT ON (o.uri) o.uri, o.version, o.n, o.action = 'delete'
		FROM batch JOIN op o USING (_seq)
		WHERE o.known
		ORDER BY o.uri, o.version DESC, o.n DESC
		ON CONFLICT (uri) DO UPDATE SET version = excluded.version, n = excluded.n, deleted = excluded.deleted
		WHERE (v.version, v.n) < (excluded.version, excluded.n);

		-- Of each record the newest operation, if it is one of this batch.
		SELECT o.action, o.collection, o.uri, o.did, o.cid, o.record, o.subject, (o.record ->> 'createdAt')::timestamptz AS created_at
		INTO todo
		FROM batch JOIN op o USING (_seq) JOIN record_versions v USING (uri, version, n);

		INSERT INTO posts (uri, did, cid, text, reply_to, created_at)
		SELECT uri, did, cid, record ->> 'text', record #>> '{reply,parent,uri}', created_at
		FROM todo WHERE action = 'create' AND collection = 'app.bsky.feed.post' ORDER BY uri
		ON CONFLICT DO NOTHING;
		-- a post that was known and is deleted takes no likes
		INSERT INTO likes (uri, did, post, created_at)
		SELECT t.uri, t.did, p.uri, t.created_at
		FROM todo t JOIN posts p ON p.uri = t.subject
		WHERE action = 'create' AND collection = 'app.bsky.feed.like'
		ON CONFLICT DO NOTHING;
		INSERT INTO reposts (uri, did, post, created_at)
		SELECT t.uri, t.did, p.uri, t.created_at
		FROM todo t JOIN posts p ON p.uri = t.subject
		WHERE action = 'create' AND collection = 'app.bsky.feed.repost'
		ON CONFLICT DO NOTHING;
		INSERT INTO follows (uri, did, subject, created_at)
		SELECT uri, did, subject, created_at FROM todo WHERE action = 'create' AND collection = 'app.bsky.graph.follow'
		ON CONFLICT DO NOTHING;
		INSERT INTO blocks (uri, did, subject, created_at)
		SELECT uri, did, subject, created_at FROM todo WHERE action = 'create' AND collection = 'app.bsky.graph.block'
		ON CONFLICT DO NOTHING;
		DELETE FROM posts USING todo t WHERE posts.uri = t.uri AND action = 'delete';
		DELETE FROM likes USING todo t WHERE likes.uri = t.uri AND action = 'delete';
		DELETE FROM reposts USING todo t WHERE reposts.uri = t.uri AND action = 'delete';
		DELETE FROM follows USING todo t WHERE follows.uri = t.uri AND action = 'delete';
		DELETE FROM blocks USING todo t WHERE blocks.uri = t.uri AND action = 'delete';
		UPDATE users u SET display_name = record ->> 'displayName', description = record ->> 'description'
		FROM todo t
		WHERE u.did = t.did AND collection = 'app.bsky.actor.profile';

		UPDATE users u SET handle = e.handle, handle_version = e._id
		FROM (SELECT DISTINCT ON (did) did, handle, _id FROM batch WHERE type = 'identity' ORDER BY did, _id DESC) e
		WHERE u.did = e.did AND (u.handle_version < e._id) IS NOT FALSE;
		UPDATE users u SET status = e.status, status_version = e._id
		FROM (SELECT DISTINCT ON (did) did, coalesce(status, CASE WHEN active IS FALSE THEN 'inactive' ELSE 'active' END) AS status, _id
			FROM batch WHERE type = 'account' ORDER BY did, _id DESC) e
		WHERE u.did = e.did AND (u.status_version < e._id) IS NOT FALSE;
	$$);
SELECT start('firehose');
