//! Samples of openings, control and enrolment.

use strongroom_protocol::control::{
    AppKind, AppWork, Ending, ExpireAnswer, ExpireOrder, ExpireOutcome, FilesSource, FromNode,
    Mounts, Naming, Overwrite, Progress, ProofNews, ProtectWork, RecoverWork, RetryAdvice,
    ScrubNews, Showing, Shown, StepNews, ToNode, Welcome, Work,
};
use strongroom_protocol::drill::{DrillKind, DrillWork};
use strongroom_protocol::enrol::{EnrolRequest, EnrolResponse, TokenProof};
use strongroom_protocol::lead::Mark;
use strongroom_protocol::member::{MemberAnswer, MemberQuestion, MemberRole, MemberState};
use strongroom_protocol::opening::{Opened, Opening, RefusalKind};
use strongroom_protocol::{Generation, Lead, PointId, Role, Term};

use super::{Sampled, at, id, identity, name, pack, refusal};

const KINDS: [RefusalKind; 10] = [
    RefusalKind::Forbidden,
    RefusalKind::Unknown,
    RefusalKind::Stale,
    RefusalKind::Invalid,
    RefusalKind::Unavailable,
    RefusalKind::Damaged,
    RefusalKind::Missing,
    RefusalKind::Cancelled,
    RefusalKind::Internal,
    RefusalKind::Away,
];

impl Sampled for Opening {
    fn samples() -> Vec<Self> {
        vec![
            Self::Control,
            Self::Ingest { job: id(1), generation: Generation(2) },
            Self::Fetch { point: id(3), grant: None },
            Self::Fetch { point: id(3), grant: Some(id(4)) },
            Self::Packs,
            Self::Admin,
            Self::Heal { job: id(1) },
            Self::Reseed,
        ]
    }
}

impl Sampled for Opened {
    fn samples() -> Vec<Self> {
        let mut all = vec![Self::Granted];
        all.extend(KINDS.map(|kind| Self::Refused(refusal(kind))));
        all
    }
}

impl Sampled for EnrolRequest {
    fn samples() -> Vec<Self> {
        [Role::Agent, Role::Coordinator, Role::Operator, Role::Proxy]
            .map(|role| Self::First {
                secret: TokenProof(vec![7; 32]),
                identity: identity(role),
                csr: vec![0x30, 0x00],
            })
            .to_vec()
    }
}

impl Sampled for EnrolResponse {
    fn samples() -> Vec<Self> {
        vec![
            Self::Granted { chain: vec![vec![0x30, 0x01], vec![0x30, 0x02]] },
            Self::Refused(refusal(RefusalKind::Forbidden)),
        ]
    }
}

pub(super) const fn progress() -> Progress {
    Progress {
        files: 1,
        bytes_seen: 300,
        bytes_read: 70_000,
        bytes_sent: 4,
        gaps: 5,
        bytes_total: Some(1 << 40),
    }
}

pub(super) const fn naming() -> Naming {
    Naming { id_key: [8; 32], cut_key: (1, 0x8000_0001), cut_min: 1 << 18, cut_max: 3 << 18 }
}

