//! The workloads of a policy file.

use std::collections::BTreeMap;

use strongroom_protocol::control::AppKind;
use strongroom_protocol::{PolicyName, WorkloadName};

use crate::policy::problem::nearest;
use crate::policy::read_drill::read_asking;
use crate::policy::sheet::{Section, Sheet, Word};
use crate::policy::{Bytes, FilesSource, HOOK_SECONDS_DEFAULT, Seconds, Source, Workload};
use crate::policy::{read_app, read_members};

/// Longest a hook may run: the application waits for it.
const HOOK_SECONDS_MAX: u64 = 3600;

const COMMON_KEYS: &[&str] = &["agent", "kind", "policy", "drill"];
const FILES_KEYS: &[&str] = &[
    "path",
    "exclude",
    "exclude_if_present",
    "exclude_larger",
    "one_file_system",
    "pre_hook",
    "post_hook",
    "hook_deadline",
];
/// Kinds the product names elsewhere and does not yet protect.
const KINDS_TO_COME: &[&str] = &["lun", "volume"];
/// Kinds it protects.
const KINDS: [&str; 6] = ["files", "postgres", "directory", "vm", "mariadb", "vsphere"];

/// Every workload; `policies` are the names the file declares, sound or not.
pub(super) fn read_workloads(
    sheet: &mut Sheet<'_>,
    root: &Section<'_>,
    policies: &[&str],
) -> BTreeMap<WorkloadName, Workload> {
    let mut workloads = BTreeMap::new();
    for (word, section) in sheet.named(root, "workload") {
        if let Some(workload) = read_workload(sheet, &word, &section, policies) {
            workloads.insert(workload.name.clone(), workload);
        }
    }
    workloads
}

fn read_workload(
    sheet: &mut Sheet<'_>,
    word: &Word<'_>,
    section: &Section<'_>,
    policies: &[&str],
) -> Option<Workload> {
    let app = sheet.word(section, "kind").and_then(|word| app_kind(word.text));
    let mut known: Vec<&str> = match app {
        Some(kind) => COMMON_KEYS.iter().copied().chain(read_app::keys(kind)).collect(),
        None => COMMON_KEYS.iter().chain(FILES_KEYS).copied().collect(),
    };
    if read_members::may_have(app) {
        known.extend(read_members::KEYS);
    }
    sheet.only(section, &known);
    if let Some(kind) = app.filter(|app| read_members::may_have(Some(*app)))
        && section.table.get("member").is_some()
    {
        let (name, policy) = (sheet.parsed(word), read_policy_name(sheet, section, policies));
        let (members, source) = read_members::read(sheet, section, kind)?;
        let (agent, source) = (members.of.first()?.agent.clone(), Source::App(source));
        let drill = read_asking(sheet, section, &source);
        return Some(Workload {
            name: name?,
            agent,
            policy: policy?,
            source,
            members: Some(members),
            drill,
        });
    }
    if let Some(word) = sheet.words(section, "order").first().filter(|_| app.is_some()) {
        let message = format!("{} has an `order`, and no members", section.name);
        sheet.wrong(&word.span, message, None);
    }
    for (key, example) in [
        ("agent", "agent = \"fs1\""),
        ("kind", "kind = \"files\""),
        ("policy", "policy = \"standard\""),
    ] {
        if section.table.get(key).is_none() {
            sheet.missing(section, key, example);
        }
    }
    let name = sheet.parsed(word);
    let agent = sheet.value(section, "agent");
    let policy = read_policy_name(sheet, section, policies);
    let source = read_source(sheet, section)?;
    let drill = read_asking(sheet, section, &source);
    Some(Workload { name: name?, agent: agent?, policy: policy?, source, members: None, drill })
}

fn read_policy_name(
    sheet: &mut Sheet<'_>,
    section: &Section<'_>,
    policies: &[&str],
) -> Option<PolicyName> {
    let word = sheet.word(section, "policy")?;
    if !policies.contains(&word.text) {
        let hint = nearest(word.text, policies.iter().copied());
        let message =
            format!("{} names a policy that is not declared: {}", section.name, word.text);
        sheet.wrong(&word.span, message, hint);
        return None;
    }
    sheet.parsed(&word)
}

fn read_source(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Option<Source> {
    let word = sheet.word(section, "kind")?;
    match word.text {
        "files" => read_files(sheet, section).map(Source::Files),
        kind if KINDS_TO_COME.contains(&kind) => {
            let message = format!("workloads of kind {kind:?} cannot be protected yet");
            let hint = format!("the kinds so far: {}", KINDS.join(", "));
            sheet.wrong(&word.span, message, Some(hint));
            None
        }
        kind => {
            let Some(app) = app_kind(kind) else {
                let message = format!("{kind:?} is no kind of workload: {}", KINDS.join(", "));
                sheet.wrong(&word.span, message, nearest(kind, KINDS));
                return None;
            };
            read_app::read(sheet, section, app).map(Source::App)
        }
    }
}

fn app_kind(word: &str) -> Option<AppKind> {
    let kinds =
        [AppKind::Postgres, AppKind::Directory, AppKind::Vm, AppKind::Mariadb, AppKind::Vsphere];
    kinds.into_iter().find(|kind| kind.as_str() == word)
}

fn read_files(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Option<FilesSource> {
    if section.table.get("path").is_none() {
        sheet.missing(section, "path", "path = \"/srv/docs\"");
    }
    let path = sheet.word(section, "path");
    if let Some(path) = &path
        && (!path.text.starts_with('/') || path.text.contains('\0'))
    {
        let message = format!("{:?} is not an absolute path", path.text);
        sheet.wrong(&path.span, message, None);
    }
    let list = |sheet: &mut Sheet<'_>, key: &str| -> Vec<String> {
        sheet.words(section, key).into_iter().map(|word| word.text.to_owned()).collect()
    };
    let exclude = list(sheet, "exclude");
    let exclude_if_present = list(sheet, "exclude_if_present");
    let pre_hook = list(sheet, "pre_hook");
    let post_hook = list(sheet, "post_hook");
    let larger = sheet.value::<Bytes>(section, "exclude_larger");
    let one_file_system = sheet.flag(section, "one_file_system").unwrap_or(true);
    let hook_seconds_max = read_deadline(sheet, section);
    Some(FilesSource {
        path: path?.text.to_owned(),
        exclude,
        exclude_if_present,
        exclude_larger_bytes: larger.map(|Bytes(bytes)| bytes),
        one_file_system,
        pre_hook,
        post_hook,
        hook_seconds_max,
    })
}

fn read_deadline(sheet: &mut Sheet<'_>, section: &Section<'_>) -> u32 {
    let Some(word) = sheet.word(section, "hook_deadline") else { return HOOK_SECONDS_DEFAULT };
    let Some(Seconds(seconds)) = sheet.parsed(&word) else { return HOOK_SECONDS_DEFAULT };
    if !(1..=HOOK_SECONDS_MAX).contains(&seconds) {
        let message = format!("a hook may run 1s to {}", Seconds(HOOK_SECONDS_MAX));
        sheet.wrong(&word.span, message, None);
    }
    u32::try_from(seconds).unwrap_or(HOOK_SECONDS_DEFAULT)
}
