//! The command line as clap sees it.

use clap::{CommandFactory, Parser};

use crate::{Arguments, misread};

#[test]
fn the_command_line_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn commands_are_understood() {
    for line in [
        "init /srv/acme --org acme",
        "token create agent db1 --minutes 5",
        "enrol /var/lib/agent strongroom-token-1.abc --name db1",
        "run agent /var/lib/agent",
        "--json status --site dr",
        "status --check",
        "policy apply p.toml",
        "what-if p.toml",
        "protect web --wait",
        "jobs",
        "jobs --live",
        "jobs list --live",
        "points web",
        "ls latest:web:/etc -R",
        "find *.conf --workload web",
        "diff 456789ab latest:web",
        "diff 456789ab:etc --live /etc --full",
        "dump 456789ab:etc/hosts -o hosts",
        "mount latest:web:etc /mnt --from secondary --allow-other --cache 256",
        "mount 456789ab /mnt --media /lib --recovery-key-file k --ignore-permissions",
        "restore 456789ab --to /back --select *.conf --from secondary",
        "restore latest:web:/etc --on db1:/back --overwrite if-different",
        "restore 456789ab --to /back --media /lib --recovery-key-file k",
        "postgres dump 456789ab --database shop --table orders --output shop.dump",
        "postgres wal-fetch --wal-from log@db1 000000010000000000000002 pg_wal/RECOVERYXLOG",
        "hold place audit 456789ab latest:web --why lawyers",
        "pin 456789ab",
        "event left-company --ended",
        "media points --media /lib --passphrase",
        "prune --apply",
        "prune --believe-clock",
        "space --collect",
        "audit -n 5",
        "completions bash",
    ] {
        let words = ["strongroom"].into_iter().chain(line.split(' '));
        Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn nonsense_is_refused_as_usage() {
    for line in [
        "",
        "token create king db1",
        "ls web",
        "diff 456789ab",
        "diff 456789ab 456789ac --live /etc",
        "restore 456789ab",
        "restore 456789ab --to /a --on db1:/a",
        "restore 456789ab --to /a --from primary --media /lib",
        "restore 456789ab --to /a --overwrite maybe",
        "jobs --live show 01",
        "hold place audit --why x",
        "init /srv --org ACME",
    ] {
        let words =
            ["strongroom"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
        let refused = Arguments::try_parse_from(words).unwrap_err();
        assert_eq!(refused.exit_code(), 2, "{line}");
    }
}

#[test]
fn a_restore_command_that_is_not_understood_breaks_the_recovery_off() {
    let words = |line: &str| line.split(' ').map(Into::into).collect::<Vec<_>>();
    assert_eq!(misread(2, words("strongroom postgres wal-fetch %f")), 200);
    assert_eq!(misread(0, words("strongroom postgres wal-fetch --help")), 0);
    assert_eq!(misread(2, words("strongroom prune --no")), 2);
}