impl Sampled for FromNode {
    fn samples() -> Vec<Self> {
        let generation = Generation(300);
        let hello = |live| Self::Hello {
            software: "strongroom 0.1.0".to_owned(),
            host: "files-1".to_owned(),
            live,
        };
        let step = |news| Self::Step { job: id(1), generation, step: "quiesce".to_owned(), news };
        let failed = |retry| Ending::Failed { refusal: refusal(RefusalKind::Stale), retry };
        let ended = |ending| Self::Ended { job: id(1), generation, ending };
        vec![
            hello(vec![]),
            hello(vec![(id(1), generation)]),
            step(StepNews::Started),
            step(StepNews::Done("7 files".to_owned())),
            step(StepNews::Failed("no space".to_owned())),
            step(StepNews::Undone),
            Self::Progress { job: id(1), generation, progress: progress() },
            ended(Ending::Done { progress: progress(), text: "whole".to_owned() }),
            ended(failed(RetryAdvice::Pointless)),
            ended(failed(RetryAdvice::Later)),
            ended(failed(RetryAdvice::AtOnce)),
            ended(Ending::Cancelled),
            Self::Renew { csr: vec![0x30, 0x00] },
            Self::Expired { job: id(1), generation, answers: answers() },
            Self::Lost { job: id(1), generation, points: vec![(id(3), "gone".to_owned())] },
            Self::Scrubbed(ScrubNews {
                found: vec!["pack a".to_owned()],
                healed: vec!["pack a".to_owned()],
                lost: vec![(id(3), "gone".to_owned())],
                hurt: vec!["files@north a/b".to_owned()],
            }),
            Self::Proven(ProofNews {
                point: id(3),
                copy: None,
                by: identity(Role::Operator),
                at: at(9),
                showing: showing(Shown::Held),
            }),
            Self::Lead(lead()),
            Self::HandBack(Lead::first(name("north"))),
            member(MemberAnswer::Is(member_state(MemberRole::Primary, Some(0)))),
            member(MemberAnswer::Is(member_state(MemberRole::Standby, None))),
            member(MemberAnswer::Refused(refusal(RefusalKind::Unavailable))),
            Self::Returned,
        ]
        .into_iter()
        .chain(marks().map(Self::Marked))
        .collect()
    }
}

fn marks() -> [Mark; 3] {
    [
        Mark::Hold {
            name: "case 7".to_owned(),
            by: "ann".to_owned(),
            why: "a court".to_owned(),
            placed: at(3),
            points: vec![id(3)],
            workloads: vec![name("db@host")],
        },
        Mark::Pin {
            point: id(3),
            copy: Some(name("dr")),
            by: "ann".to_owned(),
            why: "good".to_owned(),
            until: Some(at(9)),
        },
        Mark::Event { name: "audit".to_owned(), ended: None },
    ]
}

const fn member(answer: MemberAnswer) -> FromNode {
    FromNode::Member { number: 300, answer }
}

fn member_state(role: MemberRole, lag_ms: Option<u64>) -> MemberState {
    let (cluster, version) = ("7412".to_owned(), "15.14".to_owned());
    MemberState { cluster, role, timeline: 2, lag_ms, version }
}

pub(super) fn showing(outcome: Shown) -> Showing {
    let (level, detail) = ("started".to_owned(), "5 checks".to_owned());
    Showing { level, outcome, took_ms: 4200, detail }
}

fn answers() -> Vec<ExpireAnswer> {
    let stays = |until| ExpireOutcome::Stays { why: "too young".to_owned(), until };
    [ExpireOutcome::Gone, ExpireOutcome::Ready, stays(None), stays(Some(at(7)))]
        .map(|outcome| ExpireAnswer { point: id(3), outcome })
        .to_vec()
}

impl Sampled for ToNode {
    fn samples() -> Vec<Self> {
        let welcome = |naming| Self::Welcome(Welcome { repo: id(9), now: at(0), naming });
        let assign = |work| Self::Assign { job: id(1), generation: Generation(2), work };
        let mut all = vec![welcome(None), welcome(Some(naming()))];
        all.extend(works().into_iter().map(assign));
        all.extend([
            Self::Cancel { job: id(1) },
            Self::Renewed { chain: vec![vec![0x30, 0x01]] },
            Self::Revoked { revoked: vec![(identity(Role::Agent), at(5))] },
            Self::Refused(refusal(RefusalKind::Unknown)),
        ]);
        let expire = |order| Work::Expire { copy: name("dr"), points: vec![id(3), id(4)], order };
        all.extend([ExpireOrder::Announce, ExpireOrder::Remove].map(expire).map(assign));
        all.extend(healing_works().into_iter().map(assign));
        let work = protecting(Mounts::Cross, None);
        all.push(assign(Work::ProtectBlocks { work, blocks_min: 1 << 15, blocks_max: 3 << 15 }));
        let apps = [
            AppKind::Postgres,
            AppKind::Directory,
            AppKind::Vm,
            AppKind::Mariadb,
            AppKind::Vsphere,
        ];
        all.extend(apps.map(protecting_app).map(Work::ProtectApp).map(assign));
        all.push(Self::ProofNoted { point: id(3), at: at(9) });
        all.push(Self::Lead(lead()));
        let (file, toml) = ("policy.toml".to_owned(), "[policy.p]".to_owned());
        all.push(Self::Policy { version: 7, file, toml });
        all.push(Self::Member(Box::new(MemberQuestion {
            number: 300,
            kind: AppKind::Postgres,
            settings: vec![("user".to_owned(), "backup".to_owned())],
        })));
        let kinds = [DrillKind::Files, DrillKind::Postgres, DrillKind::Vm];
        all.extend(kinds.map(drilling).map(assign));
        let release = |order| {
            let (copy, set, points) = (name("tape"), name("weekly"), vec![id(3), id(4)]);
            Work::Release { copy, set, points, order }
        };
        all.extend([ExpireOrder::Announce, ExpireOrder::Remove].map(release).map(assign));
        all
    }
}

