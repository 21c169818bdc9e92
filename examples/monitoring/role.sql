-- The role that the exporter connects as.  pg_monitor suffices: it sees states
-- and numbers of all pipelines, and neither dead letters nor tables.
CREATE ROLE exporter LOGIN IN ROLE pg_monitor CONNECTION LIMIT 5;
