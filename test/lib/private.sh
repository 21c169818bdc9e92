# private.sh: sourced by test/run and the demo.  A PostgreSQL of our own that
# shares the system's files but not its directories, and clean-up by pid.
#
# PostgreSQL finds its files relative to where its program lies.  So programs
# copied to $1/usr/lib/..., with links to everything else, make an installation
# into which "make install DESTDIR=$1" can install: nothing of the system's is
# written to, and no privilege is needed.

say() { printf '%s\n' "$@"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# Directories of the system's PostgreSQL; $PG_CONFIG or the newest one found.
find_postgres()
{
	PG_CONFIG=${PG_CONFIG:-pg_config}
	command -v "$PG_CONFIG" >/dev/null || die "pg_config not found; run test/setup.sh"
	SYS_BIN=$("$PG_CONFIG" --bindir)
	SYS_SHARE=$("$PG_CONFIG" --sharedir)
	SYS_LIB=$("$PG_CONFIG" --pkglibdir)
	SYS_PGXS=$(dirname "$("$PG_CONFIG" --pgxs)")	# .../pgxs/src/makefiles
	SYS_PGXS=${SYS_PGXS%/src/makefiles}
	PG_MAJOR=$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
	[ -x "$SYS_BIN/postgres" ] || die "no server in $SYS_BIN; run test/setup.sh"
}

# link_all FROM TO: a link in TO for every member of FROM.
link_all()
{
	mkdir -p "$2"
	find "$1" -mindepth 1 -maxdepth 1 -exec ln -sf -t "$2" {} +
}

# make_prefix DIR: sets PREFIX_BIN, the directory to put in front of PATH.
make_prefix()
{
	local root=$1
	PREFIX_BIN=$root$SYS_BIN
	mkdir -p "$PREFIX_BIN"
	cp -L "$SYS_BIN"/* "$PREFIX_BIN"/ # copies: a linked program would find the system's files
	link_all "$SYS_LIB" "$root$SYS_LIB"
	link_all "$SYS_SHARE" "$root$SYS_SHARE"
	rm -f "$root$SYS_SHARE/extension" "$root$SYS_LIB/bitcode"
	link_all "$SYS_SHARE/extension" "$root$SYS_SHARE/extension"
	# what an earlier "make install" of streamsink left in the system must not shine through
	rm -f "$root$SYS_SHARE"/extension/streamsink* "$root$SYS_LIB"/streamsink*
}

# The user servers run as: PostgreSQL refuses root.
choose_user()
{
	if [ "$(id -u)" -eq 0 ]
	then
		RUN_USER=${STREAMSINK_TEST_USER:-postgres}
		id "$RUN_USER" >/dev/null 2>&1 || RUN_USER=nobody
	else
		RUN_USER=$(id -un)
	fi
}

# as_user COMMAND ...: run it as that user.  No process stands in between: the
# pid of a background job is the command's own.
as_user()
{
	if [ "$(id -un)" = "$RUN_USER" ]
	then "$@"
	else setpriv --reuid="$RUN_USER" --regid="$(id -gn "$RUN_USER")" --init-groups env HOME="$HOME_DIR" "$@"
	fi
}

# stop_servers DIR: stop every server whose pid file lies below DIR.
stop_servers()
{
	local file pid pids=() i
	for file in $(find "$1" \( -name postmaster.pid -o -name redis.pid \) 2>/dev/null)
	do
		pid=$(head -n 1 "$file" 2>/dev/null)
		case $pid in ''|*[!0-9]*) continue ;; esac
		[ "$pid" -gt 1 ] && kill -0 "$pid" 2>/dev/null || continue
		# a stale pid may be somebody else's by now: its command line or directory must lead here
		[ ! -d /proc/self ] || case $(readlink "/proc/$pid/cwd" 2>/dev/null)/$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) in
			*"$1"*) ;;
			*) continue ;;
		esac
		kill -CONT "$pid" 2>/dev/null
		case $file in
			*postmaster.pid) kill -QUIT "$pid" 2>/dev/null ;;
			*) kill -TERM "$pid" 2>/dev/null ;;
		esac
		pids+=("$pid")
	done
	for pid in "${pids[@]}"
	do
		for ((i = 0; i < 100; i++))
		do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
		kill -9 "$pid" 2>/dev/null || :
	done
}

# start_redis DIR [PORT]: a server on DIR/redis.sock and a free loopback port; sets REDIS_PORT.
start_redis()
{
	local dir=$1 port=${2:-} try i
	for try in 1 2 3 4 5 6 7 8
	do
		REDIS_PORT=${port:-$((20000 + RANDOM % 10000))}
		as_user setsid redis-server --port "$REDIS_PORT" --bind 127.0.0.1 --unixsocket "$dir/redis.sock" \
			--dir "$dir" --save '' --appendonly no --daemonize no --pidfile "$dir/redis.pid" \
			>"$dir/redis.log" 2>&1 &
		local child=$!
		for ((i = 0; i < 100; i++))
		do
			if [ "$(redis-cli -s "$dir/redis.sock" ping 2>/dev/null)" = PONG ]
			then
				redis-cli -s "$dir/redis.sock" info server | sed -n 's/^process_id:\([0-9]*\).*/\1/p' >"$dir/redis.pid"
				disown "$child" 2>/dev/null
				return 0
			fi
			kill -0 "$child" 2>/dev/null || break
			sleep 0.1
		done
		kill "$child" 2>/dev/null
		wait "$child" 2>/dev/null
	done
	cat "$dir/redis.log" >&2
	die "redis-server did not start"
}

# start_postgres DIR EXTRA_CONF: a cluster in DIR/data, socket in DIR; sets PG_PORT.
start_postgres()
{
	local dir=$1 conf=$2
	as_user "$PREFIX_BIN/initdb" -D "$dir/data" -U postgres -A trust -N -E UTF8 --locale=C >"$dir/initdb.log" 2>&1 ||
		{ cat "$dir/initdb.log" >&2; die "initdb failed"; }
	PG_PORT=5432				# no TCP: the number is only part of the socket's name
	printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$dir'" "port = $PG_PORT" "$conf" |
		as_user tee -a "$dir/data/postgresql.conf" >/dev/null
	as_user "$PREFIX_BIN/pg_ctl" -D "$dir/data" -l "$dir/postgres.log" -w -s start ||
		{ tail -n 30 "$dir/postgres.log" >&2; die "the server did not start"; }
}
