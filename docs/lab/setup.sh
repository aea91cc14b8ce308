#!/bin/sh
# Makes the organisation once and moves each home to the volume of the node that runs it, as one
# would move it to the machine. What is offline in earnest (the root, the recovery key) goes to
# the volume `org`, which no node mounts.
set -eu
if [ -e /homes/coordinator/node.toml ]; then
    echo "the organisation is there already"
    exit 0
fi
made=$(mktemp -d)
(umask 077 && head -c 24 /dev/urandom | base64 >/homes/org/passphrase)
(umask 077 && strongroom --json init "$made" --org lab --site a --dr-site b \
    --listen 0.0.0.0:7433 --address coordinator:7433 \
    --dr-listen 0.0.0.0:7434 --dr-address proxy:7434 \
    --cartridges 4 --cartridge-gib 1 \
    --passphrase-file /homes/org/passphrase >/homes/org/init.json)
sed -n 's/.*"recovery_key": *"\([^"]*\)".*/\1/p' /homes/org/init.json >/homes/org/recovery-key
chmod 600 /homes/org/recovery-key
cp -a "$made/org/." /homes/org/
cp -a "$made/operator/." /homes/operator/
cp -a "$made/b/proxy/." /homes/proxy/
# Something to protect.
for tree in /usr/share/zoneinfo /usr/share/perl5 /etc; do
    [ ! -e "$tree" ] || cp -a "$tree" /srv/documents/
done
# Last: it is what says that all of it was done.
cp -a "$made/a/coordinator/." /homes/coordinator/
rm -r "$made"
echo "two sites are set up"
