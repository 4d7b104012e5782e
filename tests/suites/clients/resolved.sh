# Looks a name up by a program through systemd-resolved: sh resolved.sh RESOLVED PROGRAM NAME
#
# In a pod, with an /etc and a /run of its own. Without a system bus it serves its stub all the same; it wants its own user,
# and a /run that it may make its folder in.
set -eu
resolved=$1 program=$2 name=$3

printf 'root:x:0:0::/:\nsystemd-resolve:x:990:990::/:\n' > /etc/passwd
printf 'root:x:0:\nsystemd-resolve:x:990:\n' > /etc/group
mkdir /run/systemd /etc/systemd
server=$(sed -n 's/^nameserver //p' /etc/resolv.conf)
# Names below local would go to mDNS, and those of one label nowhere.
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
# It writes this file when its stub listens.
until [ -e /run/systemd/resolve/stub-resolv.conf ]; do
    kill -0 $!
    sleep 0.02
done
"$program" "$name"
