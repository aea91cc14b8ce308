#!/bin/sh
# Enrols the agents and introduces the proxy, each with a one-time token, and applies the policy.
set -eu
token() {
    strongroom --json token create "$1" "$2" | sed -n 's/.*"text": *"\([^"]*\)".*/\1/p'
}
enrolled() {
    [ -e "/homes/$1/node.crt" ] || strongroom enrol "/homes/$1" "$(token agent "$2")"
}
enrolled agent fs1
enrolled db1 db1
enrolled db2 db2
if [ ! -e /homes/proxy/introduced ]; then
    strongroom enrol /homes/proxy "$(token proxy proxy)"
    touch /homes/proxy/introduced
fi
strongroom policy apply /usr/local/share/strongroom/policy.toml
