//! What the points of a workload can hold, as far as its part of the policy file tells. A policy
//! that requires what its workload can never hold is refused, with the place and the way out;
//! where only a point can show it, the plan doubts it until one did.

use strongroom_protocol::WorkloadName;
use strongroom_protocol::control::AppKind;

use crate::policy::drill::{kind_of, level_of};
use crate::policy::sheet::{Section, Sheet};
use crate::policy::{AppSource, CopyKind, Declared, FilesSource, Policy, Source, Workload};
use crate::retention::{Consistency, PointFacts, ProofLevel};

/// What points of a workload hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    /// Never more.
    pub most: Consistency,
    /// Never less, as long as everything works.
    pub sure: Consistency,
    /// What decides, and what would reach more.
    pub way: &'static str,
}

const HOOKS: &str = "an application is told only by `pre_hook` and `post_hook`, and a tree is of \
     one moment only on btrfs: elsewhere it is read live";
const SNAPSHOT: &str = "a tree is of one moment only on btrfs; elsewhere it is read live, which \
     is \"fuzzy\"";
const SERVER: &str = "its server is asked each time";
const GUEST: &str = "a guest is made quiet by its guest agent (name its socket as \
     `guest_agent`, or let libvirt reach it; and let `quiesce` not be \"never\"), and only \
     Windows tells its applications";
const TOOLS: &str = "a guest is made quiet by its VMware Tools (let `quiesce` not be \"never\"), \
     and only Windows tells its applications";

impl Reach {
    /// What the points of such a workload hold.
    pub fn of(source: &Source) -> Self {
        match source {
            Source::App(app) => of_app(app),
            Source::Files(files) => of_files(files),
        }
    }
}

const fn of_files(files: &FilesSource) -> Reach {
    let told = !files.pre_hook.is_empty() || !files.post_hook.is_empty();
    let most = if told { Consistency::Application } else { Consistency::Filesystem };
    let way = if told { SNAPSHOT } else { HOOKS };
    Reach { most, sure: Consistency::Fuzzy, way }
}

fn of_app(app: &AppSource) -> Reach {
    let way = match app.kind {
        AppKind::Directory | AppKind::Mariadb | AppKind::Postgres => {
            let most = Consistency::Application;
            return Reach { most, sure: most, way: SERVER };
        }
        AppKind::Vm => GUEST,
        AppKind::Vsphere => TOOLS,
    };
    let asked = app.kind == AppKind::Vsphere
        || ["guest_agent", "libvirt"].iter().any(|key| app.says(key).is_some());
    match app.says("quiesce") {
        Some("never") => Reach { most: Consistency::Crash, sure: Consistency::Crash, way },
        // No point at all is made of one that is not quiet.
        Some("required") => {
            Reach { most: Consistency::Application, sure: Consistency::Filesystem, way }
        }
        _ if asked => Reach { most: Consistency::Application, sure: Consistency::Crash, way },
        _ => Reach { most: Consistency::Crash, sure: Consistency::Crash, way },
    }
}

/// The command that starts the application of such a workload from its points, if there is one.
pub fn proving(source: &Source) -> Option<&'static str> {
    let Source::App(app) = source else { return None };
    match app.kind {
        AppKind::Mariadb => Some("mariadb"),
        // A stretch of log is nothing to start from.
        AppKind::Postgres => (app.says("mode") != Some("wal")).then_some("postgres"),
        AppKind::Vm | AppKind::Vsphere => Some("vm"),
        // Objects are nothing to start from: where the policy says that the whole domain is kept.
        AppKind::Directory => {
            matches!(app.says("domain"), Some("offline" | "online")).then_some("directory")
        }
    }
}

/// Refuses policies that demand of their workloads what those can never hold or show.
pub(super) fn check(sheet: &mut Sheet<'_>, root: &Section<'_>, declared: &Declared) {
    for (word, section) in sheet.named(root, "workload") {
        let workload = word.text.parse::<WorkloadName>().ok();
        let Some(workload) = workload.and_then(|name| declared.workloads.get(&name)) else {
            continue;
        };
        let Some(policy) = declared.policies.get(&workload.policy) else { continue };
        let at = sheet.word(&section, "policy").map_or(word.span, |named| named.span);
        let wrong = beyond(workload, policy).into_iter().chain(beyond_proof(workload, policy));
        for (message, hint) in wrong {
            sheet.wrong(&at, message, Some(hint));
        }
    }
}

/// What a policy requires that this workload can never hold, and the way out.
fn beyond(workload: &Workload, policy: &Policy) -> Option<(String, String)> {
    let reach = Reach::of(&workload.source);
    let (name, require) = (&policy.name, policy.require);
    (require > reach.most).then(|| {
        let (of, most) = (&workload.name, reach.most);
        let message = format!("policy {name} requires {require}; {of} holds {most} at most");
        let hint = format!("{}; or let it use a policy that requires {most}", reach.way);
        (message, hint)
    })
}

/// The proofs a policy demands that nothing makes of this workload, and the way out.
fn beyond_proof(workload: &Workload, policy: &Policy) -> Vec<(String, String)> {
    const WAY: &str = "only `postgres prove`, `mariadb prove`, `vm prove` and (of a domain that is \
         kept whole) `directory prove` start something from a point: let it use a policy without \
         that";
    if proving(&workload.source).is_some() {
        return Vec::new();
    }
    let (of, name) = (&workload.name, &policy.name);
    let beyond = policy.proofs().filter_map(|(copy, prove, kind)| {
        let drilled = policy.copies.get(&copy).is_some_and(|copy| copy.drill.is_some());
        let most = match kind {
            Some(_) if drilled => level_of(kind_of(&workload.source)),
            kind => kind.map_or(ProofLevel::Written, CopyKind::proven_by_reading),
        };
        let level = prove.level;
        (level > most).then(|| {
            format!(
                "policy {name} wants copy {copy} proven {level}; of {of} it is proven {most} at \
                 most"
            )
        })
    });
    let gated = policy.copies.values().filter(|copy| copy.min_proof == ProofLevel::Started);
    let gated = gated.map(|copy| {
        let (copy, level) = (&copy.name, copy.min_proof);
        format!("policy {name} makes copy {copy} of what is proven {level}; nothing of {of} is")
    });
    beyond.chain(gated).map(|message| (message, WAY.to_owned())).collect()
}

/// What a policy requires that only points can show, and that none has shown yet, each in a
/// sentence.
pub fn doubts(declared: &Declared, points: &[PointFacts]) -> Vec<String> {
    let doubted = declared.workloads.values().filter_map(|workload| {
        let policy = declared.policies.get(&workload.policy)?;
        let reach = Reach::of(&workload.source);
        let (of, require, way) = (&workload.name, policy.require, reach.way);
        if require <= reach.sure {
            return None;
        }
        let of_it = points.iter().filter(|point| point.workload == *of);
        match of_it.max_by_key(|point| (point.moment, point.point)) {
            Some(newest) if newest.consistency >= require => None,
            Some(newest) => {
                let holds = newest.consistency;
                Some(format!("{of}: {require} is required, its newest point holds {holds}: {way}"))
            }
            None => Some(format!("{of}: whether it holds {require} its first point shows: {way}")),
        }
    });
    doubted.collect()
}
