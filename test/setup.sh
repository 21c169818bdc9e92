#!/bin/bash
# setup.sh [build|ci|bench|debian13]: install what building (and, without the argument, testing
# and the demo) needs, on Debian and its kin; bench: the benchmark as well; debian13: only what makes
# a Debian 13.  Does nothing where all is there.
#
# Servers that come with the packages are neither started nor left enabled, and
# no cluster is made: an existing PostgreSQL or Redis is not touched.
set -u

what=${1:-all}
pg_config=${PG_CONFIG:-pg_config}

have() { command -v "$1" >/dev/null 2>&1; }
have_package() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# What is missing, by looking for the thing itself and not for a package.
missing=()
find_missing()
{
	local major=
	missing=()
	if [ "$what" = debian13 ]
	then
		have debootstrap || missing+=(debootstrap)
		[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
		return
	fi
	have make || missing+=(make)
	have gcc || missing+=(gcc libc6-dev)
	have pkg-config || missing+=(pkg-config)
	if ! have pkg-config || ! pkg-config --exists hiredis; then missing+=(libhiredis-dev); fi
	if ! have pkg-config || ! pkg-config --exists libcjson; then missing+=(libcjson-dev); fi
	[ -f /usr/include/openssl/ssl.h ] || missing+=(libssl-dev)

	# a server's package may bring pg_config and pgxs without the headers
	if have "$pg_config" && [ -f "$("$pg_config" --includedir-server)/postgres.h" ] && [ -f "$("$pg_config" --pgxs)" ]
	then
		[ "$what" = build ] || [ -x "$("$pg_config" --bindir)/postgres" ] ||
			missing+=("postgresql-$("$pg_config" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')")
	else
		major=$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null | cut -d/ -f5 | sort -n | tail -n 1)
		[ -n "$major" ] || major=$(default_major)
		missing+=("postgresql-server-dev-$major")
		[ "$what" = build ] || [ -x "/usr/lib/postgresql/$major/bin/postgres" ] || missing+=("postgresql-$major")
	fi
	[ "$what" = build ] && return

	have redis-server || missing+=(redis-server)
	have redis-cli || missing+=(redis-tools)
	have clang || missing+=(clang)
	have perl || missing+=(perl)
	have prove || missing+=(perl)
	have perl && perl -MIPC::Run -e 1 2>/dev/null || missing+=(libipc-run-perl)
	[ "$what" != ci ] || have clang-format || missing+=(clang-format)
	[ "$what" != ci ] || have prometheus-postgres-exporter || missing+=(prometheus-postgres-exporter)
	[ -x /usr/bin/python3 ] || missing+=(python3)
	# for the examples: who reads Redis besides streamsink, and an MQTT broker
	/usr/bin/python3 -c 'import redis' 2>/dev/null || missing+=(python3-redis)
	[ -x /usr/sbin/mosquitto ] || have mosquitto || missing+=(mosquitto)
	have mosquitto_sub || missing+=(mosquitto-clients)
	[ "$what" = bench ] || return
	have gnuplot || missing+=(gnuplot-nox)
	local module
	# the distribution's python: its packages are nobody else's
	for module in redis hiredis asyncpg uvloop psycopg2
	do /usr/bin/python3 -c "import $module" 2>/dev/null || missing+=("python3-$module")
	done
}

# The version that the distribution calls postgresql; it needs package lists.
default_major()
{
	local major
	major=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
	echo "${major:-15}"
}

find_missing
[ ${#missing[@]} -gt 0 ] || exit 0

if ! have apt-get
then
	echo "missing, to be installed by your system's means (named as Debian does): ${missing[*]}" >&2
	exit 1
fi
if [ "$(id -u)" -eq 0 ]
then sudo=
elif have sudo
then sudo=sudo
else
	echo "missing: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
	exit 1
fi

# On a machine without package lists even the names are unknown.
echo "getting package lists"
$sudo apt-get -qq update || exit 1
find_missing
echo "installing: ${missing[*]}"

policy=/usr/sbin/policy-rc.d
clusters=/etc/postgresql-common/createcluster.d
made_policy= made_clusters= log=
undo()
{
	rm -f "$log"
	[ -z "$made_policy" ] || $sudo rm -f "$policy"
	[ -z "$made_clusters" ] || $sudo rm -f "$clusters/zz-streamsink.conf"
}
trap undo EXIT
trap 'exit 130' INT TERM

if [ ! -e "$policy" ]
then
	made_policy=1
	printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
	$sudo chmod 755 "$policy"
fi
case " ${missing[*]} " in
	*" postgresql-"[0-9]*)
		made_clusters=1
		$sudo mkdir -p "$clusters"
		echo 'create_main_cluster = false' | $sudo tee "$clusters/zz-streamsink.conf" >/dev/null
		;;
esac

had=
for service in redis-server mosquitto prometheus-postgres-exporter
do ! have_package $service || had="$had $service "
done

log=$(mktemp)
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
	-o Dpkg::Options::=--force-confold install "${missing[@]}" >"$log" 2>&1
status=$?
if [ $status -ne 0 ]
then
	tail -n 30 "$log" >&2
	exit 1
fi

for service in redis-server mosquitto prometheus-postgres-exporter
do
	case $had in *" $service "*) continue ;; esac
	if have_package $service && have systemctl
	then $sudo systemctl disable $service >/dev/null 2>&1
	fi
done

find_missing
if [ ${#missing[@]} -gt 0 ]
then
	echo "still missing: ${missing[*]}" >&2
	exit 1
fi
exit 0
