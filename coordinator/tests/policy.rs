//! The policy file: what is read, how each mistake is named, and what an edit changes.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use strongroom_coordinator::policy::{
    Change, CopyKind, Declared, Parsed, Policy, Source, parse, plan, primary,
};
use strongroom_coordinator::retention::{
    Consistency, CopyFacts, CopyState, Marks, Period, PointFacts, ProofLevel,
};
use strongroom_protocol::{PointId, Timestamp};

const WHOLE: &str = r#"[policy.standard]
schedule = ["every 4h", "first sunday 03:00"]
timezone = "Europe/London"
require = "crash"
[policy.standard.primary]
keep = { newest = 10, hours = 24, days = 14, weeks = 8, months = 12, years = 7, min_age = "7d" }
[policy.standard.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "dr1"
keep = { days = 30, months = 12, after = [{ event = "contract-42", keep = "7y" }] }
min_proof = "hash-verified"
throttle = [{ days = "mon-fri", from = "08:00", to = "18:00", mbit = 200 }]
[policy.standard.copy.tape]
kind = "aux"
from = "secondary"
media_set = "weekly"
keep = { weeks = 8 }
every = "week"
defer = "2h"
window = [{ days = "sat,sun", from = "22:00", to = "06:00" }]
[workload."docs@fs1"]
agent = "fs1"
kind = "files"
path = "/usr/share"
policy = "standard"
exclude = ["*.tmp", "/cache/"]
exclude_if_present = [".nobackup"]
exclude_larger = "10GiB"
one_file_system = true
pre_hook = ["/usr/local/bin/quiet", "arg"]
hook_deadline = "30s"
"#;

fn whole() -> Declared {
    let Parsed { declared, warnings } = parse("policy.toml", WHOLE).unwrap();
    assert_eq!(warnings, []);
    declared
}

/// Every problem of the text with one piece replaced, as printed.
fn wrong(old: &str, new: &str) -> Vec<String> {
    assert!(WHOLE.contains(old), "{old}");
    let text = WHOLE.replacen(old, new, 1);
    let problems = parse("policy.toml", &text).map(|parsed| parsed.warnings).unwrap_err();
    problems.0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_whole_file_is_read() {
    let declared = whole();
    let policy: &Policy = declared.policies.values().next().unwrap();
    assert_eq!(policy.schedule.len(), 2);
    assert_eq!(policy.require, Consistency::Crash);
    assert_eq!(policy.primary.gfs[&Period::Week], 8);
    let secondary = &policy.copies[&"secondary".parse().unwrap()];
    assert_eq!(secondary.min_proof, ProofLevel::HashVerified);
    assert_eq!(secondary.throttle[0].bits_per_second, 200_000_000);
    assert_eq!(secondary.keep.after[0].keep_seconds, 7 * 366 * 86_400);
    let tape = &policy.copies[&"tape".parse().unwrap()];
    assert_eq!(tape.kind, CopyKind::Aux { media_set: "weekly".parse().unwrap() });
    assert_eq!(tape.node.as_str(), "dr1", "taken from its source");
    assert_eq!((tape.every, tape.defer_seconds), (Some(Period::Week), 7200));
    let Source::Files(files) = &declared.workloads.values().next().unwrap().source else {
        panic!("a files workload");
    };
    assert_eq!(files.exclude_larger_bytes, Some(10 << 30));
    assert_eq!((files.hook_seconds_max, files.pre_hook.len()), (30, 2));
    assert_eq!(primary().as_str(), "primary");
}

#[test]
fn each_mistake_has_a_place_and_a_suggestion() {
    let mut missed = Vec::new();
    for (old, new, expected) in [
        (
            "schedule = [",
            "shedule = [",
            "policy.toml:2:1: unknown key `shedule` in policy.standard; did you mean `schedule`?",
        ),
        (
            "policy = \"standard\"",
            "policy = \"standart\"",
            "policy.toml:26:10: workload.docs@fs1 names a policy that is not declared: standart",
        ),
        (
            "Europe/London",
            "Europe/Londn",
            "policy.toml:3:12: \"Europe/Londn\" is not a time zone; did you mean `Europe/London`?",
        ),
        (
            "from = \"secondary\"",
            "from = \"secondry\"",
            "policy.toml:16:8: `from` of tape names no copy: secondry; did you mean `secondary`?",
        ),
        ("every 4h", "evry 4h", "did you mean `every`?"),
        (
            "first sunday 03:00",
            "first sunday 25:00",
            "policy.toml:2:25: \"25:00\" is not a time of day",
        ),
        ("first sunday", "first sundya", "did you mean `sunday`?"),
        (
            "min_age = \"7d\"",
            "min_age = \"7 days\"",
            "policy.toml:6:91: \"7 days\" is not a duration",
        ),
        ("days = 14", "days = -1", "`days` in policy.standard.primary.keep must be a whole number"),
        ("\"10GiB\"", "\"10gigs\"", "is not a size"),
        (
            "\"08:00\", to = \"18:00\"",
            "\"08:00\", to = \"08:00\"",
            "is empty; a whole day is 00:00 to 24:00",
        ),
        ("require = \"crash\"", "require = \"crush\"", "did you mean `crash`?"),
        ("kind = \"aux\"", "kind = \"cloud\"", "cloud copies are not there yet"),
        ("kind = \"files\"", "kind = \"lun\"", "cannot be protected yet"),
        ("kind = \"files\"", "kind = \"file\"", "did you mean `files`?"),
        ("media_set = \"weekly\"", "", "policy.standard.copy.tape has no `media_set`"),
        ("node = \"dr1\"", "", "policy.standard.copy.secondary has no `node`"),
        ("timezone = \"Europe/London\"", "", "has no `timezone`; such as"),
        ("path = \"/usr/share\"", "path = \"usr/share\"", "is not an absolute path"),
        ("hook_deadline = \"30s\"", "hook_deadline = \"2h\"", "a hook may run 1s to 1h"),
        ("mbit = 200", "mbit = 0", "to stop a copy at times, use `window`"),
        ("copy.tape", "copy.primary", "primary cannot be a copy"),
        ("[policy.standard.copy.tape]", "[policy.standard.copy.secondary]", "duplicate key"),
        ("[workload.\"docs@fs1\"]", "[workload.\"Docs\"]", "is not a usable name"),
        ("newest = 10,", "newest = 10,,", "policy.toml:6:22: extra comma"),
        ("one_file_system = true", "one_file_system = 1", "must be true or false, not integer"),
        ("[policy.standard]", "[polcy.x]\n[policy.standard]", "did you mean `policy`?"),
    ] {
        let problems = wrong(old, new);
        if !problems.iter().any(|p| p.contains(expected)) {
            missed.push((new, problems));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn circles_are_named_with_their_path() {
    let problems = wrong("from = \"primary\"", "from = \"tape\"");
    let circle = "policy.toml:9:8: copies go round in a circle: secondary <- tape <- secondary";
    assert!(problems.iter().any(|p| p.starts_with(circle)), "{problems:#?}");
}

#[test]
fn several_mistakes_are_named_in_one_go_in_the_order_of_the_file() {
    let text = WHOLE
        .replace("shedule", "schedule")
        .replace("Europe/London", "Mars/Olympus")
        .replace("mbit", "mbits")
        .replace("every 4h", "sometimes")
        .replace("agent =", "agnet =");
    let problems = parse("policy.toml", &text).map(|parsed| parsed.warnings).unwrap_err();
    let lines: Vec<usize> = problems.0.iter().map(|problem| problem.line).collect();
    assert!(lines.is_sorted(), "{problems}");
    for line in [2, 3, 13, 23] {
        assert!(lines.contains(&line), "line {line}: {problems}");
    }
}

#[test]
fn rules_that_keep_nothing_or_everything_are_warned_about() {
    for (old, new, expected) in [
        ("keep = { weeks = 8 }", "keep = { weeks = 0 }", "keeps nothing but the newest point"),
        ("keep = { weeks = 8 }", "keep = { newest = 999999 }", "keeps everything"),
        ("keep = { weeks = 8 }", "keep = { min_age = \"200y\" }", "keeps everything"),
        ("schedule = [\"every 4h\", \"first sunday 03:00\"]", "", "made only by hand"),
    ] {
        let parsed = parse("p.toml", &WHOLE.replacen(old, new, 1)).unwrap();
        let warned = parsed.warnings.iter().any(|w| w.message.contains(expected));
        assert!(warned, "{new}: {:?}", parsed.warnings);
    }
}

#[test]
fn no_damage_of_the_file_panics() {
    for end in 0..WHOLE.len() {
        drop(parse("p.toml", &WHOLE[..end]));
        let mut bytes = WHOLE.as_bytes().to_vec();
        for other in [b'"', b'[', b'\n', b'=', b'9'] {
            bytes[end] = other;
            drop(parse("p.toml", std::str::from_utf8(&bytes).unwrap()));
        }
    }
}

const DAY: i64 = 86_400;

fn at(days: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_767_225_600 + days * DAY)
}

fn points(count: u8) -> Vec<PointFacts> {
    let copy = |copy: &str| CopyFacts::new(copy.parse().unwrap(), CopyState::Present);
    let each = (0..count).map(|n| PointFacts {
        point: PointId::from_bytes([n; 16]),
        workload: "docs@fs1".parse().unwrap(),
        moment: at(i64::from(n)),
        consistency: Consistency::Crash,
        gaps: 0,
        copies: vec![copy("primary"), copy("secondary")],
    });
    each.collect()
}

fn lines(old: Option<&Declared>, new: &Declared, now: Timestamp) -> Vec<String> {
    let changes: Vec<Change> = plan(old, new, &points(5), &Marks::default(), now);
    changes.iter().map(ToString::to_string).collect()
}

fn edited(edits: &[(&str, &str)]) -> Declared {
    let text = edits.iter().fold(WHOLE.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replacen(old, new, 1)
    });
    parse("p.toml", &text).unwrap().declared
}

#[test]
fn no_edit_is_no_change_and_a_first_file_is_all_new() {
    assert_eq!(lines(Some(&whole()), &whole(), at(9)), [] as [String; 0]);
    let first = lines(None, &whole(), at(9));
    assert!(first.contains(&"policy standard is added".to_owned()), "{first:#?}");
    assert!(first.contains(&"workload docs@fs1 is added".to_owned()), "{first:#?}");
    assert!(first.iter().any(|line| line.contains("copy tape: nothing -> owe")), "{first:#?}");
}

#[test]
fn a_shorter_keep_names_field_and_points() {
    let from = edited(&[("from = \"secondary\"", "from = \"primary\"\nnode = \"dr1\"")]);
    let new = edited(&[
        ("from = \"secondary\"", "from = \"primary\"\nnode = \"dr1\""),
        (
            "days = 30, months = 12, after = [{ event = \"contract-42\", keep = \"7y\" }]",
            "newest = 2",
        ),
    ]);
    let changes = lines(Some(&from), &new, at(9));
    assert!(
        changes[0].starts_with("policy standard: copy.secondary.keep days 30, months 12"),
        "{changes:#?}"
    );
    let expire: Vec<&String> = changes.iter().filter(|l| l.contains("keep -> expire")).collect();
    assert_eq!(expire.len(), 3, "{changes:#?}");
    assert!(expire[0].contains("copy secondary"), "{changes:#?}");
}

#[test]
fn removed_workloads_and_copies_say_that_points_stay() {
    let (head, _) = WHOLE.split_once("[workload").unwrap();
    let gone = parse("p.toml", head).unwrap().declared;
    let changes = lines(Some(&whole()), &gone, at(9));
    let said = "its 5 points stay as they are until someone decides";
    assert!(changes.iter().any(|line| line.contains(said)), "{changes:#?}");
    assert!(!changes.iter().any(|line| line.contains("-> expire")), "{changes:#?}");
    let renamed = edited(&[
        ("copy.secondary]", "copy.mirror]"),
        ("from = \"secondary\"", "from = \"mirror\""),
    ]);
    let changes = lines(Some(&whole()), &renamed, at(9));
    let said = "copy secondary is no longer declared; the 5 points in it stay";
    assert!(changes.iter().any(|line| line.contains(said)), "{changes:#?}");
    assert!(
        changes.iter().any(|line| line.contains("copy mirror: nothing -> owe")),
        "{changes:#?}"
    );
}

#[test]
fn fields_of_workloads_are_compared() {
    let new = edited(&[("/usr/share", "/usr/lib"), ("exclude_larger = \"10GiB\"\n", "")]);
    let changes = lines(Some(&whole()), &new, at(9));
    assert_eq!(
        changes,
        [
            "workload docs@fs1: exclude_larger 10GiB -> (none)",
            "workload docs@fs1: path /usr/share -> /usr/lib",
        ]
    );
}

#[test]
fn a_machine_must_name_its_monitor() {
    let problems = wrong("kind = \"files\"", "kind = \"vm\"");
    for wanted in ["has no `machine`; such as", "has no `qmp`; such as qmp = \"/run/vm/web1.qmp\""]
    {
        assert!(problems.iter().any(|p| p.contains(wanted)), "{wanted}: {problems:#?}");
    }
}

#[test]
fn a_machine_is_reached_in_one_way() {
    let vm = |more: &str| format!("kind = \"vm\"\nmachine = \"web1\"\n{more}");
    for (more, wanted) in [
        ("libvirt = \"qemu+ssh://host/system\"", "is no libvirt of the agent's own host"),
        (
            "libvirt = \"qemu:///system\"\nqmp = \"/run/vm/web1.qmp\"",
            "`qmp` cannot be used beside `libvirt`",
        ),
        (
            "libvirt = \"qemu:///system\"\nguest_agent = \"/run/vm/web1.qga\"",
            "`guest_agent` cannot be used beside `libvirt`",
        ),
        ("libvrt = \"qemu:///system\"", "did you mean `libvirt`?"),
    ] {
        let problems = wrong("kind = \"files\"", &vm(more));
        assert!(problems.iter().any(|p| p.contains(wanted)), "{wanted}: {problems:#?}");
    }
    let problems = wrong("kind = \"files\"", &vm("libvirt = \"qemu:///system\""));
    let unknown = |problem: &String| problem.contains("unknown key");
    assert!(problems.iter().all(unknown), "{problems:#?}");
}