pub(super) fn lead() -> Lead {
    Lead {
        term: Term(2),
        site: name("south"),
        since: Some(at(7)),
        by: vec![identity(Role::Operator), identity(Role::Operator)],
        why: "fire".to_owned(),
    }
}

fn protecting(mounts: Mounts, previous: Option<PointId>) -> Box<ProtectWork> {
    let source = FilesSource {
        path: b"/srv/files".to_vec(),
        exclude: vec!["*.tmp".to_owned()],
        exclude_if_present: vec![".nobackup".to_owned()],
        exclude_larger_bytes: Some(1 << 30),
        mounts,
        pre_hook: vec!["sync".to_owned()],
        post_hook: vec![],
        hook_seconds_max: 60,
    };
    Box::new(ProtectWork {
        workload: id(5),
        name: name("files@north"),
        point: id(3),
        previous,
        source,
        policy: "gold".to_owned(),
        policy_version: 4,
    })
}

fn protecting_app(kind: AppKind) -> Box<AppWork> {
    Box::new(AppWork {
        workload: id(5),
        name: name("crm@north"),
        point: id(3),
        previous: Some(id(2)),
        kind,
        settings: vec![("user".to_owned(), "backup".to_owned())],
        blocks: Some((1 << 15, 3 << 15)),
        policy: "gold".to_owned(),
        policy_version: 4,
    })
}

fn works() -> Vec<Work> {
    let protect = |mounts, previous| Work::Protect(protecting(mounts, previous));
    let recover = |overwrite| {
        Work::Recover(Box::new(RecoverWork {
            point: id(3),
            target: b"/srv/back".to_vec(),
            select: vec!["etc/**".to_owned()],
            overwrite,
        }))
    };
    vec![
        protect(Mounts::Cross, None),
        protect(Mounts::Stay, Some(id(2))),
        recover(Overwrite::Never),
        recover(Overwrite::IfDifferent),
        recover(Overwrite::Always),
        Work::Replicate { point: id(3), bits_per_second_max: Some(100_000_000) },
        Work::Aux { copy: name("tape"), set: name("weekly"), points: vec![id(3), id(4)] },
        Work::Prove { copy: name("tape"), set: Some(name("weekly")), point: id(3) },
        Work::Prove { copy: name("dr"), set: None, point: id(3) },
    ]
}

fn drilling(kind: DrillKind) -> Work {
    Work::Drill(Box::new(DrillWork {
        copy: name("dr"),
        point: id(3),
        workload: name("files@north"),
        kind,
        settings: vec![("query".to_owned(), "SELECT 1".to_owned())],
        seconds_max: 3600,
    }))
}

fn healing_works() -> Vec<Work> {
    vec![
        Work::Heal { packs: vec![pack(0xee)], points: vec![id(3)] },
        Work::Look { copy: name("tape"), set: Some(name("weekly")), points: vec![id(3), id(4)] },
        Work::Look { copy: name("dr"), set: None, points: vec![id(3)] },
    ]
}
