//! The `drill` of a copy, and that of a workload.

use strongroom_protocol::drill::DrillKind;

use crate::policy::drill::{Drill, kind_of};
use crate::policy::read::read_cadences;
use crate::policy::sheet::{Section, Sheet};
use crate::policy::{CopyKind, Seconds, Source};

/// A drill may take so long unless the policy says otherwise.
const WITHIN_SECONDS_DEFAULT: u32 = 4 * 3600;
/// And at most so long: two days.
const WITHIN_SECONDS_MAX: u64 = 48 * 3600;
/// Proofs more often than this would be all that is done.
const AGE_SECONDS_MIN: u64 = 3600;

const EXAMPLE: &str = "drill = { schedule = \"weekly sunday 03:00\", age = \"14d\" }";

/// The `drill` of a copy of this kind.
pub(super) fn read_rule(
    sheet: &mut Sheet<'_>,
    copy: &Section<'_>,
    kind: Option<&CopyKind>,
) -> Option<Drill> {
    let rule = sheet.section(copy, "drill")?;
    sheet.only(&rule, &["schedule", "recovery", "age", "within"]);
    if matches!(kind, Some(CopyKind::Aux { .. })) {
        let message = format!("{} is on media: a drill is of a secondary snap", copy.name);
        sheet.wrong(&rule.span, message, None);
    }
    for key in ["schedule", "age"] {
        if rule.table.get(key).is_none() {
            sheet.missing(&rule, key, EXAMPLE);
        }
    }
    let schedule = read_cadences(sheet, &rule);
    let recovery = sheet.value::<Seconds>(&rule, "recovery");
    let age = sheet.value::<Seconds>(&rule, "age");
    if age.is_some_and(|Seconds(seconds)| seconds < AGE_SECONDS_MIN) {
        let message = format!("`age` in {} is at least {}", rule.name, Seconds(AGE_SECONDS_MIN));
        sheet.wrong(&rule.span, message, None);
    }
    let within = sheet.value::<Seconds>(&rule, "within");
    if within.is_some_and(|Seconds(seconds)| !(1..=WITHIN_SECONDS_MAX).contains(&seconds)) {
        let most = Seconds(WITHIN_SECONDS_MAX);
        sheet.wrong(&rule.span, format!("`within` in {} is 1s to {most}", rule.name), None);
    }
    let within = within.and_then(|Seconds(seconds)| u32::try_from(seconds).ok());
    (!schedule.is_empty()).then_some(())?;
    Some(Drill {
        schedule,
        recovery_seconds_max: recovery.map(|Seconds(seconds)| seconds),
        age_seconds_max: age?.0,
        seconds_max: within.unwrap_or(WITHIN_SECONDS_DEFAULT),
    })
}

/// The keys of a workload's `drill`, as the drill at the proxy understands them.
const fn keys(kind: DrillKind) -> &'static [&'static str] {
    match kind {
        DrillKind::Files => &[],
        DrillKind::Postgres => &["query", "database", "superuser", "bin", "patience"],
        DrillKind::Vm => {
            &["check", "patience", "boot_kernel", "boot_initrd", "boot_append", "accel"]
        }
    }
}

/// The `drill` of a workload: key and value, lists as their key repeated.
pub(super) fn read_asking(
    sheet: &mut Sheet<'_>,
    workload: &Section<'_>,
    source: &Source,
) -> Vec<(String, String)> {
    let Some(asking) = sheet.section(workload, "drill") else { return Vec::new() };
    let known = keys(kind_of(source));
    if known.is_empty() {
        let message = format!(
            "nothing can be asked in {}: a drill of it mounts the point and compares everything",
            asking.name
        );
        sheet.wrong(&asking.span, message, None);
        return Vec::new();
    }
    sheet.only(&asking, known);
    let mut settings = Vec::new();
    for key in known {
        match *key {
            "patience" => {
                let patience = sheet.value::<Seconds>(&asking, key);
                settings.extend(patience.map(|Seconds(s)| ((*key).to_owned(), s.to_string())));
            }
            "accel" => {
                let word = sheet.choice(&asking, key, &[("kvm", "kvm"), ("tcg", "tcg")]);
                settings.extend(word.map(|word| ((*key).to_owned(), word.to_owned())));
            }
            _ => {
                let words = sheet.words(&asking, key);
                let texts = words.iter().map(|word| ((*key).to_owned(), word.text.to_owned()));
                settings.extend(texts);
            }
        }
    }
    let has = |key: &str| settings.iter().any(|(known, _)| known == key);
    if has("boot_kernel") != has("boot_initrd") {
        let message = format!("{} needs both `boot_kernel` and `boot_initrd`", asking.name);
        sheet.wrong(&asking.span, message, None);
    }
    settings
}
