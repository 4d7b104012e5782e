# Runs a lookup program that asks systemd-resolved: sh resolved.sh RESOLVED PROGRAM NAME
#
# Runs in a pod with private /etc and /run. systemd-resolved needs no system bus, but its own user
# and a /run in which it can create its directory.
set -eu
resolved=$1 program=$2 name=$3

printf 'root:x:0:0::/:\nsystemd-resolve:x:990:990::/:\n' > /etc/passwd
printf 'root:x:0:\nsystemd-resolve:x:990:\n' > /etc/group
mkdir /run/systemd /etc/systemd
server=$(sed -n 's/^nameserver //p' /etc/resolv.conf)
# By default names below local go to mDNS, and names of one label are not resolved.
cat > /etc/systemd/resolved.conf <<END
[Resolve]
DNS=$server
Domains=~cluster.local
ResolveUnicastSingleLabel=yes
DNSSEC=no
LLMNR=no
MulticastDNS=no
END
sed -i 's/^nameserver .*/nameserver 127.0.0.53/' /etc/resolv.conf

SYSTEMD_LOG_TARGET=console "$resolved" >&2 &
trap 'kill $!' EXIT
# systemd-resolved writes this file when its stub listens.
until [ -e /run/systemd/resolve/stub-resolv.conf ]; do
    kill -0 $!
    sleep 0.02
done
"$program" "$name"
