//! Samples of what operators ask and are told.

use strongroom_protocol::Role;
use strongroom_protocol::admin::{
    AuditRow, CartridgeOrder, CartridgeRow, CopyRow, DrillRow, EventRow, HoldRow, JobRow, Live,
    MediumRow, NodeRow, Pinned, PointRef, PointRow, PruneOrder, Request, Response, ScrubReport,
    SpaceOrder, SpaceReport, SpaceRun, StatusReport, VerdictRow, VerifiedReport, VerifyDepth,
    Whereabouts, WhyReport, WorkloadRow,
};
use strongroom_protocol::control::{Overwrite, Shown};
use strongroom_protocol::lead::{LeadOrder, LeadReport, Proposal};
use strongroom_protocol::opening::RefusalKind;

use super::talk::{lead, progress, showing};
use super::{Sampled, at, id, identity, name, pack, refusal};

fn text(words: &str) -> String {
    words.to_owned()
}

fn latest() -> PointRef {
    PointRef::Latest(name("files@north"))
}

impl Sampled for Request {
    fn samples() -> Vec<Self> {
        let mut all = vec![
            Self::Status,
            Self::Nodes,
            Self::TokenCreate { role: Role::Agent, name: name("node-1"), seconds_valid: 3600 },
            Self::Revoke { identity: identity(Role::Operator) },
            Self::Policy,
            Self::PolicyPlan { file: text("site.toml"), toml: text("a = 1") },
            Self::PolicyApply { file: text("site.toml"), toml: text("a = 1") },
            Self::Workloads,
            Self::Protect { workload: name("files@north") },
            Self::Jobs { live: Live::All, most: 100 },
            Self::Jobs { live: Live::Only, most: 100 },
            Self::Job { job: id(1) },
            Self::Cancel { job: id(1) },
            Self::Points { workload: None },
            Self::Points { workload: Some(name("files@north")) },
        ];
        all.extend(retention_requests());
        all.extend([
            Self::Recover {
                point: latest(),
                agent: name("node-1"),
                target: b"/srv/back".to_vec(),
                select: vec![text("etc/**")],
                overwrite: Overwrite::IfDifferent,
            },
            Self::Verify { depth: VerifyDepth::Hashes },
            Self::Verify { depth: VerifyDepth::Plain },
            Self::Media,
            Self::Audit { most: 50 },
            Self::Prune { order: PruneOrder::Apply },
            Self::Prune { order: PruneOrder::Show },
            Self::Prune { order: PruneOrder::BelieveClock },
            Self::Space { order: SpaceOrder::Collect },
            Self::Space { order: SpaceOrder::Show },
            Self::Scrub,
            Self::Proven { point: id(3), copy: None, showing: showing(Shown::Held) },
            Self::Proven {
                point: id(3),
                copy: Some(name("tape")),
                showing: showing(Shown::Failed),
            },
        ]);
        all.extend(cartridge_orders().map(|order| Self::Cartridges { order }));
        all.extend([
            Self::Lead,
            Self::LeadPropose { order: LeadOrder::TakeOver, why: text("fire") },
            Self::LeadPropose { order: LeadOrder::GiveBack, why: text("rebuilt") },
            Self::LeadConfirm { proposal: text("0badcafe") },
            Self::Drill { workload: name("files@north"), copy: None },
            Self::Drill { workload: name("files@north"), copy: Some(name("dr")) },
            Self::Drills { workload: Some(name("files@north")), most: 30 },
            Self::Drills { workload: None, most: 30 },
        ]);
        all
    }
}

fn cartridge_orders() -> [CartridgeOrder; 7] {
    let barcodes = || vec![text("SR0001L9")];
    [
        CartridgeOrder::List,
        CartridgeOrder::Export { barcodes: barcodes() },
        CartridgeOrder::Import,
        CartridgeOrder::Vault { barcodes: barcodes(), place: text("the safe") },
        CartridgeOrder::Lost { barcodes: barcodes() },
        CartridgeOrder::Copy { barcode: text("SR0001L9"), set: name("yearly") },
        CartridgeOrder::Refresh { barcodes: barcodes() },
    ]
}

