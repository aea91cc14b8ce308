//! Members of a cluster in the policy file and in the journal: how they are read, how each mistake
//! is named, and that a job passes from one to another only between two attempts.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use strongroom_coordinator::job::{
    Chosen, Event, Illegal, Job, Next, RetryPolicy, State, Step, Task, WaitReason,
};
use strongroom_coordinator::policy::{Declared, Prefer, parse, plan};
use strongroom_coordinator::retention::Marks;
use strongroom_protocol::{Generation, JobId, PointId, Timestamp};

const CLUSTER: &str = r#"[policy.standard]
schedule = ["every 4h"]
timezone = "UTC"
[policy.standard.primary]
keep = { newest = 10 }
[workload."crm"]
policy = "standard"
kind = "postgres"
prefer = "prefer-standby"
max_lag = "5m"
user = "backup"
[workload."crm".member.db1]
host = "/run/db1"
[workload."crm".member.db2]
agent = "host2"
host = "/run/db2"
user = "other"
"#;

fn declared(text: &str) -> Declared {
    parse("policy.toml", text).unwrap().declared
}

#[test]
fn members_are_read_with_what_is_said_of_all_and_of_each() {
    let read = declared(CLUSTER);
    let workload = read.workloads.values().next().unwrap();
    let members = workload.members.as_ref().unwrap();
    assert_eq!((members.prefer, members.lag_seconds_max), (Prefer::PreferStandby, Some(300)));
    let told: Vec<(&str, &str, String)> = members
        .of
        .iter()
        .map(|of| {
            let pairs = of.settings.iter().map(|(key, value)| format!("{key}={value}"));
            (of.name.as_str(), of.agent.as_str(), pairs.collect::<Vec<_>>().join(" "))
        })
        .collect();
    let rest = "prefer=prefer-standby max_lag=300";
    assert_eq!(told[0], ("db1", "db1", format!("host=/run/db1 user=backup {rest}")));
    assert_eq!(told[1], ("db2", "host2", format!("host=/run/db2 user=other {rest}")));
    assert_eq!(workload.place(), "members db1, db2");
    let ordered = CLUSTER.replace("prefer =", "order = [\"db2\"]\nprefer =");
    assert_eq!(declared(&ordered).workloads.values().next().unwrap().place(), "members db2, db1");
    let moved = declared(&CLUSTER.replace("/run/db2", "/run/db3"));
    let changes = plan(Some(&read), &moved, &[], &Marks::default(), Timestamp::default());
    assert!(format!("{changes:?}").contains("member.db2.host"), "{changes:?}");
}

#[test]
fn each_mistake_about_members_has_a_place_and_a_way_out() {
    for (old, new, expected) in [
        ("user = \"backup\"", "agent = \"db1\"", "each has an agent of its own"),
        ("user = \"backup\"", "mode = \"wal\"", "without members"),
        ("host = \"/run/db1\"", "port = 5432", "workload.crm.member.db1 has no `host`"),
        ("host = \"/run/db1\"", "hots = \"/run/db1\"", "did you mean `host`?"),
        (
            "agent = \"host2\"",
            "prefer = \"any\"",
            "unknown key `prefer` in workload.crm.member.db2",
        ),
        ("user = \"backup\"", "order = [\"db3\"]", "`order` names no member: db3"),
        ("user = \"backup\"", "order = [\"db1\", \"db1\"]", "`order` names twice: db1"),
        ("kind = \"postgres\"", "kind = \"mariadb\"", "unknown key `member`"),
        ("member", "xmember", "unknown key `xmember`"),
    ] {
        assert!(CLUSTER.contains(old), "{old}");
        let problems = parse("policy.toml", &CLUSTER.replace(old, new)).map(|_| ()).unwrap_err();
        let said: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|line| line.contains(expected)), "{new}: {said:?}");
    }
    let alone = CLUSTER.split("[workload.\"crm\".member").next().unwrap();
    let alone = format!("{alone}host = \"/run\"\nagent = \"a\"\norder = [\"db1\"]\n");
    let problems = parse("policy.toml", &alone).map(|_| ()).unwrap_err();
    assert!(problems.0[0].to_string().contains("an `order`, and no members"), "{problems:?}");
}

#[test]
fn a_job_passes_to_another_member_only_between_two_attempts() {
    let at = Timestamp::from_unix_seconds;
    let task = Task::Protect {
        workload: "crm".parse().unwrap(),
        point: PointId::from_bytes([2; 16]),
        policy: "standard".parse().unwrap(),
        policy_version: 1,
        agent: "db1".parse().unwrap(),
        slot: None,
    };
    let retry = RetryPolicy::default();
    let created = Event::Created { job: JobId::from_bytes([1; 16]), task, retry };
    let chosen = |member: &str| {
        Event::Chosen(Chosen {
            member: member.parse().unwrap(),
            agent: format!("host-{member}").parse().unwrap(),
            cluster: "7".to_owned(),
            role: "primary".to_owned(),
            why: "it is the primary".to_owned(),
        })
    };
    let job = Job::create(&created, at(0)).unwrap();
    let why = "no member can make the point: db1: its agent is not connected".to_owned();
    let job = job.apply(&Event::Waiting(WaitReason::NoMember { why }), at(1)).unwrap();
    assert_eq!(job.state(), State::Waiting);
    let job = job.apply(&chosen("db2"), at(2)).unwrap();
    assert_eq!(job.next(), Next::Run(Step::Assign));
    assert_eq!(job.task().node().as_str(), "host-db2");
    let job = job.apply(&Event::Reassigned(Generation(2)), at(3)).unwrap();
    let job = job.apply(&Event::Started(Step::Assign), at(3)).unwrap();
    let refused = job.apply(&chosen("db1"), at(4)).unwrap_err();
    assert_eq!(refused, Illegal::OutOfOrder { step: Step::Assign });
    let said = chosen("db2").to_string();
    assert_eq!(said, "member db2: it is the primary");
    let text = serde_json::to_string(&chosen("db2")).unwrap();
    assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), chosen("db2"));
}
