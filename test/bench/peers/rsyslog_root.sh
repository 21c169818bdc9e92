#!/bin/bash
# rsyslog_root.sh DIR: make DIR a Debian 13 root folder with the rsyslog, imhiredis and ompgsql that rsyslog.py --root runs.
#
# Wants root, debootstrap and a Debian mirror (MIRROR, else the default of debootstrap). Does nothing where all is there; a half-made DIR is
# refused. /proc is mounted in it only while packages are installed. Nothing is started in it.
set -eu

suite=trixie
mirror=${MIRROR:-}
packages=(rsyslog rsyslog-hiredis rsyslog-pgsql)

fail() { echo "rsyslog_root.sh: $*" >&2; exit 1; }

[ $# -eq 1 ] && [ -n "$1" ] || fail "usage: rsyslog_root.sh DIR"
dir=$(realpath -m -- "$1")
[ "$dir" != / ] || fail "/ is not a folder for this"

complete() { [ -x "$dir/usr/sbin/rsyslogd" ] && [ -n "$(find "$dir/usr/lib" -name imhiredis.so)" ] && [ -n "$(find "$dir/usr/lib" -name ompgsql.so)" ]; }

if [ -e "$dir" ]
then
	[ -d "$dir" ] || fail "$dir is not a folder"
	if complete 2>/dev/null
	then
		echo "rsyslog_root.sh: $dir is there already"
		exit 0
	fi
	[ -z "$(ls -A "$dir")" ] || fail "$dir is neither empty nor complete"
fi
[ "$(id -u)" = 0 ] || fail "this wants root"
command -v debootstrap >/dev/null || fail "debootstrap is missing (apt-get install debootstrap)"

mounted=
unmount() { [ -z "$mounted" ] || umount "$dir/proc"; mounted=; }
trap unmount EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir -p "$dir"
debootstrap --variant=minbase "$suite" "$dir" ${mirror:+"$mirror"}

# debootstrap mounts /proc for its own time and leaves it behind in some surroundings: then it is taken away with ours.
mountpoint -q "$dir/proc" || mount -t proc proc "$dir/proc"
mounted=yes

# Packages that come with a service must not start it here.
printf '#!/bin/sh\nexit 101\n' >"$dir/usr/sbin/policy-rc.d"
chmod 755 "$dir/usr/sbin/policy-rc.d"

in_root() { chroot "$dir" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }
in_root apt-get update -q
in_root apt-get install -qy --no-install-recommends "${packages[@]}"
in_root apt-get clean
rm -rf "$dir"/var/lib/apt/lists/*

complete || fail "the packages came without a module"
in_root rsyslogd -v | head -n 1