fn cartridges() -> Vec<CartridgeRow> {
    let since = at(4);
    let all = [
        Whereabouts::Slot { slot: 1 },
        Whereabouts::Drive { drive: 0 },
        Whereabouts::Mail { slot: 2 },
        Whereabouts::Out { since },
        Whereabouts::Vault { place: text("the safe"), since },
        Whereabouts::Lost { since },
        Whereabouts::Unknown,
    ];
    let row = |whereabouts| CartridgeRow {
        barcode: text("SR0001L9"),
        medium: Some(id(7)),
        set: Some(name("weekly")),
        sequence: 1,
        points: 2,
        used_bytes: 3 << 30,
        written: Some(at(1)),
        whereabouts,
        detail: text("sound"),
    };
    all.map(row).into()
}

fn retention_requests() -> Vec<Request> {
    vec![
        Request::Why { point: PointRef::Id(text("03030303")) },
        Request::Why { point: latest() },
        Request::WhatIf { file: text("site.toml"), toml: text("a = 2") },
        Request::HoldPlace {
            name: text("case-7"),
            why: text("litigation"),
            points: vec![latest()],
        },
        Request::HoldRelease { name: text("case-7") },
        Request::Holds,
        Request::Pin { point: latest(), pinned: Pinned::No },
        Request::Pin { point: latest(), pinned: Pinned::Yes },
        Request::Event { name: text("contract-9"), ended: Some(at(1)) },
    ]
}

impl Sampled for Response {
    fn samples() -> Vec<Self> {
        vec![
            Self::Done(text("done")),
            Self::Refused(refusal(RefusalKind::Invalid)),
            Self::Status(status()),
            Self::Nodes(vec![node()]),
            Self::Token { text: text("sr1-token"), expires: at(3600) },
            Self::Policy {
                version: 4,
                file: text("site.toml"),
                toml: text("a = 1"),
                applied: at(0),
                by: text("operator/ann"),
            },
            Self::Plan { changes: vec![text("adds gold")], warnings: vec![] },
            Self::Workloads(vec![workload()]),
            Self::Job(job()),
            Self::Jobs(vec![job()]),
            Self::Journal {
                job: job(),
                events: vec![EventRow { seq: 1, at: at(1), text: text("started read") }],
            },
            Self::Points(vec![point()]),
            Self::Why(WhyReport {
                point: point(),
                verdicts: vec![verdict()],
                gaps: vec![text("a.lock: vanished")],
                facts: vec![(text("source"), text("/srv/files"))],
            }),
            Self::Verdicts(vec![verdict()]),
            Self::Holds(vec![HoldRow {
                name: text("case-7"),
                why: text("litigation"),
                by: text("operator/ann"),
                placed: at(2),
                points: vec![id(3)],
            }]),
            Self::Verified(verified()),
            Self::Media(vec![medium()]),
            Self::Audit { checked: 10, broken_at: None, records: vec![audit()] },
            Self::Space(space()),
            Self::Scrub(scrub()),
            Self::Cartridges(cartridges()),
            Self::Lead(LeadReport {
                lead: lead(),
                standing: text("leads"),
                proposed: Some(proposal()),
                facts: vec![text("stands in for site north")],
            }),
            Self::Proposed(proposal()),
            Self::Drills(vec![drill()]),
        ]
    }
}

fn drill() -> DrillRow {
    DrillRow {
        job: id(1),
        workload: name("files@north"),
        point: id(3),
        moment: at(1),
        copy: name("dr"),
        node: name("dr1"),
        kind: text("mount"),
        by: text("schedule"),
        began: at(7),
        ended: Some(at(9)),
        verdict: text("held"),
        level: text("mounted-checked"),
        recovery_ms: Some(4200),
        recovery_seconds_max: Some(3600),
        point_age_seconds: 6,
        detail: text("7 files"),
    }
}

