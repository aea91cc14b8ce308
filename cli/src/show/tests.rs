//! Golden text: what people see for fixed answers at a fixed moment.

use jiff::tz::TimeZone;
use strongroom_protocol::admin::{
    AuditRow, CopyRow, EventRow, HoldRow, JobRow, MediumRow, NodeRow, PointRow, Response,
    StatusReport, VerdictRow, VerifiedReport, WhyReport, WorkloadRow,
};
use strongroom_protocol::control::Progress;
use strongroom_protocol::{JobId, PackId, PointId, Timestamp, WorkloadId};

use super::response;
use crate::output::Face;

fn face(width: Option<u16>) -> Face {
    Face { now: at(0), zone: TimeZone::UTC, width }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000 + seconds)
}

fn copy(name: &str, state: &str, proof: &str) -> CopyRow {
    CopyRow {
        copy: name.parse().unwrap(),
        kind: "snap".to_owned(),
        state: state.to_owned(),
        proof: proof.to_owned(),
        proven: (!proof.is_empty()).then(|| at(-3600)),
        bytes: 340 << 20,
        seconds: 75,
        detail: String::new(),
    }
}

fn point() -> PointRow {
    PointRow {
        id: PointId::from_bytes([0xa5; 16]),
        workload: "web".parse().unwrap(),
        moment: at(-7200),
        consistency: "filesystem".to_owned(),
        files: 12_345,
        bytes: 3 << 29,
        stored_bytes: 340 << 20,
        gaps: 1,
        copies: vec![copy("primary", "present", "hashed"), copy("tape", "owed", "")],
    }
}

fn job() -> JobRow {
    JobRow {
        id: JobId::from_bytes([0xb6; 16]),
        kind: "protect".to_owned(),
        subject: "web".to_owned(),
        node: Some("db1".parse().unwrap()),
        state: "running".to_owned(),
        detail: String::new(),
        step: Some("read".to_owned()),
        created: at(-65),
        ended: None,
        progress: Progress { files: 1200, bytes_seen: 5 << 20, ..Progress::default() },
        point: None,
    }
}

/// `STRONGROOM_GOLDEN=print` prints the text as it is now, to be looked at and pinned.
#[test]
fn people_see_what_is_pinned() {
    let mut found: String = samples()
        .iter()
        .chain(&more_samples())
        .map(|answer| format!("{}=====\n", response(answer, &face(None))))
        .collect();
    found.push_str(&response(&Response::Points(vec![point()]), &face(Some(90))));
    if std::env::var("STRONGROOM_GOLDEN").as_deref() == Ok("print") {
        println!("{found}");
    }
    for (at, (line, pinned)) in found.lines().zip(include_str!("golden.txt").lines()).enumerate() {
        assert_eq!(line, pinned, "line {} of golden.txt", at + 1);
    }
    assert_eq!(found.lines().count(), include_str!("golden.txt").lines().count());
    assert!(!found.contains('\x1b'), "what a node says cannot move the cursor");
}

fn samples() -> Vec<Response> {
    let id = |text: &str| text.parse().unwrap();
    vec![
        Response::Points(vec![point()]),
        Response::Points(vec![]),
        Response::Jobs(vec![job()]),
        Response::Journal {
            job: job(),
            events: vec![EventRow { seq: 1, at: at(-64), text: "assigned to db1".to_owned() }],
        },
        Response::Why(WhyReport {
            point: point(),
            verdicts: vec![VerdictRow {
                point: point().id,
                workload: "web".parse().unwrap(),
                moment: at(-7200),
                copy: "primary".parse().unwrap(),
                kept: true,
                reasons: vec!["newest 3".to_owned(), "daily".to_owned()],
                expires: Some(at(86_400)),
            }],
            gaps: vec!["etc/shadow: not permitted".to_owned()],
            facts: vec![("source".to_owned(), "/srv".to_owned())],
        }),
        Response::Status(StatusReport {
            node: id("strongroom://acme/site/hq/coordinator/coordinator"),
            software: "0.1.0".to_owned(),
            now: at(3),
            points: 1234,
            packs: 56,
            stored_bytes: 7 << 30,
            disk_free_bytes: 9 << 40,
            live_jobs: 1,
            connected: vec![id("strongroom://acme/site/hq/agent/db1")],
            debts: vec!["tape of web 2027-01-15".to_owned()],
            alarms: vec!["agent db2 is absent\x1b[2J for 3 h".to_owned()],
        }),
        Response::Nodes(vec![NodeRow {
            identity: id("strongroom://acme/site/hq/agent/db1"),
            connected: false,
            software: "0.1.0".to_owned(),
            host: "db1.example".to_owned(),
            last_seen: Some(at(-90)),
            certificate_until: Some(at(40_000)),
        }]),
        Response::Workloads(vec![WorkloadRow {
            id: WorkloadId::from_bytes([1; 16]),
            name: "web".parse().unwrap(),
            kind: "files".to_owned(),
            source: "/srv/web".to_owned(),
            agent: "db1".parse().unwrap(),
            policy: None,
            points: 3,
            last: Some(at(-600)),
            next: Some(at(600)),
        }]),
    ]
}

fn more_samples() -> Vec<Response> {
    vec![
        Response::Holds(vec![HoldRow {
            name: "audit".to_owned(),
            why: "lawyers".to_owned(),
            by: "admin".to_owned(),
            placed: at(0),
            points: vec![point().id],
        }]),
        Response::Media(vec![
            MediumRow {
                medium: None,
                barcode: "SR0001".to_owned(),
                set: Some("yearly".parse().unwrap()),
                sequence: 1,
                sessions: 2,
                points: 3,
                used_bytes: 5 << 30,
                capacity_bytes: 64 << 30,
                detail: "sound".to_owned(),
            },
            MediumRow {
                medium: None,
                barcode: "SR0002".to_owned(),
                set: None,
                sequence: 0,
                sessions: 0,
                points: 0,
                used_bytes: 0,
                capacity_bytes: 0,
                detail: "blank".to_owned(),
            },
        ]),
        Response::Audit {
            checked: 2,
            broken_at: None,
            records: vec![AuditRow {
                seq: 2,
                at: at(0),
                actor: "operator admin".to_owned(),
                action: "protect".to_owned(),
                subject: "web".to_owned(),
                detail: String::new(),
            }],
        },
        Response::Verified(VerifiedReport {
            packs: 10,
            bytes: 640 << 20,
            seconds_ms: 2000,
            damaged_packs: vec![PackId([7; 32])],
            hurt: vec!["web: /etc/hosts".to_owned()],
            points_whole: 4,
        }),
        Response::Token { text: "strongroom-token-1.x".to_owned(), expires: at(3600) },
        Response::Plan { changes: vec![], warnings: vec!["keep is short".to_owned()] },
    ]
}
