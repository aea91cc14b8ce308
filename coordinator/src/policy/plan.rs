//! What an edit of the policy file would change: names, fields, and every copy of every point.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use strongroom_protocol::{CopyName, PolicyName, Timestamp, WorkloadName};

use crate::policy::{
    Bytes, CopyKind, Declared, FilesSource, Member, Members, Policy, Prove, Seconds, Source,
    Workload,
};
use crate::retention::{CopyState, Difference, Keep, Marks, PointFacts, what_if};

/// One consequence of an edit.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Change {
    /// A copy a policy no longer declares, of a workload that has points in it.
    CopyDetached {
        workload: WorkloadName,
        copy: CopyName,
        points: usize,
    },
    /// One copy of one point is judged otherwise.
    Point(Difference),
    PolicyAdded {
        policy: PolicyName,
    },
    PolicyChanged {
        policy: PolicyName,
        field: String,
        old: String,
        new: String,
    },
    PolicyRemoved {
        policy: PolicyName,
    },
    WorkloadAdded {
        workload: WorkloadName,
    },
    WorkloadChanged {
        workload: WorkloadName,
        field: String,
        old: String,
        new: String,
    },
    WorkloadRemoved {
        workload: WorkloadName,
        points: usize,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none_if_empty = |text: &str| -> String {
            if text.is_empty() { "(none)".to_owned() } else { text.to_owned() }
        };
        match self {
            Self::CopyDetached { workload, copy, points } => write!(
                f,
                "workload {workload}: copy {copy} is no longer declared; the {points} points in \
                 it stay until someone decides"
            ),
            Self::Point(difference) => difference.fmt(f),
            Self::PolicyAdded { policy } => write!(f, "policy {policy} is added"),
            Self::PolicyChanged { policy, field, old, new } => {
                let (old, new) = (none_if_empty(old), none_if_empty(new));
                write!(f, "policy {policy}: {field} {old} -> {new}")
            }
            Self::PolicyRemoved { policy } => write!(f, "policy {policy} is removed"),
            Self::WorkloadAdded { workload } => write!(f, "workload {workload} is added"),
            Self::WorkloadChanged { workload, field, old, new } => {
                let (old, new) = (none_if_empty(old), none_if_empty(new));
                write!(f, "workload {workload}: {field} {old} -> {new}")
            }
            Self::WorkloadRemoved { workload, points: 0 } => {
                write!(f, "workload {workload} is removed; it has no points")
            }
            Self::WorkloadRemoved { workload, points } => write!(
                f,
                "workload {workload} is removed; its {points} points stay as they are until \
                 someone decides"
            ),
        }
    }
}

/// Everything that putting `new` in the place of `old` changes: names and fields first, then the
/// points they concern. Nothing is changed by asking.
pub fn plan(
    old: Option<&Declared>,
    new: &Declared,
    points: &[PointFacts],
    marks: &Marks,
    now: Timestamp,
) -> Vec<Change> {
    let nothing = Declared::default();
    let old = old.unwrap_or(&nothing);
    let mut changes = Vec::new();
    plan_policies(old, new, &mut changes);
    plan_workloads(old, new, points, &mut changes);
    plan_detached(old, new, points, &mut changes);
    let differences = what_if(points, &old.rules(), &new.rules(), marks, now);
    changes.extend(differences.into_iter().map(Change::Point));
    changes
}

fn plan_policies(old: &Declared, new: &Declared, changes: &mut Vec<Change>) {
    for (name, policy) in &new.policies {
        let Some(before) = old.policies.get(name) else {
            changes.push(Change::PolicyAdded { policy: name.clone() });
            continue;
        };
        for (field, old, new) in differing(policy_fields(before), policy_fields(policy)) {
            changes.push(Change::PolicyChanged { policy: name.clone(), field, old, new });
        }
    }
    let gone = old.policies.keys().filter(|name| !new.policies.contains_key(*name));
    changes.extend(gone.map(|policy| Change::PolicyRemoved { policy: policy.clone() }));
}

fn plan_workloads(
    old: &Declared,
    new: &Declared,
    points: &[PointFacts],
    changes: &mut Vec<Change>,
) {
    for (name, workload) in &new.workloads {
        let Some(before) = old.workloads.get(name) else {
            changes.push(Change::WorkloadAdded { workload: name.clone() });
            continue;
        };
        for (field, old, new) in differing(workload_fields(before), workload_fields(workload)) {
            changes.push(Change::WorkloadChanged { workload: name.clone(), field, old, new });
        }
    }
    for name in old.workloads.keys().filter(|name| !new.workloads.contains_key(*name)) {
        let points = points.iter().filter(|point| point.workload == *name).count();
        changes.push(Change::WorkloadRemoved { workload: name.clone(), points });
    }
}

fn plan_detached(old: &Declared, new: &Declared, points: &[PointFacts], changes: &mut Vec<Change>) {
    for name in new.workloads.keys() {
        let copies = |declared: &Declared| -> BTreeSet<CopyName> {
            let policy = declared.policy_of(name);
            policy.map(|policy| policy.copies.keys().cloned().collect()).unwrap_or_default()
        };
        for copy in copies(old).difference(&copies(new)) {
            let there = points.iter().filter(|point| {
                point.workload == *name
                    && point.copy(copy).is_some_and(|facts| facts.state == CopyState::Present)
            });
            let (workload, copy) = (name.clone(), copy.clone());
            changes.push(Change::CopyDetached { workload, copy, points: there.count() });
        }
    }
}