fn proposal() -> Proposal {
    Proposal {
        id: text("0badcafe"),
        order: LeadOrder::GiveBack,
        by: identity(Role::Operator),
        why: text("rebuilt"),
        expires: at(3600),
        doubts: vec![text("it is connected")],
    }
}

fn space() -> SpaceReport {
    SpaceReport {
        points: 1,
        packs: 2,
        bytes: 3 << 30,
        live_bytes: 2 << 30,
        dead_packs: 4,
        dead_bytes: 300,
        sparse_packs: 5,
        sparse_bytes: 600,
        returned_bytes: 700,
        open_sessions: 1,
        disk_free_bytes: Some(4 << 30),
        refusal: Some(text("a page is damaged")),
        done: None,
        last: Some(SpaceRun { at: at(3), text: text("2 packs") }),
    }
}

fn status() -> StatusReport {
    StatusReport {
        node: identity(Role::Coordinator),
        software: text("strongroom 0.1.0"),
        now: at(0),
        points: 1,
        packs: 2,
        stored_bytes: 3 << 30,
        disk_free_bytes: 4 << 30,
        live_jobs: 5,
        connected: vec![identity(Role::Agent)],
        debts: vec![text("tape owes 1 point")],
        alarms: vec![],
    }
}

fn node() -> NodeRow {
    NodeRow {
        identity: identity(Role::Proxy),
        connected: true,
        software: text("strongroom 0.1.0"),
        host: text("dr-1"),
        last_seen: Some(at(1)),
        certificate_until: None,
    }
}

fn workload() -> WorkloadRow {
    WorkloadRow {
        id: id(5),
        name: name("files@north"),
        kind: text("files"),
        source: text("/srv/files"),
        agent: name("node-1"),
        policy: Some(name("gold")),
        points: 6,
        last: Some(at(1)),
        next: None,
    }
}

fn job() -> JobRow {
    JobRow {
        id: id(1),
        kind: text("protect"),
        subject: text("files@north"),
        node: Some(name("node-1")),
        state: text("running"),
        detail: text("reading"),
        step: Some(text("read")),
        created: at(0),
        ended: None,
        progress: progress(),
        point: Some(id(3)),
    }
}

fn point() -> PointRow {
    PointRow {
        id: id(3),
        workload: name("files@north"),
        moment: at(0),
        consistency: text("crash"),
        files: 7,
        bytes: 8 << 20,
        stored_bytes: 9,
        gaps: 1,
        copies: vec![CopyRow {
            copy: name("primary"),
            kind: text("primary"),
            state: text("present"),
            proof: text("hashed"),
            proven: Some(at(9)),
            bytes: 10,
            seconds: 11,
            detail: text(""),
        }],
    }
}

fn verdict() -> VerdictRow {
    VerdictRow {
        point: id(3),
        workload: name("files@north"),
        moment: at(0),
        copy: name("tape"),
        kept: true,
        reasons: vec![text("newest 7")],
        expires: Some(at(86_400)),
    }
}

fn verified() -> VerifiedReport {
    VerifiedReport {
        packs: 2,
        bytes: 128 << 20,
        seconds_ms: 900,
        damaged_packs: vec![pack(0xee)],
        hurt: vec![text("files@north a/b")],
        points_whole: 1,
    }
}

fn scrub() -> ScrubReport {
    ScrubReport {
        files: 300,
        oldest: Some(at(1)),
        never: 2,
        never_bytes: 64 << 20,
        found: 3,
        healed: 2,
        last_found: Some(at(5)),
        last_healed: None,
        rounds: 7,
        hurt: vec![text("pack a")],
    }
}

fn medium() -> MediumRow {
    MediumRow {
        medium: Some(id(6)),
        barcode: text("SR0001L8"),
        set: Some(name("weekly")),
        sequence: 1,
        sessions: 2,
        points: 3,
        used_bytes: 4 << 30,
        capacity_bytes: 12 << 40,
        detail: text(""),
    }
}

fn audit() -> AuditRow {
    AuditRow {
        seq: 1,
        at: at(1),
        actor: text("operator/ann"),
        action: text("pin"),
        subject: text("03030303"),
        detail: text(""),
    }
}