type Fields = BTreeMap<String, String>;

fn differing(old: Fields, mut new: Fields) -> Vec<(String, String, String)> {
    let mut changed = Vec::new();
    for (field, before) in old {
        let after = new.remove(&field).unwrap_or_default();
        if before != after {
            changed.push((field, before, after));
        }
    }
    let added = new.into_iter().filter(|(_, after)| !after.is_empty());
    changed.extend(added.map(|(field, after)| (field, String::new(), after)));
    changed
}

fn listed<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn keep_text(keep: &Keep) -> String {
    let mut parts = Vec::new();
    if keep.newest > 0 {
        parts.push(format!("newest {}", keep.newest));
    }
    let buckets = keep.gfs.iter().filter(|(_, count)| **count > 0);
    parts.extend(buckets.map(|(period, count)| format!("{} {count}", period.plural())));
    parts.extend(keep.min_age_seconds.map(|age| format!("min_age {}", Seconds(age))));
    let after = keep.after.iter();
    parts.extend(after.map(|a| format!("{} after {}", Seconds(a.keep_seconds), a.event)));
    parts.join(", ")
}

fn prove_text(prove: Option<Prove>) -> String {
    prove.map(|prove| prove.to_string()).unwrap_or_default()
}

fn policy_fields(policy: &Policy) -> Fields {
    let mut fields = Fields::new();
    let mut put = |field: String, text: String| fields.insert(field, text);
    put("schedule".into(), listed(&policy.schedule));
    put("timezone".into(), policy.timezone.iana_name().unwrap_or("UTC").to_owned());
    put("require".into(), policy.require.to_string());
    put("grace".into(), Seconds(policy.grace_seconds).to_string());
    put("primary.keep".into(), keep_text(&policy.primary));
    put("primary.prove".into(), prove_text(policy.primary_prove));
    for copy in policy.copies.values() {
        let mut of_copy = |field: &str, text: String| {
            put(format!("copy.{}.{field}", copy.name), text);
        };
        of_copy("kind", copy.kind.as_str().to_owned());
        if let CopyKind::Aux { media_set } = &copy.kind {
            of_copy("media_set", media_set.to_string());
        }
        of_copy("from", copy.from.to_string());
        of_copy("node", copy.node.to_string());
        of_copy("keep", keep_text(&copy.keep));
        of_copy("min_proof", copy.min_proof.to_string());
        of_copy("prove", prove_text(copy.prove));
        of_copy("drill", copy.drill.as_ref().map(ToString::to_string).unwrap_or_default());
        of_copy("throttle", listed(&copy.throttle));
        of_copy("window", listed(&copy.window));
        of_copy("defer", Seconds(copy.defer_seconds).to_string());
        of_copy("every", copy.every.map_or("", |period| period.as_str()).to_owned());
    }
    fields
}

fn workload_fields(workload: &Workload) -> Fields {
    let common = [
        ("agent", workload.agent.to_string()),
        ("policy", workload.policy.to_string()),
        ("kind", workload.source.kind().to_owned()),
    ];
    let common = common.into_iter().map(|(field, text)| (field.to_owned(), text));
    let common = common.chain(workload.members.iter().flat_map(member_fields));
    let asked = workload.drill.iter().map(|(key, text)| format!("{key} {text}"));
    let asked = ("drill".to_owned(), asked.collect::<Vec<_>>().join("; "));
    let common = common.chain([asked]);
    match &workload.source {
        Source::App(app) => {
            let mut fields: Fields = common.collect();
            for (key, value) in &app.settings {
                let text = fields.entry(key.clone()).or_default();
                text.push_str(if text.is_empty() { "" } else { ", " });
                text.push_str(value);
            }
            fields
        }
        Source::Files(files) => common.chain(files_fields(files)).collect(),
    }
}

fn member_fields(members: &Members) -> Vec<(String, String)> {
    let names: Vec<&str> = members.of.iter().map(|member| member.name.as_str()).collect();
    let mut fields = vec![("order".to_owned(), names.join(", "))];
    for Member { name, agent, settings } in &members.of {
        fields.push((format!("member.{name}.agent"), agent.to_string()));
        let own = settings.iter().map(|(key, text)| (format!("member.{name}.{key}"), text.clone()));
        fields.extend(own);
    }
    fields
}

fn files_fields(files: &FilesSource) -> impl Iterator<Item = (String, String)> {
    let larger = files.exclude_larger_bytes.map(|bytes| Bytes(bytes).to_string());
    let pairs = [
        ("path", files.path.clone()),
        ("exclude", listed(&files.exclude)),
        ("exclude_if_present", listed(&files.exclude_if_present)),
        ("exclude_larger", larger.unwrap_or_default()),
        ("one_file_system", files.one_file_system.to_string()),
        ("pre_hook", files.pre_hook.join(" ")),
        ("post_hook", files.post_hook.join(" ")),
        ("hook_deadline", Seconds(u64::from(files.hook_seconds_max)).to_string()),
    ];
    pairs.into_iter().map(|(field, text)| (field.to_owned(), text))
}
